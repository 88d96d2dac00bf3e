"""The models that one can take up: those that come with the package, and the runs that were saved or loaded here."""

import logging
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

from napari_scribblemamba import _preferences
from trainer.bundled import Card, bundled, card
from trainer.config import Config, read_config

RUNS = "runs"  # among the preferences: the folders, the newest first
MOST = 20  # of them that are remembered
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A model of the list."""

    title: str
    folder: Path
    text: str  # what is known of it, for people, as simple HTML
    bundled: bool = False


def entries() -> list[Entry]:
    """The bundled ones, then the saved ones, the newest first; runs that are gone are left out."""
    found = [_entry(folder, name, True) for name, folder in bundled().items()]
    found += [_entry(folder, folder.name) for folder in recent()]
    return [entry for entry in found if entry is not None]


def recent() -> list[Path]:
    """Folders of runs that were saved or loaded here, as far as they are still there."""
    return [folder for folder in map(Path, _preferences.remembered(RUNS, [])) if is_run(folder)]


def remember(folder: Path) -> None:
    """Put a run at the head of the list; bundled ones are there anyway."""
    folder = folder.resolve()
    if folder not in bundled().values():
        others = [each for each in _preferences.remembered(RUNS, []) if Path(each) != folder]
        _preferences.remember(RUNS, [str(folder), *others][:MOST])


def forget(folder: Path) -> None:
    """Take a run out of the list; its files stay."""
    others = [each for each in _preferences.remembered(RUNS, []) if Path(each) != folder.resolve()]
    _preferences.remember(RUNS, others)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a trained model: settings and weights, those of an unfinished run too."""
    weights = ("weights.safetensors", "checkpoint.safetensors")
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in weights)


def _entry(folder: Path, title: str, comes_along: bool = False) -> Entry | None:
    """None, and a line in the log, where its files cannot be read."""
    try:
        config, classes, channels = read_config(folder / "config.json")
        known = card(folder)
        lines = _of_card(known) if known else _of_run(folder, config)
    except (ValueError, OSError) as e:
        log.warning("%s", e)
        return None
    rows = {"Networks": ", ".join(config.names), "Classes": ", ".join(classes), "Channels": str(channels)}
    text = "<br>".join(f"<b>{escape(name)}</b> {escape(value)}" for name, value in {**rows, **lines}.items() if value)
    return Entry(known.title if known else title, folder, text, comes_along)


def _of_card(card: Card) -> dict[str, str]:
    return {
        "Finds": card.about,
        "Takes": card.images,
        "Trained on": f"{card.trained_on} ({card.data_licence})",
        "Scores": "; ".join([card.score, *(f"{kind}: {_numbers(each)}" for kind, each in card.scores.items())]),
        "Licence": card.licence,
    }


def _numbers(scores: dict[str, float]) -> str:
    return ", ".join(f"{who} {score:.2f}" for who, score in scores.items())


def _of_run(folder: Path, config: Config) -> dict[str, str]:
    """Of a run without a card."""
    saved = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / "config.json").stat().st_mtime))
    views = f"{'volumes' if len(config.patch) == 3 else 'slices'} of {' x '.join(map(str, config.patch))}"
    return {
        "Trained by": f"{config.objective.replace('_', ' ')}, size {config.size}, {views}",
        "Saved": f"{saved}, in {folder}",
        "Scores": "none are kept with it; compare it with labels of your own",
    }
