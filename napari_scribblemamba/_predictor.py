"""What networks and propagated strokes say of an image, slice by slice, in the background. No Qt, no layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainer.sample import IGNORE, plane_of
from trainer.stack import Stack

if TYPE_CHECKING:
    from napari_scribblemamba._guide import Guide
    from trainer import Model, Sample
    from trainer.likeness import Likeness, Settled
    from trainer.stack import Part

PROPAGATED = "propagated strokes"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the networks see in one slice of an image, or in all of it."""

    image: str  # the sample's name
    index: int | None  # slice along the first axis; None: all of the image
    labels: dict[str, np.ndarray]  # network or "ensemble" -> uint8 classes (H, W), or (*space) where index is None
    source: str  # for people: "propagated strokes", "3 networks and propagated strokes", "ensemble of 3 networks"
    within: tuple[slice, slice] | None = None  # rows and columns of the labels that were looked at; None: all of them
    fraction: float = 1.0  # how much of the whole is predicted, 0..1; 1 also while training
    disagreement: np.ndarray | None = None  # of the networks, float32 (*its labels) in 0..1; None of a single one
    network: str = ""  # whose probabilities were asked for
    probabilities: np.ndarray | None = None  # of that network, float32 (K, *its labels)


class SlicePredictor:
    """Predicts one slice at a time; each image is normalised once, as a whole, as in training.

    Of an image that was drawn on, the ensemble and the propagated strokes (its teacher) answer together, and what was
    drawn stays: `Model.fill_in`, slice by slice.
    """

    def __init__(
        self,
        model: Model,
        teachers: dict[str, np.ndarray],
        parts: dict[str, Part | None],
        taught: Sequence[Sample] = (),
        probabilities: str | None = None,
        guide: Guide | None = None,
        overlaps: dict[str, dict[int | None, np.ndarray]] | None = None,
        likeness: Likeness | Settled | None = None,
    ) -> None:
        """teachers, parts: {sample: propagated strokes, and where in its stack these are}; taught: those samples.

        overlaps: {sample: {slice: of networks and strokes}} of what was seen before; kept up to date
        likeness: what is heard where there are no propagated strokes, as long as the networks are young
        """
        self._model, self._teachers, self._parts, self._wanted = model, teachers, parts, probabilities
        self._taught = {sample.name: sample for sample in taught}
        self._same: dict[str, bool] = {}  # sample name -> whether it is the image that was taught
        self._guide = guide  # is told what is seen
        self._overlaps = {} if overlaps is None else overlaps
        self._likeness = likeness
        self._prepared: dict[str, object] = {}  # sample name -> Tensor (D, C, H, W)

    def __call__(self, sample: Sample, index: int | None, fraction: float = 1.0) -> Prediction:
        probabilities = self._model.item_probabilities(*self._prepare(sample, index))  # each (K, *item)
        apart, within = disagreement(probabilities), None
        labels = {name: p.argmax(0).astype(np.uint8) for name, p in probabilities.items()}
        names = [name for name in probabilities if name != "ensemble"]  # some may not have begun to learn
        source = f"ensemble of {len(names)} networks" if len(names) > 1 else f"prediction of {names[0]}"
        shown, taught = probabilities["ensemble"], self._teacher(sample, index)
        if taught is not None and np.ptp(taught[0], 0).any():  # else nothing was reached by any stroke
            shown = self._filled_in(sample, index, shown, *taught)
            source = f"{counted(names)} and propagated strokes"
        elif self._likeness is not None and self._likeness.say and shown.ndim == 3:
            shown = self._with_likeness(sample, index, shown)
            source = f"{counted(names)} and what looks like the strokes"
        if marks := absences(sample, index):
            shown = without(shown, marks)
        if taught is not None or shown is not probabilities["ensemble"]:
            strokes = plane_of(sample, sample.target, index)
            labels["ensemble"] = np.where(strokes == IGNORE, shown.argmax(0).astype(np.uint8), strokes)
        if self._guide is not None:
            self._guide.see(sample, index, probabilities, shown)
        if sample.part is not None:  # what is outside its box is left empty
            labels = {name: sample.part.plane(plane, 0) for name, plane in labels.items()}
            apart = None if apart is None else sample.part.plane(apart, 0)
            within = sample.part.index
        if self._wanted and self._wanted not in probabilities:
            raise ValueError(f"{self._wanted} has not begun to learn; train longer, or choose another network")
        wanted = probabilities[self._wanted] if self._wanted else None
        return Prediction(sample.name, index, labels, source, within, fraction, apart, self._wanted or "", wanted)

    def _filled_in(
        self, sample: Sample, index: int | None, P: np.ndarray, teacher: np.ndarray, where: tuple
    ) -> np.ndarray:
        """(K, *item): as the function of that name, weighed by all of the image's slices that were seen."""
        from trainer.model import overlap  # imports torch: only here, in the background

        seen = self._overlaps.setdefault(sample.name, {})
        seen[index] = overlap(P[(slice(None), *where)], teacher)
        return filled_in(P, teacher, where, list(seen.values()))

    def _with_likeness(self, sample: Sample, index: int | None, P: np.ndarray) -> np.ndarray:
        """(K, H, W): as the function of that name."""
        from trainer.likeness import with_likeness  # as above

        if isinstance(sample.image, Stack):
            plane, like = sample.image.plane(index), sample.image.values()
        else:
            plane, like = sample.image if index is None else sample.image[:, index], sample.image
        return with_likeness(P, plane, like, self._likeness)

    def _prepare(self, sample: Sample, index: int | None) -> tuple[object, int]:
        """What the model takes, and which item of it: of a large stack a slice alone, else all of the image at once."""
        name = f"'{sample.name}'"
        if sample.image.ndim == 4 and self._model.volumetric and (sample.part or isinstance(sample.image, Stack)):
            raise ValueError(
                f"{name} is several volumes or too large for memory, and the networks look at volumes; "
                "choose networks for slices, or cut out a volume"
            )
        if isinstance(sample.image, Stack):
            plane, like = sample.image.plane(index), sample.image.values()
            return self._model.prepared(plane, name, sample.spacing[-2:], like), 0
        if sample.name not in self._prepared:
            self._prepared[sample.name] = self._model.prepared(sample.image, name, sample.spacing)
        return self._prepared[sample.name], index or 0

    def _teacher(self, sample: Sample, index: int | None) -> tuple[np.ndarray, tuple] | None:
        """(K, *item) and where in the item that is; None where there is none, or of other classes or another image."""
        teacher, part = self._teachers.get(sample.name), self._parts.get(sample.name)
        if teacher is None or len(teacher) != len(self._model.classes) or not self._is_taught(sample):
            return None
        if part is None or index is None:
            fits = part is None and teacher.shape[1:] == sample.target.shape
            return (teacher if index is None else teacher[:, index], (...,)) if fits else None
        position = part.position(index)
        whole = sample.part is None and part.size == sample.target.shape[1:]
        if position is None or teacher.shape[1:] != part.space or not (whole or part == sample.part):
            return None
        return teacher[:, position], part.index if whole else (...,)

    def _is_taught(self, sample: Sample) -> bool:
        """Whether it shows what the sample of its name showed that was taught: two images may share a name."""
        if sample.name not in self._same:
            taught = self._taught.get(sample.name)
            self._same[sample.name] = taught is not None and same_pixels(taught.image, sample.image)
        return self._same[sample.name]


def counted(networks: Sequence[str]) -> str:
    return f"{len(networks)} network{'s' * (len(networks) > 1)}"


def same_pixels(one: np.ndarray | Stack, other: np.ndarray | Stack) -> bool:
    """Of images (C, *space); of stacks too large to compare, some."""
    if isinstance(one, Stack) and isinstance(other, Stack):
        return one.whole == other.whole and np.array_equal(one.values(), other.values())
    return one is other or (type(one) is type(other) and np.array_equal(one, other))


def disagreement(probabilities: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Of the networks {name: P (K, *item)}, the ensemble beside them: (*item) in 0..1; None of a single network."""
    from trainer.disagreement import divergence

    each = {name: P for name, P in probabilities.items() if name != "ensemble"}
    return divergence(each) if len(each) > 1 else None


def filled_in(
    P: np.ndarray, teacher: np.ndarray, where: tuple = (...,), overlaps: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """(K, *item): networks P and, `where` in the item they are, propagated strokes together. `overlaps` are those of
    all slices of the image, by default of this one."""
    from trainer.model import with_teacher  # imports torch: only here, in the background

    together = P.copy()
    together[(slice(None), *where)] = with_teacher(P[(slice(None), *where)], teacher, overlaps)
    return together


def absences(sample: Sample, index: int | None) -> list[tuple[int, int]]:
    """(slice of the item, class): what is marked as absent from slice `index` of a stack; None: from all of it."""
    if index is None:
        return list(sample.absent)
    position = index if sample.part is None else sample.part.position(index)
    return [(0, c) for z, c in sample.absent if z == position]


def without(P: np.ndarray, marks: Sequence[tuple[int, int]]) -> np.ndarray:
    """P (K, *item) in which these classes are impossible."""
    from trainer.model import without_absent  # imports torch: only here, in the background

    return without_absent(P, marks)


def first_overlays(
    teachers: dict[str, np.ndarray], parts: dict[str, Part | None], shown: dict[str, np.ndarray]
) -> Iterator[Prediction]:
    """The propagated strokes (K, *space) of each sample that are new since they were shown, as far as they reach."""
    for name, probabilities in teachers.items():
        if shown.get(name) is not probabilities:
            shown[name] = probabilities
            labels, part = probabilities.argmax(0).astype(np.uint8), parts.get(name)
            for z in _reached(probabilities, part):
                if part is None:
                    yield Prediction(name, z, {"ensemble": labels if z is None else labels[z]}, PROPAGATED)
                else:
                    seen = {"ensemble": part.plane(labels[z], 0)}
                    yield Prediction(name, part.slices[z], seen, PROPAGATED, part.index)


def _reached(P: np.ndarray, part: Part | None) -> Sequence[int | None]:
    """The slices of P (K, *space) that the strokes tell of; None for the whole, where that is all of them, or none, and
    where it is no part."""
    depth = P.shape[1] if P.ndim == 4 else 0
    reached = [z for z in range(depth) if np.ptp(P[:, z], 0).any()]
    return reached if part is not None or 0 < len(reached) < depth else [None]


def pieces_of(
    samples: Sequence[Sample], volumetric: bool, visible: tuple[str, int | None] = ("", None)
) -> list[tuple[Sample, int | None]]:
    """(sample, slice) for every slice; a 2-D image is one piece, its slice None, and so is a volume that is predicted
    whole. Of a part of a large stack, its slices and the visible one."""
    return [(sample, index) for sample in samples for index in _numbers(sample, volumetric, visible)]


def _numbers(sample: Sample, volumetric: bool, visible: tuple[str, int | None]) -> Sequence[int | None]:
    if sample.image.ndim < 4 or volumetric:
        return [None]
    if isinstance(sample.image, Stack) and sample.part is not None:
        return sorted({*sample.part.slices, *([visible[1]] if visible[0] == sample.name else [])})
    return range(sample.image.shape[1])
