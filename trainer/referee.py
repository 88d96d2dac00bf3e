"""Referee: holds out some strokes, whole ones, and scores networks on them, with an interval by bootstrap.

A stroke is a connected piece of one class in one slice. Bootstrap: Efron and Tibshirani 1993, ch. 13 (percentiles);
it draws strokes, not pixels, for neighbouring pixels are right or wrong together.

K classes · n strokes · target uint8 (*space), IGNORE where nobody drew
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage as ndi

from trainer.annotator import as_slices
from trainer.sample import IGNORE, Sample
from trainer.stack import Part

SHARE = 0.15  # of the strokes are held out
ENOUGH = 4  # strokes of a class, from which on one of them is always held out
DRAWS = 1000  # of the bootstrap
CONFIDENCE = 95  # percent, of the interval


@dataclass(frozen=True, eq=False)
class Stroke:
    slice: int  # along the first axis; 0 of a 2-D image
    label: int
    pixels: np.ndarray  # (N, 2) rows and columns, in reading order


@dataclass(frozen=True, eq=False)
class Answers:
    """What networks said of strokes that they had not seen."""

    truth: np.ndarray  # (n,) class of each stroke
    counts: dict[str, np.ndarray]  # network -> (n, K): how many pixels of the stroke it takes for each class


@dataclass(frozen=True)
class Score:
    """On held-out strokes of a class, or the mean over classes; the interval is that of the F1."""

    accuracy: float  # share of the class's pixels that are found
    f1: float  # Dice on the held-out pixels of all classes
    low: float
    high: float
    strokes: int


@dataclass(frozen=True)
class Verdict:
    """Network -> Score of each class, None for one of which nothing is held out; and the mean over the others."""

    classes: dict[str, tuple[Score | None, ...]]
    mean: dict[str, Score | None]

    @property
    def best(self) -> str | None:
        """The network with the highest mean F1, of equals the first; None where nothing is held out."""
        scored = {name: score.f1 for name, score in self.mean.items() if score is not None}
        return max(scored, key=scored.get) if scored else None


# ---- holding out ----


def split(sample: Sample, seed: int = 0) -> tuple[Sample, np.ndarray]:
    """The sample without the strokes that are held out, and these as a target uint8 (*space).

    Each stroke has a lot of its own, drawn from the seed and its first pixel, and is held out where that is below
    SHARE; so new strokes do not change what becomes of the others. A class keeps at least one stroke, and from ENOUGH
    on gives the one with the lowest lot where none was below.
    """
    held = np.full_like(sample.target, IGNORE)
    for stroke in chosen(strokes_of(sample.target), seed, sample.part):
        as_slices(held)[stroke.slice][tuple(stroke.pixels.T)] = stroke.label
    return replace(sample, target=np.where(held == IGNORE, sample.target, IGNORE)), held


def strokes_of(target: np.ndarray) -> list[Stroke]:
    """Connected pieces (8 neighbours) of each class in each slice."""
    return [
        Stroke(z, int(c), pixels)
        for z, plane in enumerate(as_slices(target))
        for c in np.unique(plane[plane != IGNORE])
        for pixels in pieces(plane == c)
    ]


def pieces(mask: np.ndarray) -> Iterator[np.ndarray]:
    """Pixels (N, 2) of each connected piece of (H, W)."""
    numbers, _ = ndi.label(mask, np.ones((3, 3)))
    for number, box in enumerate(ndi.find_objects(numbers), 1):
        yield np.argwhere(numbers[box] == number) + [side.start for side in box]


def chosen(strokes: Sequence[Stroke], seed: int, part: Part | None = None) -> list[Stroke]:
    """Those to hold out."""
    found = []
    for c in sorted({stroke.label for stroke in strokes}):
        ranked = sorted((lot(stroke, seed, part), i) for i, stroke in enumerate(strokes) if stroke.label == c)
        below = sum(value < SHARE for value, _ in ranked)
        count = min(max(below, int(len(ranked) >= ENOUGH)), len(ranked) - 1)
        found += [strokes[i] for _, i in ranked[:count]]
    return found


def lot(stroke: Stroke, seed: int, part: Part | None = None) -> float:
    """0..1, the same whatever else is drawn, and of a part of a large stack, however the part has grown."""
    z, corner = (stroke.slice, (0, 0)) if part is None else (part.slices[stroke.slice], part.corner)
    return np.random.default_rng([seed, stroke.label, z, *(stroke.pixels[0] + corner)]).random()


# ---- scoring ----


def answers(probabilities: Mapping[str, np.ndarray], held: np.ndarray) -> Answers:
    """What networks {name: P (K, *space)} say of an image's held-out strokes; small, so that images can be joined."""
    strokes = strokes_of(held)
    K = len(next(iter(probabilities.values())))
    counts = {name: np.zeros((len(strokes), K), int) for name in probabilities}
    for name, P in probabilities.items():
        planes = P if P.ndim == 4 else P[:, None]  # (K, D, H, W)
        for i, stroke in enumerate(strokes):
            said = planes[(slice(None), stroke.slice, *stroke.pixels.T)].argmax(0)
            counts[name][i] = np.bincount(said, minlength=K)
    return Answers(np.array([stroke.label for stroke in strokes], int), counts)


def joined(images: Sequence[Answers]) -> Answers:
    """Of several images; of the networks that have answered for all."""
    names = [name for name in images[0].counts if all(name in each.counts for each in images)]
    truth = np.concatenate([each.truth for each in images])
    return Answers(truth, {name: np.concatenate([each.counts[name] for each in images]) for name in names})


def score(probabilities: Mapping[str, np.ndarray], held: np.ndarray, seed: int = 0) -> Verdict:
    """Of one image: P (K, *space) of each network against its held-out strokes."""
    return verdict(answers(probabilities, held), seed)


def verdict(answers: Answers, seed: int = 0) -> Verdict:
    """Score of each network and class, and the mean over classes, each with its interval.

    A bootstrap draws as many strokes of each class as there are, the same for every network. Where a class has a
    single stroke nothing is known of the spread, and the interval is all of 0..1.
    """
    times = draws(answers.truth, np.random.default_rng(seed))
    tables = {name: Table(answers.truth, counts, times) for name, counts in answers.counts.items()}
    classes = {name: tuple(table.score([c]) for c in range(table.K)) for name, table in tables.items()}
    return Verdict(classes, {name: table.score(range(table.K)) for name, table in tables.items()})


class Table:
    """One network's pixels by class, of all held-out strokes and of each bootstrap draw of them."""

    def __init__(self, truth: np.ndarray, counts: np.ndarray, times: np.ndarray) -> None:
        """truth (n,), counts (n, K), times (DRAWS, n)."""
        self.K = counts.shape[1]
        self.strokes = np.bincount(truth, minlength=self.K)
        once = confusion(np.ones((1, len(truth))), truth, counts)
        self.accuracy, self.f1 = accuracy(once)[0], f1(once)[0]  # (K,)
        self.drawn = f1(confusion(times, truth, counts))  # (DRAWS, K)

    def score(self, classes: Sequence[int]) -> Score | None:
        """Mean over those of the classes of which something is held out."""
        held = [c for c in classes if self.strokes[c]]
        if not held:
            return None
        known = (self.strokes[held] > 1).all()
        low, high = interval(self.drawn[:, held].mean(1)) if known else (0.0, 1.0)
        means = (float(values[held].mean()) for values in (self.accuracy, self.f1))
        return Score(*means, low, high, int(self.strokes[held].sum()))


def draws(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(DRAWS, n): how often each stroke is drawn; of each class as many as there are."""
    times = np.zeros((DRAWS, len(truth)))
    for c in np.unique(truth):
        own = np.flatnonzero(truth == c)
        times[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), DRAWS)
    return times


def confusion(times: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(draws, K, K): pixels of each class (rows) taken for each class."""
    K = counts.shape[1]
    return np.stack([times[:, truth == c] @ counts[truth == c] for c in range(K)], 1)


def accuracy(pixels: np.ndarray) -> np.ndarray:
    """Of pixels (draws, K, K): (draws, K), 0 for a class without any."""
    return np.diagonal(pixels, axis1=1, axis2=2) / pixels.sum(2).clip(1)


def f1(pixels: np.ndarray) -> np.ndarray:
    """(draws, K): 2 right / (own + said)."""
    return 2 * np.diagonal(pixels, axis1=1, axis2=2) / (pixels.sum(2) + pixels.sum(1)).clip(1)


def interval(values: np.ndarray) -> tuple[float, float]:
    tail = (100 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
