"""Coach: what a person should do about their strokes, in a sentence each, most urgent first.

Class 0 is the background. Strokes are those of referee.py; labels uint8 (*space)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage as ndi

from trainer.annotator import as_slices, classes_of
from trainer.referee import Stroke, strokes_of
from trainer.sample import IGNORE, Sample

Kind = Literal["missing", "background", "slip", "rare", "border", "left out"]
WRONG = 0.8  # share of a stroke's pixels that every network must call otherwise, for it to be a likely slip
RARE = 20  # times fewer pixels than the other classes have, in the middle
FAR = 0.08  # of the image's shorter side, between strokes of two classes: nobody showed the border between them
FEWEST = 10  # pixels that are near in any image


@dataclass(frozen=True)
class Advice:
    kind: Kind
    text: str  # one sentence, what to do
    image: str = ""  # where to look; empty: nowhere in particular
    slice: int | None = None  # along the first axis; 0 of a 2-D image
    place: tuple[int, int] | None = None  # row and column


def advice(
    samples: Sequence[Sample],
    classes: Sequence[str],
    predictions: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[Advice]:
    """`predictions` {image: {network: labels (*space)}}, where there are any; of samples it does not name, nothing is
    said about slips."""
    strokes = {sample.name: strokes_of(sample.target) for sample in samples}
    pixels = np.zeros(len(classes), int)
    for stroke in (stroke for each in strokes.values() for stroke in each):
        pixels[stroke.label] += len(stroke.pixels)
    if not pixels.any():
        return [Advice("missing", "Paint one or two strokes of every class, the background too.")]
    found = [*missing(pixels, classes)]
    for name, labels in (predictions or {}).items():
        found += slips(name, strokes.get(name, ()), labels, classes)
    return [*found, *rare(pixels, classes), *borders(samples, classes), *left_out(samples, classes)]


def missing(pixels: np.ndarray, classes: Sequence[str]) -> Iterator[Advice]:
    """pixels (K,) drawn of each class."""
    if not pixels[0]:
        text = f"Paint a stroke of {classes[0]} where there is nothing to segment, or all of the image will be objects."
        yield Advice("background", text)
    for c in np.flatnonzero(pixels[1:] == 0) + 1:
        yield Advice("missing", f"Paint a stroke of {classes[c]}, or remove the class.")


def slips(
    name: str, strokes: Sequence[Stroke], predictions: Mapping[str, np.ndarray], classes: Sequence[str]
) -> Iterator[Advice]:
    """Strokes that every network, though it learnt from them, calls something else."""
    for stroke in strokes:
        at = (stroke.slice, *stroke.pixels.T)
        said = [as_slices(labels)[at] for labels in predictions.values()]  # (N,) each
        if said and all((labels != stroke.label).mean() >= WRONG for labels in said):
            other = classes[np.bincount(np.concatenate(said)[np.concatenate(said) != stroke.label]).argmax()]
            text = f"Check this stroke of {classes[stroke.label]}: every network sees {other} there."
            yield Advice("slip", text, name, stroke.slice, middle(stroke.pixels))


def rare(pixels: np.ndarray, classes: Sequence[str]) -> Iterator[Advice]:
    for c in np.flatnonzero(pixels):
        others = np.delete(pixels, c)
        usual = int(np.median(others[others > 0])) if others.any() else 0
        if pixels[c] * RARE < usual:
            have = f"its strokes have {pixels[c]:,} px, those of the other classes about {usual:,}"
            text = f"Paint more of {classes[c]}: {have}."
            yield Advice("rare", text)


def borders(samples: Sequence[Sample], classes: Sequence[str]) -> Iterator[Advice]:
    """Objects whose strokes are far from those of every other class, in every slice that has both."""
    nearest: dict[int, Advice] = {}
    distance: dict[int, float] = {}  # in units of what is far in its image
    for sample in samples:
        far = max(FEWEST, FAR * min(sample.target.shape[-2:]))
        for z, plane in enumerate(as_slices(sample.target)):
            for c, pixels, place in gaps(plane):
                if pixels / far < distance.get(c, np.inf):
                    distance[c] = pixels / far
                    text = f"Paint {classes[c]} and its surroundings close to the border between them, as here."
                    nearest[c] = Advice("border", text, sample.name, z, place)
    yield from (nearest[c] for c in sorted(nearest) if distance[c] > 1)


def gaps(plane: np.ndarray) -> Iterator[tuple[int, float, tuple[int, int]]]:
    """Of each object's strokes in (H, W): class, pixels to the nearest of another class, and the middle of the gap."""
    for c in np.unique(plane[(plane != IGNORE) & (plane != 0)]):
        own, others = plane == c, (plane != c) & (plane != IGNORE)
        if others.any():
            away, ends = ndi.distance_transform_edt(~others, return_indices=True)
            start = np.unravel_index(np.where(own, away, np.inf).argmin(), plane.shape)
            end = ends[(slice(None), *start)]
            row, column = ((np.array(start) + end) // 2).tolist()
            yield int(c), float(away[start]), (row, column)


def left_out(samples: Sequence[Sample], classes: Sequence[str]) -> Iterator[Advice]:
    """Classes that are drawn on some images and not on others, where spread strokes leave no room for them. A mark of
    absence says that this is meant."""
    drawn = {sample.name: classes_of(sample.target) for sample in samples}
    for c in sorted(set().union(*drawn.values())):
        marked = {sample.name for sample in samples if any(mark == c for _, mark in sample.absent)}
        without = [name for name, found in drawn.items() if len(found) > 1 and c not in found and name not in marked]
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            text = f"Paint {classes[c]} on '{without[0]}'{more} if it is there: without a stroke it counts as absent."
            yield Advice("left out", text, without[0])


def middle(pixels: np.ndarray) -> tuple[int, int]:
    """The pixel of a stroke (N, 2) nearest to its centre."""
    row, column = pixels[np.hypot(*(pixels - pixels.mean(0)).T).argmin()]
    return int(row), int(column)
