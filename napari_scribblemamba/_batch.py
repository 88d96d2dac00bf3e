"""A folder of images labelled by the model at hand, as python -m trainer.predict does it. No Qt, torch when it runs."""

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer import Model
    from trainer.labelling import Step

NAMED = 3  # errors that are told; the log has all


@dataclass
class Batch:
    """What became of the images so far."""

    out: Path
    written: list[Path] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)  # image -> why it could not be labelled
    fraction: float = 0.0

    def take(self, step: "Step") -> None:
        self.fraction = step.fraction
        if step.file is not None:
            self.written.append(step.file)
        if step.error:
            self.errors[step.case] = step.error

    def summary(self) -> str:
        """ "12 images labelled in OUT", and what went wrong."""
        count = len(self.written)
        lines = [f"{count} image{'s' * (count != 1)} labelled in {self.out}"]
        if self.fraction < 1:
            lines[0] += ", then stopped"
        if self.errors:
            lines.append(f"{len(self.errors)} could not be labelled:")
            lines += [f"{case}: {error}" for case, error in list(self.errors.items())[:NAMED]]
            lines += [f"and {len(self.errors) - NAMED} more"] if len(self.errors) > NAMED else []
        return "\n".join(lines)


def labelling(model: "Model", images: Path, out: Path) -> Generator["Step", None, None]:
    """In the thread. ValueError or OSError where the folder as a whole cannot be used."""
    from trainer.dataset import find_cases
    from trainer.labelling import label_images

    yield from label_images(model, find_cases(images, plain=True), out)
