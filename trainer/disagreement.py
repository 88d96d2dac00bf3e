"""Where to draw next: where networks that learnt from the same strokes, and these strokes spread, taken together know
least, a slice at a time; and where the networks disagree.

The entropy of an ensemble: Lakshminarayanan et al., arXiv 1612.01474. Query by committee: Seung, Opper and Sompolinsky,
COLT 1992; the divergence is Lin's, IEEE Trans. Inf. Theory 37 (1991), eq. 5.1, of as many distributions as there are
networks. In the plane a place is a soft disc of radius REACH. The slice with most doubt around it comes first, with a
place for each class: strokes of all classes are what can be carried to its neighbours, and whoever draws would rather
not change slices after every stroke. Who is sure and wrong has no doubt: on an image of one slice the place that looks
least like anything drawn is one of the second turn.

K classes · P probabilities (K, *space) · space is (H, W) or (D, H, W) · map float32 (*space) in 0..1
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage as ndi
from scipy.spatial import cKDTree
from scipy.special import entr
from skimage.feature import peak_local_max

from trainer.annotator import as_slices
from trainer.propagation import PIXELS, contrast, shrunken
from trainer.sample import IGNORE

REACH = 8  # pixels of a place's disc, and between two places
BLUR = REACH / 2  # pixels, of the Gaussian that is the soft disc
DRAWN = 4  # pixels around a stroke that it speaks for: less than most things are thick
LEAST = 0.1  # of score; below it a place is not worth the way


@dataclass(frozen=True)
class Place:
    """A spot worth a stroke."""

    image: str  # the sample's name
    slice: int  # along the first axis; 0 of a 2-D image
    row: int
    column: int
    score: float  # pixels of full doubt around it: the map's sum under the soft disc; 0 of what only looks strange
    turn: int = 0  # how many places of its slice and class have more
    doubt: float = 0.0  # pixels of full doubt in all of its slice
    classes: int = 0  # that are seen in its slice


# ---- maps ----


def divergence(each: Mapping[str, np.ndarray]) -> np.ndarray:
    """Jensen-Shannon divergence (*space) of the networks' probabilities {name: P (K, *space)}, 0..1.

    In units of log min(networks, classes), the most that so many can differ by. ValueError with fewer than two: leave
    the ensemble out, it is no voice of its own.
    """
    if len(each) < 2:
        raise ValueError(f"disagreement needs two networks or more, got {list(each)}")
    first = next(iter(each.values()))
    mean, own = np.zeros(first.shape, np.float32), np.zeros(first.shape[1:], np.float32)
    for P in each.values():
        mean += np.asarray(P, np.float32) / len(each)
        own += bits(P) / len(each)
    return ((bits(mean) - own) / np.log2(min(len(each), len(mean)))).clip(0, 1)


def entropy(P: np.ndarray) -> np.ndarray:
    """Of probabilities (K, *space) of a network or an ensemble, (*space) in 0..1: how little it knows, by log K."""
    return (bits(P) / np.log2(len(P))).clip(0, 1)


def bits(P: np.ndarray) -> np.ndarray:
    """Entropy over axis 0."""
    return sum(entr(np.asarray(p, np.float32)) for p in P) / np.float32(np.log(2))


# ---- places ----


def places(
    maps: Mapping[str, np.ndarray],
    strokes: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    count: int,
    images: Mapping[str, np.ndarray] | None = None,
) -> list[Place]:
    """`count` places, best first, over all slices and images of maps {image: (*space)}.

    strokes {image: uint8 (*space)}: what is drawn already, IGNORE elsewhere; near a stroke no place is named. labels
    {image: uint8 (*space)}: the classes as far as they are known; images {image: (C, *space)}: where they are given,
    what looks like nothing drawn counts, too.
    """
    each = ((name, maps[name], strokes[name], labels[name], count, (images or {}).get(name)) for name in maps)
    return ranked((place for one in each for place in peaks(*one)), count)


def peaks(
    name: str,
    values: np.ndarray,
    drawn: np.ndarray,
    labels: np.ndarray,
    most: int,
    image: np.ndarray | None = None,
) -> Iterator[Place]:
    """The `most` best of every class in each slice of one image; of a 2-D image (C, H, W) the strangest, too."""
    for z, planes in enumerate(zip(*map(as_slices, (values, drawn, labels)), strict=True)):
        found = list(peaks_of(name, z, *planes, most))
        yield from found
        if image is not None and image.ndim == 3 and found:
            yield strangest(found[0], image, planes[1])


def strangest(place: Place, image: np.ndarray, strokes: np.ndarray) -> Place:
    """Where an image (C, H, W) looks least like anything that was drawn, far from strokes (H, W); `place` is one there
    already. What counts is the contrast, by the mean over the soft disc; of large images at a lower resolution."""
    small, drawn = shrunken(image, strokes, PIXELS)
    size, coarse = np.array(strokes.shape), np.array(drawn.shape)
    tones = np.stack([ndi.gaussian_filter(channel, 1.0) for channel in contrast(small)])
    known = tones[:, drawn != IGNORE].T if (drawn != IGNORE).any() else tones.mean((1, 2))[None]
    unlike = cKDTree(known).query(tones.reshape(len(tones), -1).T)[0].reshape(drawn.shape)
    unlike = ndi.gaussian_filter(unlike, BLUR * coarse / size) * far_from(drawn)
    row, column = ((np.unravel_index(unlike.argmax(), unlike.shape) + np.float64(0.5)) * size / coarse).astype(int)
    return replace(place, row=int(row), column=int(column), score=0.0, turn=1)


def peaks_of(
    name: str, z: int, plane: np.ndarray, strokes: np.ndarray, labels: np.ndarray, most: int
) -> Iterator[Place]:
    """The `most` best of every class in a slice (H, W)."""
    doubt, seen = float(plane[far_from(strokes)].sum()), np.unique(labels)
    for c in seen:
        mass = masses(plane * (labels == c), strokes)
        spots = peak_local_max(mass, REACH, LEAST, num_peaks=most, exclude_border=False)
        for turn, (row, column) in enumerate(spots):
            score = float(mass[row, column])
            yield Place(name, z, int(row), int(column), score, turn, doubt, len(seen))


def masses(plane: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    """Map and strokes (H, W) -> the map's sum under a soft disc around each pixel, 0 where a stroke is near."""
    open_ = far_from(strokes)
    return np.where(open_, ndi.gaussian_filter(plane * open_, BLUR, mode="constant") * 2 * np.pi * BLUR**2, 0)


def far_from(strokes: np.ndarray) -> np.ndarray:
    """Pixels (H, W) more than DRAWN from all that is drawn."""
    if (strokes == IGNORE).all():
        return np.ones(strokes.shape, bool)
    return ndi.distance_transform_edt(strokes == IGNORE) > DRAWN


def ranked(found: Iterable[Place], count: int) -> list[Place]:
    """Of places that were found slice by slice, the best of each class in the slice with most doubt around it, then in
    the next; then the second best. Slices of a stack in which some class is not seen come later, as their strokes
    cannot be carried to others.
    """
    found = list(found)
    doubts = around({(place.image, place.slice): place.doubt for place in found})
    most: dict[str, int] = defaultdict(int)
    for place in found:
        most[place.image] = max(most[place.image], place.classes)

    def rank(place: Place) -> tuple:
        return place.classes < most[place.image], place.turn, -doubts[place.image, place.slice], -place.score

    return apart(sorted(found, key=rank), count)


def around(doubts: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], float]:
    """{(image, slice): doubt} with that of the other slices of an image added, the less the farther they are: strokes
    are carried along a stack. Half of it away nothing counts."""
    total = {}
    for image in {image for image, _ in doubts}:
        slices = np.array([z for name, z in doubts if name == image])
        own = np.array([doubts[image, z] for z in slices])
        reach = max(1.0, (np.ptp(slices) + 1) / 2)
        weights = (1 - np.abs(slices[:, None] - slices) / reach).clip(0)
        total |= {(image, int(z)): float(value) for z, value in zip(slices, weights @ own, strict=True)}
    return total


def apart(found: Iterable[Place], count: int) -> list[Place]:
    """The first `count` of them that are not near one before them."""
    kept: list[Place] = []
    for place in found:
        if len(kept) == count:
            break
        if not any(near(place, other) for other in kept):
            kept.append(place)
    return kept


def near(one: Place, other: Place) -> bool:
    """Whether a stroke at one of them would answer the other too."""
    together = (one.image, one.slice) == (other.image, other.slice)
    return together and np.hypot(one.row - other.row, one.column - other.column) <= REACH


def undrawn(found: Iterable[Place], strokes: Mapping[str, np.ndarray]) -> list[Place]:
    """Those of the places with no stroke near by now, without looking at any map."""
    return [place for place in found if not touched(place, as_slices(strokes[place.image])[place.slice])]


def touched(place: Place, strokes: np.ndarray) -> bool:
    """Whether a stroke of the slice (H, W) is within DRAWN."""
    rows, columns = np.nonzero(strokes != IGNORE)
    return bool((np.hypot(rows - place.row, columns - place.column) <= DRAWN).any())
