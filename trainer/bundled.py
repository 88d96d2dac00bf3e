"""Models that come with the package: run folders with a card, called bundled:NAME wherever a run is asked for.

models/NAME/weights.safetensors  float16
models/NAME/config.json          as of any run
models/NAME/card.json            what it is, what it was trained on, how good it is, what one may do with it
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from trainer.formats import read_json

FOLDER = Path(__file__).with_name("models")
PREFIX = "bundled:"
CARD = "card.json"
Scores = dict[str, dict[str, float]]  # kind of image -> who was scored ("model", or what it is compared with) -> score


@dataclass(frozen=True)
class Card:
    """What is to be known of a trained run before one uses it."""

    title: str
    about: str  # what it finds, for whom, and what it cannot do
    images: str  # what goes in
    networks: tuple[str, ...]
    classes: tuple[str, ...]
    trained_on: str
    data_licence: str
    score: str  # what the scores measure, and on which images
    scores: Scores
    scored_by: str  # the command that prints them
    made_by: str  # the command that trains it again
    licence: str  # of the weights
    parameters: int
    sha256: str  # of weights.safetensors

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "Card":
        """ValueError where fields are missing or unknown."""
        known = {field.name for field in dataclasses.fields(cls)}
        if wrong := sorted(known ^ set(values)):
            raise ValueError(f"fields missing or unknown: {', '.join(wrong)}; a card has {', '.join(sorted(known))}")
        lists = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**lists)

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def card(folder: Path) -> Card | None:
    """The card of a run folder, if it has one; most have none. ValueError names a file that is no card."""
    file = folder / CARD
    if not file.is_file():
        return None
    try:
        return Card.from_dict(read_json(file))
    except ValueError as e:
        raise ValueError(f"{file} is not the card of a run: {e}") from e


def bundled() -> dict[str, Path]:
    """Name -> run folder of every model that came with this package, in the order of their names."""
    return {file.parent.name: file.parent for file in sorted(FOLDER.glob(f"*/{CARD}"))}


def run_folder(text: Path | str) -> Path:
    """The folder of "bundled:NAME"; any other text is a path. ValueError for a name that nothing is bundled under."""
    text = str(text)
    if not text.startswith(PREFIX):
        return Path(text)
    name, there = text.removeprefix(PREFIX), bundled()
    if name not in there:
        raise ValueError(f"no model {name!r} is bundled; there is {', '.join(there) or 'none in this installation'}")
    return there[name]
