"""Box: the part of an image, in rows and columns, that one trains and predicts in; of a stack all slices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Sides = tuple[tuple[int, int], tuple[int, int]]  # rows and columns: the first, and one past the last
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

    def within(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns of the box as those of the image."""
        sides = range(self.top, self.bottom)[rows], range(self.left, self.right)[columns]
        return tuple(slice(side.start, side.stop) for side in sides)

    def seen_from(self, row: int, column: int) -> "Box":
        """The same box, counted from this pixel of the image; what is before it is left out."""
        corners = (self.top - row, self.left - column, self.bottom - row, self.right - column)
        return Box(*(max(0, each) for each in corners))

    def clipped(self, drawn: Mapping[int, Sides]) -> dict[int, Sides]:
        """Of rows and columns in some slices {number: them} of the image what is inside, counted from the corner."""
        found = {}
        for number, sides in drawn.items():
            lines = zip(sides, (self.top, self.left), self.shape, strict=True)
            cut = tuple(tuple(int(np.clip(end - first, 0, size)) for end in side) for side, first, size in lines)
            if all(start < stop for start, stop in cut):
                found[number] = cut
        return found

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
