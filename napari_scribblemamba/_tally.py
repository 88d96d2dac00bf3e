"""How many pixels of each label are drawn and in which box, slice by slice, so that one stroke costs one slice."""

import math
from collections.abc import Iterator

import numpy as np

MOST = 256  # labels from here on are counted as one: none of them is a class
Box = tuple[tuple[int, int], tuple[int, int]]  # rows and columns: the first, and one past the last


class Tally:
    """Counts of the labels in an array (*space) of two axes or more; `due` are the slices yet to be counted.

    Slices are numbered over all axes but the last two, the last of them first.
    """

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.due: list[int] = []
        self.boxes: dict[int, Box] = {}  # slice -> where in it something is drawn
        self._counts: dict[int, np.ndarray] = {}  # slice -> pixels of labels 0, 1, ... in its box
        self.recount()

    def recount(self, index: int | None = None) -> None:
        """Count this slice now, or all of them when `work` is called."""
        if index is not None:
            self._count(index)
        else:
            self.due = list(range(math.prod(self.data.shape[:-2])))

    def work(self) -> Iterator[int]:
        """Counts the slices that are due, one at a time."""
        while self.due:
            self._count(self.due[-1])
            yield self.due.pop()

    def settle(self) -> "Tally":
        """Counts all that is due."""
        list(self.work())
        return self

    def pixels(self, label: int) -> int:
        """Of a label above 0."""
        return sum(int(counts[label]) for counts in self._counts.values() if label < len(counts))

    @property
    def slices(self) -> dict[int, int]:
        """The slices that are drawn on, in order, and how many pixels."""
        drawn = {index: int(counts[1:].sum()) for index, counts in self._counts.items()}
        return {index: drawn[index] for index in sorted(drawn) if drawn[index]}

    def _count(self, index: int) -> None:
        place = np.unravel_index(index, self.data.shape[:-2]) if self.data.ndim > 2 else ()
        plane = np.asarray(self.data[tuple(map(int, place))])
        if plane.any():  # quick: most slices of a stack are empty
            self.boxes[index] = box = box_of(plane)
            inside = plane[tuple(slice(*side) for side in box)]  # of a large slice mostly a small part
            self._counts[index] = np.bincount(np.clip(inside, 0, MOST).ravel())
        else:
            self._counts.pop(index, None)
            self.boxes.pop(index, None)


def box_of(plane: np.ndarray) -> Box:
    """Of all that is not 0 in (H, W)."""
    rows = np.flatnonzero(plane.any(1))
    columns = np.flatnonzero(plane[rows[0] : rows[-1] + 1].any(0))
    return tuple((int(line[0]), int(line[-1]) + 1) for line in (rows, columns))
