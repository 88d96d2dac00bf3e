"""Stacks: which slices are neighbours, and those too large for memory, whose slices are read when they are asked for.

C channels · D slices of a stack, H W of a slice · n slices of a part, h w of a slice of it. Volumes through time are
one stack, their slices one volume after the other; nothing runs from the last slice of one to the first of the next.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

LARGE = 2**25  # voxels of all channels above which an image stays where it is, and only a part of it is learnt from
LEARNT = 2**22  # voxels of such a part, where strokes leave the choice
REACH = 3  # slices before and behind one with strokes that are learnt from with it, at most
ROOM = 64  # pixels around the box of all strokes
GRID = 128  # pixels: the box grows in such steps, so that not every stroke changes the part
SHORTEST = 512  # pixels along the sides of a part, where the slices have as many
SPREAD = 8  # slices that the intensities of a stack are known by
VALUES = 2**17  # pixels of each of these slices, at most

Side = tuple[int, int]  # first, and one past the last
Box = tuple[Side, Side]  # rows and columns


@dataclass(frozen=True)
class Part:
    """Where in its stack a sample lies."""

    slices: tuple[int, ...]  # their numbers in the stack, ascending
    box: Box  # rows and columns
    depth: int  # slices of one volume of the stack
    size: tuple[int, int]  # H, W of a slice of the stack

    @property
    def space(self) -> tuple[int, int, int]:
        return len(self.slices), *(stop - start for start, stop in self.box)

    @property
    def index(self) -> tuple[slice, slice]:
        """Of the box in a slice (H, W)."""
        return tuple(slice(*side) for side in self.box)

    @property
    def runs(self) -> list[range]:
        """Positions of slices that follow one another in a volume."""
        z = np.array(self.slices)
        apart = (np.diff(z) > 1) | (np.diff(z // self.depth) > 0)
        ends = [0, *(np.flatnonzero(apart) + 1).tolist(), len(z)]
        return [range(*pair) for pair in pairwise(ends)]

    @property
    def corner(self) -> tuple[int, int]:
        """First row and column of the box."""
        return self.box[0][0], self.box[1][0]

    def position(self, number: int) -> int | None:
        """Of a slice of the stack; None where it is not of this part."""
        return self.slices.index(number) if number in self.slices else None

    def plane(self, values: np.ndarray, fill: int) -> np.ndarray:
        """(h, w) of a slice of this part -> (H, W) of it whole."""
        plane = np.full(self.size, fill, values.dtype)
        plane[self.index] = values
        return plane


@dataclass(frozen=True, eq=False)
class Stack:
    """An image that is read slice by slice: `np.asarray` of it, or of a `cut`, is float32 (C, *space)."""

    read: Callable[[int, slice, slice], np.ndarray]  # number of a slice, rows, columns -> (C, h, w)
    whole: tuple[int, int, int, int]  # C, D, H, W
    depth: int  # slices of one volume
    part: Part | None = None  # None: all of it
    _known: dict[str, np.ndarray] = field(default_factory=dict)  # shared by all parts

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.whole if self.part is None else (self.whole[0], *self.part.space)

    @property
    def ndim(self) -> int:
        return 4

    def cut(self, part: Part) -> "Stack":
        return replace(self, part=part)

    def same_as(self, other: object) -> bool:
        """Whether both read the same voxels."""
        return isinstance(other, Stack) and other._known is self._known and other.part == self.part

    def plane(self, number: int) -> np.ndarray:
        """Slice `number` of the whole stack, be it of the part or not, in the part's box: float32 (C, h, w). ValueError
        where it holds NaN or infinity."""
        return self._finite(number, *((slice(None), slice(None)) if self.part is None else self.part.index))

    def values(self) -> np.ndarray:
        """float32 (C, m): what intensities the whole stack has, from evenly spread slices. Read once."""
        if "values" not in self._known:
            _, depth, height, width = self.whole
            numbers = np.unique(np.linspace(0, depth - 1, SPREAD + 2).round().astype(int)[1:-1] if depth > 2 else [0])
            step = int(np.ceil((height * width / VALUES) ** 0.5))
            whole = replace(self, part=None)
            planes = [whole.plane(int(number))[:, ::step, ::step] for number in numbers]
            self._known["values"] = np.stack(planes, 1).reshape(self.whole[0], -1)
        return self._known["values"]

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        numbers = range(self.whole[1]) if self.part is None else self.part.slices
        array = np.empty(self.shape, np.float32)
        for position, number in enumerate(numbers):
            array[:, position] = self.plane(number)
        return array

    def _finite(self, number: int, rows: slice, columns: slice) -> np.ndarray:
        plane = np.asarray(self.read(number, rows, columns), np.float32)
        if not np.isfinite(plane).all():
            raise ValueError(f"slice {number} of the image has NaN or infinity; replace them by numbers")
        return plane


def part_around(drawn: Mapping[int, Box], marked: Iterable[int], stack: Stack) -> Part:
    """What is learnt from: the slices with strokes {number: box of them} or marks, as many of their neighbours as
    LEARNT has room for, and of each the box of all strokes with some room around."""
    _, depth, *plane = stack.whole
    box = roomy(list(drawn.values()), tuple(plane))
    area = int(np.prod([stop - start for start, stop in box]))
    own = {*drawn, *marked} or {0}
    for reach in range(REACH, -1, -1):
        near = {z + step for z in own for step in range(-reach, reach + 1)}
        slices = {z for z in near if 0 <= z < depth and any(_neighbours(z, o, reach, stack.depth) for o in own)}
        if len(slices) * area <= LEARNT:
            break
    return Part(tuple(sorted(slices)), box, stack.depth, tuple(plane))


def _neighbours(one: int, other: int, reach: int, depth: int) -> bool:
    return abs(one - other) <= reach and one // depth == other // depth


def roomy(boxes: list[Box], plane: tuple[int, int]) -> Box:
    """The box of all boxes, with room around, as far as the slice (H, W) has it; without boxes all of the slice."""
    if not boxes:
        return (0, plane[0]), (0, plane[1])
    sides = []
    for axis, size in enumerate(plane):
        start, stop = min(box[axis][0] for box in boxes) - ROOM, max(box[axis][1] for box in boxes) + ROOM
        lack = max(0, SHORTEST - (stop - start))
        start, stop = start - lack // 2, stop + (lack - lack // 2)
        start, stop = max(0, start // GRID * GRID), min(size, -(-stop // GRID) * GRID)
        sides.append((start, stop))
    return tuple(sides)
