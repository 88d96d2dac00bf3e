"""Images that nobody drew on: what looks there like the strokes on others, until the networks know better.

A forest learns from what was drawn on all images within a second. Networks take tens of seconds to be as good, where
looks tell the classes apart.

C channels · K classes · H W pixels · P probabilities (K, H, W) · IGNORE where nobody drew
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trainer.appearance import Drawn, Forest
from trainer.propagation import as_stack, looks_of, pixels_of
from trainer.run import Run, unchanged
from trainer.sample import IGNORE, Sample, loaded

STEPS = 400  # of a training, over which the networks' say grows from nothing to all
VALUES = 100_000  # of an image, that tell its mean and deviation


@dataclass(frozen=True, eq=False)
class Known:
    """What was drawn on a sample."""

    sample: Sample
    pixels: list[Drawn]  # of each of its slices that has strokes


class Settled(NamedTuple):
    """What is left of a Likeness when its run is over."""

    forest: Forest | None
    say: float


class Likeness:
    """What a run's strokes say of images that have none; it follows the run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._forest: Forest | None = None
        self._known: dict[str, Known] = {}  # by the sample's name

    @property
    def say(self) -> float:
        """0..1, of the looks beside the networks: none where these had learnt before."""
        return max(0.0, 1 - self.run.iteration / STEPS) if self.run.start is None else 0.0

    @property
    def forest(self) -> Forest | None:
        """Of what is drawn now; None where that is less than two classes."""
        known = {s.name: self._look(s) for s in self.run.samples if (s.target != IGNORE).any()}
        if known != self._known:
            self._known, drawn = known, [pixels for each in known.values() for pixels in each.pixels]
            classes = np.unique(np.concatenate([labels for _, labels in drawn])) if drawn else []
            self._forest = Forest(drawn, len(self.run.classes)) if len(classes) > 1 else None
        return self._forest

    def settled(self, anew: bool = False) -> Settled:
        """As it was last asked; or as it is now, for which what was drawn since is read."""
        forest = self.forest if anew and self.say else self._forest
        return Settled(forest, self.say if forest else 0.0)

    def _look(self, sample: Sample) -> Known:
        """As before where nothing has changed: features take a tenth of a second a slice."""
        before = self._known.get(sample.name)
        return before if before is not None and unchanged(before.sample, sample) else Known(sample, drawn_on(sample))


def drawn_on(sample: Sample) -> list[Drawn]:
    """Of each slice with strokes."""
    read = loaded(sample)
    image, target = as_stack(read)
    like = image if read.like is None else read.like
    drawn = [z for z, strokes in enumerate(target) if (strokes != IGNORE).any()]
    return [pixels_of(scaled(image[:, z], like), target[z]) for z in drawn]


def with_likeness(P: np.ndarray, plane: np.ndarray, like: np.ndarray, likeness: Likeness | Settled) -> np.ndarray:
    """P of the networks and the forest's together. plane: (C, H, W) of an image with the intensities like (C, ...)."""
    say, forest = np.float32(likeness.say), likeness.forest if likeness.say else None
    if forest is None:
        return P
    return (1 - say) * P + say * looks_of(forest, scaled(plane, like))


def scaled(plane: np.ndarray, like: np.ndarray) -> np.ndarray:
    """(C, H, W) by mean and deviation of its image: intensities like (C, ...)."""
    values = like.reshape(len(like), -1)
    values = values[:, :: max(1, values.shape[1] // VALUES)]
    mean, deviation = (np.float32(each(values, axis=1)).reshape(-1, 1, 1) for each in (np.mean, np.std))
    return (plane - mean) / deviation.clip(1e-6)
