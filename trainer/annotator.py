"""A simulated annotator: strokes as a person draws them, from a dense label, and the seconds that they take.

A stroke follows the skeleton of a region of one class, or a curve at some depth inside it, with a trembling hand, a
round brush of 1 to 3 pixels and a finite length; it never leaves its region. Strokes lie in one slice.

The time model is that of clicks and squiggles on PASCAL VOC (Bearman et al., What's the Point, ECCV 2016, section 4):
2.4 s to point at a class in an image, 10.9 s to mark it with squiggles. The first is REACH; the second is two strokes
of 150 pixels at SPEED, which is our reading and an assumption.

label (*space), space is (H, W) or (D, H, W): class 0..K-1, or IGNORE where the truth is not known
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage as ndi
from skimage.measure import find_contours
from skimage.morphology import skeletonize

from trainer.sample import IGNORE

REACH = 2.4  # seconds to see what to draw, choose the class and move there
SPEED = 50.0  # pixels a second of a careful hand
LENGTH = 30.0, 120.0  # pixels of a stroke, where its region has room
TREMBLE = 0.7  # pixels off the intended way
ROOM = 25.0  # pixels from the border beyond which a region counts as wide
BRUSHES = 1, 2, 3  # pixels across

Region = tuple[int, np.ndarray]  # a slice, and a connected piece of one class in it, bool (H, W)
NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
IN_SLICE = np.stack([np.zeros((3, 3), bool), ndi.generate_binary_structure(2, 1), np.zeros((3, 3), bool)])


@dataclass(frozen=True, eq=False)
class Stroke:
    """What one drag of the mouse leaves behind."""

    slice: int  # along the first axis; 0 of a 2-D image
    pixels: np.ndarray  # (N, 2) rows and columns
    label: int  # the class drawn with
    seconds: float


def painted(strokes: Sequence[Stroke], space: tuple[int, ...]) -> np.ndarray:
    """The strokes as a target: uint8 (*space), IGNORE where nobody drew."""
    target = np.full(space, IGNORE, np.uint8)
    for stroke in strokes:
        as_slices(target)[stroke.slice][tuple(stroke.pixels.T)] = stroke.label
    return target


def seconds(strokes: Sequence[Stroke]) -> float:
    """What they cost the person."""
    return sum(stroke.seconds for stroke in strokes)


# ---- what to draw next ----


def scribble(label: np.ndarray, count: int, rng: np.random.Generator) -> list[Stroke]:
    """`count` strokes for each class of the image, background too; round by round, so that fewer are a prefix."""
    hands = [Hand(as_slices(label), c, rng) for c in classes_of(label)]
    return [hand.draw() for _ in range(count) for hand in hands]


def scribble_slices(label: np.ndarray, slices: Sequence[int], count: int, rng: np.random.Generator) -> list[Stroke]:
    """`count` strokes for each class of each of these slices of a volume (D, H, W)."""
    strokes = []
    for z in slices:
        hands = [Hand(label, c, rng, only=z) for c in classes_of(label[z])]
        strokes += [hand.draw() for _ in range(count) for hand in hands]
    return strokes


def spread(label: np.ndarray, count: int) -> list[int]:
    """`count` slices of a volume, evenly spread over those with two classes or more; all of them where it has fewer."""
    usable = [z for z, plane in enumerate(label) if len(classes_of(plane)) > 1]
    if count >= len(usable):
        return usable
    last = len(usable) - 1
    places = np.linspace(0, last, count + 2)[1:-1] if count < last else np.linspace(0, last, count)
    return [usable[round(i)] for i in places]


def correct(
    label: np.ndarray, prediction: np.ndarray, strokes: Sequence[Stroke], rng: np.random.Generator
) -> Stroke | None:
    """A stroke in the largest piece of one class and slice that the prediction has wrong and no stroke has marked.

    None where there is no such piece.
    """
    wrong = (label != prediction) & (label != IGNORE) & (painted(strokes, label.shape) == IGNORE)
    pieces = [(c, *ndi.label(as_slices(wrong & (label == c)), IN_SLICE)) for c in classes_of(label[wrong])]
    if not pieces:
        return None
    c, numbers, _ = max(pieces, key=lambda piece: np.bincount(piece[1].ravel())[1:].max())
    return draw(region(numbers, 1 + np.bincount(numbers.ravel())[1:].argmax()), c, rng)


def at(label: np.ndarray, places: Sequence[tuple[int, ...]], rng: np.random.Generator) -> list[Stroke]:
    """A short stroke through each place (indices into the image), of the class that is there; none where unknown."""
    return [draw(around(label, place), int(label[place]), rng) for place in places if label[place] != IGNORE]


def classes_of(label: np.ndarray) -> list[int]:
    return np.unique(label[label != IGNORE]).tolist()


def as_slices(values: np.ndarray) -> np.ndarray:
    """(D, H, W); a 2-D image is one slice. A view, so that painting on it paints on the image."""
    return values if values.ndim == 3 else values[None]


# ---- where ----


class Hand:
    """One class of an image, (D, H, W): draws stroke after stroke, rather in large pieces and where it has not been."""

    def __init__(self, label: np.ndarray, c: int, rng: np.random.Generator, only: int | None = None) -> None:
        self.label, self.rng = c, rng
        mask = label == c
        if only is not None:
            mask[np.arange(len(mask)) != only] = False
        self.pieces, _ = ndi.label(mask, IN_SLICE)
        self.sizes = np.bincount(self.pieces.ravel())[1:]
        self.visits = np.zeros(len(self.sizes))

    def draw(self) -> Stroke:
        weights = self.sizes / (1 + self.visits) ** 2
        piece = self.rng.choice(len(weights), p=weights / weights.sum())
        self.visits[piece] += 1
        return draw(region(self.pieces, piece + 1), self.label, self.rng)


def region(pieces: np.ndarray, number: int) -> Region:
    z = int(np.flatnonzero((pieces == number).any((1, 2)))[0])
    return z, pieces[z] == number


def around(label: np.ndarray, place: tuple[int, ...]) -> Region:
    """The piece of a class that holds a place, no farther from it than half a short stroke."""
    z, (row, column), reach = (place[0] if len(place) == 3 else 0), place[-2:], int(LENGTH[0] / 2)
    near = np.zeros(label.shape[-2:], bool)
    near[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
    pieces, _ = ndi.label(near & (as_slices(label)[z] == label[place]))
    return z, pieces == pieces[row, column]


# ---- how ----


def draw(where: Region, c: int, rng: np.random.Generator) -> Stroke:
    """One stroke of class c inside a region."""
    z, inside = where
    way = cut(intended(inside, rng), rng.uniform(*LENGTH))  # (N, 2)
    pixels = brushed(trembling(way, rng), int(rng.choice(BRUSHES)), inside)
    return Stroke(z, pixels, c, REACH + length(way) / SPEED)


def intended(inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A way (N, 2) to follow inside a region: its skeleton or a curve at some depth; of a dot, its middle."""
    depth = depths(inside)
    middle = along(skeletonize(depth > min(2.0, 0.4 * depth.max())), depth, rng)
    short = length(middle) < min(LENGTH[0], depth.max())  # the skeleton of a disc is a dot, which nobody draws
    if depth.max() > 2 and (short or rng.uniform() < 0.5):
        level = rng.uniform(0.3, 0.8) * min(depth.max(), ROOM)
        curves = [curve for curve in find_contours(depth, level) if len(curve) > 3]
        if curves:
            long = np.array([len(curve) for curve in curves])
            return turned(curves[rng.choice(len(curves), p=long / long.sum())], rng)
    return middle


def depths(inside: np.ndarray) -> np.ndarray:
    """Pixels to the nearest one outside the region; the frame of the image counts only where nothing else does."""
    if inside.all():
        return ndi.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    return ndi.distance_transform_edt(inside)


def turned(curve: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same curve from another end, or, where it is closed, from anywhere on it."""
    if np.array_equal(curve[0], curve[-1]):
        curve = np.roll(curve[:-1], -rng.integers(len(curve) - 1), axis=0)
    return curve[::-1] if rng.uniform() < 0.5 else curve


def along(thin: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Along a thin curve from one of its ends; the deepest pixel where there is no curve."""
    starts = np.argwhere(thin)
    if not len(starts):
        return np.argwhere(depth == depth.max())[:1].astype(float)
    there = walk(thin, starts[rng.integers(len(starts))])
    return walk(thin, there[-1]).astype(float)


def walk(thin: np.ndarray, start: np.ndarray) -> np.ndarray:
    """From a pixel of a thin curve on and on, straight ahead where it forks, until it ends."""
    left = np.pad(thin, 1)
    way, heading = [start + 1], np.zeros(2)
    while True:
        left[tuple(way[-1])] = False
        steps = [np.array(s) for s in NEIGHBOURS if left[tuple(way[-1] + s)] and heading @ s >= 0]
        if not steps:
            return np.array(way) - 1
        step = max(steps, key=lambda s: heading @ s / np.linalg.norm(s))
        heading = 0.7 * heading + 0.3 * step
        way.append(way[-1] + step)


def cut(way: np.ndarray, most: float) -> np.ndarray:
    """The way up to a length in pixels."""
    travelled = np.r_[0, np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))]
    return way[travelled <= most]


def length(way: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())


def trembling(way: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The way in steps of about half a pixel, off by TREMBLE."""
    at = np.linspace(0, len(way) - 1, 2 * len(way))
    fine = np.stack([np.interp(at, np.arange(len(way)), axis) for axis in way.T], 1)
    wobble = ndi.gaussian_filter1d(rng.normal(size=fine.shape), 8, axis=0, mode="nearest")
    return fine + TREMBLE * wobble / max(wobble.std(), 1e-6) * min(1.0, len(way) / 16)


def brushed(way: np.ndarray, brush: int, inside: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) under a round brush that lie in the region: the longest piece that does not leave it."""
    shape, radius = np.array(inside.shape), (brush - 1) / 2
    offsets = np.argwhere(np.hypot(*np.indices((brush, brush)) - radius) <= radius + 0.3) - radius
    places = np.rint(way[:, None] + offsets).reshape(-1, 2).astype(int)
    places = places[((places >= 0) & (places < shape)).all(1)]
    drawn = np.zeros(inside.shape, bool)
    drawn[tuple(places.T)] = True
    pieces, count = ndi.label(drawn & inside, np.ones((3, 3)))
    if not count:  # the hand slipped off a region thinner than its tremble
        return np.argwhere(inside)[[depths(inside)[inside].argmax()]]
    return np.argwhere(pieces == 1 + np.bincount(pieces.ravel())[1:].argmax())
