"""State: the strokes of one image at a moment. Change: before ^ after in some boxes, so that what does it undoes it.

Labels stand in tiles, and only tiles that were drawn on take memory. Knows numpy only.
"""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

TILE = 256  # pixels along each side
AT_ONCE = 2**24  # voxels of a region that are compared in one piece

Region = tuple[slice | int, ...]  # of an array, as an index; axes left out are whole
Place = tuple[int, ...]  # index of a plane (the last two axes): (z,) in a stack, () in a 2-D image
Mark = tuple[Place, int]  # (plane, key of a class that is absent there)
Kind = Literal["stroke", "classes", "absent"]


@dataclass(frozen=True)
class LabelClass:
    """A class of the strokes; label i + 1 in the array is the i-th of them. The key stays when name or place change."""

    key: int
    name: str
    colour: str  # "#rrggbb"


Classes = tuple[LabelClass, ...]


class Change:
    """One step of the history. Toggling it in the state before gives the state after, and the other way round."""

    def __init__(
        self,
        kind: Kind,
        seconds: float,
        corners: Sequence[tuple[int, ...]] = (),
        deltas: Sequence[np.ndarray] = (),
        classes: tuple[Classes, Classes] | None = None,
        marks: frozenset[Mark] = frozenset(),
    ) -> None:
        """
        kind: what the person did; seconds: when, since 1970
        corners, deltas: first voxel of each box and its before ^ after (h, w)
        classes: before and after, where they changed; marks: those that were set or taken away
        """
        self.kind, self.seconds, self.classes, self.marks = kind, seconds, classes, marks
        self._corners, self._shapes = [tuple(c) for c in corners], [d.shape for d in deltas]
        self._deltas: list[np.ndarray] | None = list(deltas)
        self._dtype = deltas[0].dtype if deltas else np.dtype(np.uint8)
        self._packed = b""

    @property
    def regions(self) -> list[tuple[slice, ...]]:
        """Where in the array it was."""
        boxes = zip(self._corners, self._shapes, strict=True)
        return [
            (*(slice(i, i + 1) for i in c[:-2]), slice(c[-2], c[-2] + h), slice(c[-1], c[-1] + w))
            for c, (h, w) in boxes
        ]

    def boxes(self) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        """(first voxel, before ^ after (h, w)) of each box."""
        deltas = self._deltas
        if deltas is None:
            deltas = split(np.frombuffer(zlib.decompress(self._packed), self._dtype), self._shapes)
        yield from zip(self._corners, deltas, strict=True)

    def record(self) -> tuple[dict[str, Any], bytes]:
        """As JSON and packed boxes. From then on memory holds the latter only: some hundred bytes for a stroke."""
        if self._deltas is not None:
            self._packed = zlib.compress(b"".join(d.tobytes() for d in self._deltas), 1)
            self._deltas = None  # after the packed bytes are there: another thread may read
        header = {"kind": self.kind, "time": self.seconds, "dtype": self._dtype.str}
        header |= {"corners": self._corners, "shapes": self._shapes}
        if self.classes:
            header["classes"] = [class_list(each) for each in self.classes]
        if self.marks:
            header["marks"] = sorted(self.marks)
        return header, self._packed

    @classmethod
    def from_record(cls, header: dict[str, Any], packed: bytes) -> "Change":
        classes = tuple(map(classes_of, header["classes"])) if "classes" in header else None
        change = cls(header["kind"], header["time"], classes=classes, marks=marks_of(header.get("marks", [])))
        change._corners = [tuple(c) for c in header["corners"]]
        change._shapes = [tuple(s) for s in header["shapes"]]
        change._dtype, change._packed, change._deltas = np.dtype(header["dtype"]), packed, None
        return change


class State:
    """The strokes of a moment, in tiles (256 x 256 of a plane) that take no memory where nothing is drawn."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, classes: Classes = ()) -> None:
        self.shape, self.dtype, self.classes = shape, dtype, classes
        self.absent: frozenset[Mark] = frozenset()
        self.tiles: dict[tuple[int, ...], np.ndarray] = {}  # (*plane, row, column of tiles) -> (<= 256, <= 256)

    def copy(self) -> "State":
        other = State(self.shape, self.dtype, self.classes)
        other.absent, other.tiles = self.absent, {key: tile.copy() for key, tile in self.tiles.items()}
        return other

    def read(self, region: Region = ()) -> np.ndarray:
        """The labels of a region, every axis kept; of all of it by default."""
        box = bounds(region, self.shape)
        labels = np.zeros([stop - start for start, stop in box], self.dtype)
        for key in _tile_keys(box):
            tile = self.tiles.get(key)
            if tile is not None:
                ours, theirs = _overlap(key, box, tile.shape)
                _plane(labels, key, box)[theirs] = tile[ours]
        return labels

    def difference(self, data: Any, region: Region) -> tuple[list[tuple[int, ...]], list[np.ndarray]]:
        """Corners and before ^ after (h, w) of the boxes where `data`, an array of this shape, differs from here."""
        corners, deltas = [], []
        for box, block in _blocks(data, region, self.shape):
            keys = list(_tile_keys(box))
            if not block.any() and not any(key in self.tiles for key in keys):  # most of a large stack
                continue
            for key in keys:
                corner, delta = self._tile_difference(key, box, block)
                if delta is not None:
                    corners.append(corner)
                    deltas.append(delta)
        return corners, deltas

    def _tile_difference(
        self, key: tuple[int, ...], box: list[tuple[int, int]], block: np.ndarray
    ) -> tuple[tuple[int, ...], np.ndarray | None]:
        plane = _plane(block, key, box)
        ours, theirs = _overlap(key, box, tile_shape(key, self.shape))
        tile = self.tiles.get(key)
        delta = plane[theirs] if tile is None else plane[theirs] ^ tile[ours]
        if not delta.any():  # most tiles; three times as quick as by rows
            return (), None
        rows = np.flatnonzero(delta.any(1))
        columns = np.flatnonzero(delta[rows[0] : rows[-1] + 1].any(0))
        y, x = key[-2] * TILE + ours[0].start + rows[0], key[-1] * TILE + ours[1].start + columns[0]
        delta = delta[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return (*key[:-2], int(y), int(x)), delta.copy()  # a copy: the layer's own pixels go on changing

    def recast(self, moves: dict[int, int]) -> tuple[list[tuple[int, ...]], list[np.ndarray]]:
        """Corners and before ^ after of the tiles in which labels become others."""
        corners, deltas = [], []
        for key, tile in self.tiles.items():
            after = tile.copy()
            for label, other in moves.items():
                after[tile == label] = other
            if (after != tile).any():
                corners.append((*key[:-2], key[-2] * TILE, key[-1] * TILE))
                deltas.append(after ^ tile)
        return corners, deltas

    def toggle(self, change: Change) -> None:
        """Do the change, or undo it where it is done."""
        for corner, delta in change.boxes():
            key = (*corner[:-2], corner[-2] // TILE, corner[-1] // TILE)
            tile = self.tiles.get(key)
            if tile is None:
                tile = self.tiles[key] = np.zeros(tile_shape(key, self.shape), self.dtype)
            y, x = corner[-2] % TILE, corner[-1] % TILE
            tile[y : y + delta.shape[0], x : x + delta.shape[1]] ^= delta
            if not tile.any():
                del self.tiles[key]
        if change.classes:
            before, after = change.classes
            self.classes = before if self.classes == after else after
        self.absent ^= change.marks


def class_list(classes: Classes) -> list[list[Any]]:
    return [[each.key, each.name, each.colour] for each in classes]


def classes_of(values: Sequence[Sequence[Any]]) -> Classes:
    return tuple(LabelClass(*each) for each in values)


def marks_of(values: Sequence[Sequence[Any]]) -> frozenset[Mark]:
    return frozenset((tuple(place), key) for place, key in values)


# boxes and tiles ----------------------------------------------------------------------------------------------------


def bounds(region: Region, shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """(start, stop) of every axis. ValueError for a region outside the array."""
    if len(region) > len(shape):
        raise ValueError(f"the region {region} has more axes than the strokes {shape}")
    box = []
    for i, size in enumerate(shape):
        each = region[i] if i < len(region) else slice(None)
        if not isinstance(each, slice):
            each = slice(int(each), int(each) + 1)
            if not 0 <= each.start < size:
                raise ValueError(f"{each.start} is outside axis {i} of the strokes {shape}")
        start, stop, step = each.indices(size)
        if step != 1:
            raise ValueError(f"the region {region} has steps; give a box")
        box.append((start, max(start, stop)))
    return box


def _blocks(data: Any, region: Region, shape: tuple[int, ...]) -> Iterator[tuple[list[tuple[int, int]], np.ndarray]]:
    """The region in blocks along the first axis, small ones: a lazy volume is never in memory whole."""
    (start, stop), *rest = bounds(region, shape)
    each = max(1, AT_ONCE // max(1, math.prod(b - a for a, b in rest)))
    for first in range(start, stop, each):
        box = [(first, min(first + each, stop)), *rest]
        yield box, np.asarray(data[tuple(slice(*edges) for edges in box)])


def _tile_keys(box: list[tuple[int, int]]) -> Iterator[tuple[int, ...]]:
    """The tiles that a box touches."""
    if any(start == stop for start, stop in box):
        return iter(())
    rows = [range(start // TILE, (stop - 1) // TILE + 1) for start, stop in box[-2:]]
    return product(*(range(*each) for each in box[:-2]), *rows)


def tile_shape(key: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, int]:
    """Those at the far edges are smaller."""
    return tuple(min(TILE, size - TILE * i) for i, size in zip(key[-2:], shape[-2:], strict=True))


def _plane(block: np.ndarray, key: tuple[int, ...], box: list[tuple[int, int]]) -> np.ndarray:
    """The plane of a box (h, w) that a tile lies in."""
    return block[tuple(i - start for i, (start, _) in zip(key[:-2], box[:-2], strict=True))]


def _overlap(
    key: tuple[int, ...], box: list[tuple[int, int]], tile: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """What a tile and the plane of a box have in common: as an index of the tile, and as one of the plane."""
    ours, theirs = [], []
    for i, (start, stop), size in zip(key[-2:], box[-2:], tile, strict=True):
        first, last = max(start, i * TILE), min(stop, i * TILE + size)
        ours.append(slice(first - i * TILE, last - i * TILE))
        theirs.append(slice(first - start, last - start))
    return tuple(ours), tuple(theirs)


def split(values: np.ndarray, shapes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    """One flat array as arrays of these shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes], dtype=int)
    return [values[end - math.prod(shape) : end].reshape(shape) for end, shape in zip(ends, shapes, strict=True)]
