"""Box: the part of an image, in rows and columns, that one trains and predicts in; of a stack all slices."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainer import Sample

SMALLEST = 32  # pixels along a side; what is smaller says little to any network


@dataclass(frozen=True)
class Box:
    """The first row and column, and those after the last."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def index(self) -> tuple[object, slice, slice]:
        """Of an array whose last two axes are rows and columns."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left

    def cut(self, sample: "Sample") -> "Sample":
        """What of a sample is inside."""
        return replace(sample, image=sample.image[self.index], target=sample.target[self.index])

    def masked(self, values: np.ndarray, outside: int) -> np.ndarray:
        """The same values (*space) inside, this one elsewhere."""
        kept = np.full_like(values, outside)
        kept[self.index] = values[self.index]
        return kept


def box_around(corners: np.ndarray, space: Sequence[int]) -> Box:
    """The whole pixels within some points (n, 2), inside the image, and no smaller than it may be."""
    sides = []
    for (first, last), size in zip(zip(corners.min(0), corners.max(0), strict=True), space[-2:], strict=True):
        least = min(SMALLEST, size)
        start = int(np.clip(round(float(first)), 0, size - least))
        sides.append((start, int(np.clip(round(float(last)), start + least, size))))
    (top, bottom), (left, right) = sides
    return Box(top, left, bottom, right)
