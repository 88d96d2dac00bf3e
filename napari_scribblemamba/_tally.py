"""How many pixels of each label are drawn, counted slice by slice, so that one stroke costs one slice."""

from collections.abc import Iterator

import numpy as np

MOST = 256  # labels from here on are counted as one: none of them is a class


class Tally:
    """Counts of the labels in an array (*space) of two axes or more; `due` are the slices yet to be counted."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.due: list[int] = []
        self._counts: dict[int, np.ndarray] = {}  # slice -> pixels of labels 0, 1, ...
        self.recount()

    def recount(self, index: int | None = None) -> None:
        """Count this slice now, or all of them when `work` is called."""
        if index is not None:
            self._count(index)
        else:
            self.due = list(range(1 if self.data.ndim == 2 else len(self.data)))

    def work(self) -> Iterator[int]:
        """Counts the slices that are due, one at a time."""
        while self.due:
            self._count(self.due[-1])
            yield self.due.pop()

    def pixels(self, label: int) -> int:
        return sum(int(counts[label]) for counts in self._counts.values() if label < len(counts))

    @property
    def slices(self) -> dict[int, int]:
        """The slices that are drawn on, in order, and how many pixels."""
        drawn = {index: int(counts[1:].sum()) for index, counts in self._counts.items()}
        return {index: drawn[index] for index in sorted(drawn) if drawn[index]}

    def _count(self, index: int) -> None:
        plane = np.asarray(self.data if self.data.ndim == 2 else self.data[index])
        if plane.any():  # quick: most slices of a stack are empty
            self._counts[index] = np.bincount(np.clip(plane, 0, MOST).ravel())
        else:
            self._counts.pop(index, None)
