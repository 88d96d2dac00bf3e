"""Guide: where to draw next and whom to trust, from what the networks say of one slice after the other. No Qt.

Lives in the session's thread; `trainer` is imported when the first slice is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainer import Sample
    from trainer.disagreement import Place
    from trainer.referee import Answers, Verdict

PLACES = 10  # at most
Piece = tuple[str, int | None]  # (sample, slice); None is all of it


@dataclass(frozen=True, eq=False)
class Guidance:
    """What is known so far."""

    places: tuple[Place, ...]  # best first
    verdict: Verdict | None  # None where nothing is held out


class Guide:
    """Forgets nothing but what it sees again."""

    def __init__(self, held: Mapping[str, np.ndarray] | None = None) -> None:
        """held: {sample: uint8 (*space)}, strokes that the networks do not learn from."""
        self.held = dict(held or {})
        self._places: dict[Piece, list[Place]] = {}
        self._answers: dict[Piece, Answers] = {}

    def see(
        self, sample: Sample, index: int | None, probabilities: Mapping[str, np.ndarray], shown: np.ndarray
    ) -> None:
        """{network: P (K, *item)}, and what is shown, P (K, *item), of slice `index` of a stack; None: of all of it."""
        from trainer.disagreement import entropy, peaks
        from trainer.referee import answers
        from trainer.sample import plane_of

        piece = (sample.name, index)
        held = self.held.get(sample.name)
        if held is not None and held.shape != sample.target.shape:  # strokes came meanwhile, and with them another part
            held = None
        drawn = sample.target if held is None else np.minimum(sample.target, held)  # IGNORE is the highest
        labels = shown.argmax(0).astype(np.uint8)
        image = sample.image if index is None else None
        found = peaks(sample.name, entropy(shown), plane_of(sample, drawn, index), labels, PLACES, image)
        self._places[piece] = [place if index is None else _placed(place, sample, index) for place in found]
        if held is not None:
            self._answers[piece] = answers(probabilities, plane_of(sample, held, index))

    def guidance(self, samples: Sequence[Sample]) -> Guidance:
        """The best places where nobody has drawn by now."""
        from trainer.disagreement import ranked

        images = {sample.name: sample for sample in samples}
        found = [place for places in list(self._places.values()) for place in places if place.image in images]
        open_ = [place for place in ranked(found, 5 * PLACES) if is_undrawn(place, images[place.image])]
        return Guidance(tuple(open_[:PLACES]), self._verdict())

    def _verdict(self) -> Verdict | None:
        from trainer.referee import joined, verdict

        seen = [answers for answers in list(self._answers.values()) if len(answers.truth)]
        return verdict(joined(seen)) if seen else None


def held_out(samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, np.ndarray]]:
    """The samples without the strokes that are kept to judge, and those, uint8 (*space), by sample."""
    from trainer.referee import split

    parts = {sample.name: split(sample) for sample in samples}
    return [part for part, _ in parts.values()], {name: held for name, (_, held) in parts.items()}


def is_undrawn(place: Place, sample: Sample) -> bool:
    """Whether nobody has drawn there by now."""
    from trainer.disagreement import touched
    from trainer.sample import plane_of

    top, left = (0, 0) if sample.part is None else sample.part.corner
    inside = replace(place, row=place.row - top, column=place.column - left)
    return not touched(inside, plane_of(sample, sample.target, place.slice if sample.target.ndim == 3 else None))


def _placed(place: Place, sample: Sample, index: int) -> Place:
    """A place of slice `index`, as seen in the box of the sample, where it is in the image."""
    top, left = (0, 0) if sample.part is None else sample.part.corner
    return replace(place, slice=index, row=place.row + top, column=place.column + left)
