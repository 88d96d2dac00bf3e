"""Command lines that do what was clicked: trainer.fit with what differs from the preset, trainer.predict."""

import shlex
from dataclasses import fields
from pathlib import Path

from napari_scribblemamba._settings_panel import differences, preset_of
from trainer.config import PRESETS, Config


def fit_command(config: Config, dataset: Path, out: Path, start: Path | None = None) -> str:
    """For a shell; `dataset` is what Export strokes has written, `start` the run that this one begins with."""
    preset = preset_of(config)
    changed = set(differences(PRESETS[preset], config))
    flags = [word for f in fields(Config) if f.name in changed for word in flag(f.name, getattr(config, f.name))]
    begin = [] if start is None else ["--start", str(start)]
    command = ["python", "-m", "trainer.fit", str(dataset), "--out", str(out), *begin, "--preset", preset, *flags]
    return shlex.join(command)


def predict_command(run: Path, images: Path, out: Path) -> str:
    """For a shell; what Predict folder does with a saved run."""
    return shlex.join(
        ["python", "-m", "trainer.predict", "--run", str(run), "--images", str(images), "--out", str(out)]
    )


def flag(name: str, value: object) -> list[str]:
    """As tyro reads it: ("mixed_precision", False) -> ["--no-mixed-precision"]."""
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", *([str(each) for each in value] if isinstance(value, tuple) else [str(value)])]
