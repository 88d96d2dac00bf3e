"""Journal: each change of one image's strokes on disk as it is made; undo without end, recovery, replay, minutes drawn.

A journal file (a `Log`) is the state at its beginning and then the changes, undos and redos in the order they were
made. Knows numpy arrays and files; neither Qt nor napari nor torch.
"""

import bisect
import json
import math
import struct
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from napari_scribblemamba._log import PATIENCE, Damage, Log, good_records
from napari_scribblemamba._strokes import (
    Change,
    Classes,
    Mark,
    Place,
    Region,
    State,
    bounds,
    class_list,
    classes_of,
    marks_of,
    split,
    tile_shape,
)

STEPS = 10_000  # of undo that compaction keeps
SLACK = 1_000  # records that undo and redo no longer need, before an opening compacts
EMPTY = 2**16  # bytes that a journal stays below until something is drawn
PAUSE = 30.0  # seconds without a change after which nobody is taken to be drawing


class Journal:
    """The strokes of one image, and their history. All calls from one thread, `failed` comes from another.

    journal = Journal.create(file, strokes.shape, strokes.dtype, classes)      # or Journal(file)
    journal.record(strokes, region)                                            # after each stroke
    if change := journal.undo(): journal.restore(strokes, change.regions)      # Ctrl+Z
    """

    def __init__(
        self,
        file: Path,
        failed: Callable[[OSError], None] | None = None,
        clock: Callable[[], float] = time.time,
        steps: int = STEPS,
    ) -> None:
        """Open the file; `damage` says what of it could not be read. ValueError where nothing could.

        failed: told once, from another thread, when the disk begins to refuse; clock: seconds since 1970
        """
        self._log = Log(file, failed)
        self._clock, self._steps = clock, steps
        self._undone: list[Change] = []  # the last is redone first
        self._done: list[Change] = []  # the last is undone first
        self._timeline: list[tuple[float, Change]] = []  # each toggled at that moment
        self._replay: tuple[State, int] | None = None  # what `at` gave, and how many of the timeline are in it
        try:
            self._load(self._log.payloads)
        except (KeyError, TypeError, IndexError, struct.error, zlib.error, json.JSONDecodeError) as e:
            self._log.abandon()
            raise ValueError(f"{file} has records that this version does not understand ({e!r}); update it") from e
        self._log.payloads = []
        self._end = weakref.finalize(self, self._log.abandon)  # also at the end of a program that forgot to close
        if len(self._timeline) > 2 * steps or self._idle_records() > SLACK:
            self.compact()

    @classmethod
    def create(
        cls, file: Path, shape: Sequence[int], dtype: np.dtype, classes: Classes = (), **options: Any
    ) -> "Journal":
        """A new journal of strokes, empty, with these classes. FileExistsError rather than to write over one."""
        dtype = np.dtype(dtype)
        if len(shape) < 2 or not np.issubdtype(dtype, np.integer):
            raise ValueError(f"strokes are whole numbers on two axes or more, got {dtype} of shape {tuple(shape)}")
        base = State(tuple(int(n) for n in shape), dtype, tuple(classes))
        Log.create(file, _base_payload(base, [], 0))
        return cls(file, **options)

    # now ------------------------------------------------------------------------------------------------------------

    @property
    def file(self) -> Path:
        return self._log.file

    @property
    def shape(self) -> tuple[int, ...]:
        return self._state.shape

    @property
    def dtype(self) -> np.dtype:
        return self._state.dtype

    @property
    def classes(self) -> Classes:
        return self._state.classes

    @property
    def absent(self) -> frozenset[Mark]:
        """(plane, key of the class) of all marks."""
        return self._state.absent

    @property
    def damage(self) -> Damage | None:
        """What could not be read when it was opened."""
        return self._log.damage

    @property
    def pending(self) -> int:
        """Changes that are not on disk yet."""
        return self._log.pending

    @property
    def places(self) -> list[Place]:
        """The planes with strokes, in order."""
        return sorted({key[:-2] for key in self._state.tiles})

    def read(self, region: Region = ()) -> np.ndarray:
        """The strokes of a region, every axis kept."""
        return self._state.read(region)

    def restore(self, data: Any, regions: Sequence[Region] | None = None) -> None:
        """Write the strokes into an array: the regions of a change, or else all planes that have any."""
        self._check(data)
        for region in self.places if regions is None else regions:
            index = tuple(slice(*each) for each in bounds(region, self.shape))
            data[index] = self._state.read(region)

    # changes --------------------------------------------------------------------------------------------------------

    def record(self, data: Any, region: Region) -> Change | None:
        """What changed in a region of `data` (numpy, dask, zarr) since the last record: a step; None where nothing did.

        The region is compared whole, so give the slice or the box that was drawn in: (z,) or (z, slice(y0, y1), ...).
        """
        self._check(data)
        corners, deltas = self._state.difference(data, region)
        return self._add(Change("stroke", self._now(), corners, deltas)) if corners else None

    def set_classes(self, classes: Classes) -> Change | None:
        """Other names, colours, order; classes added or gone. Strokes follow the keys, those of a class gone go too."""
        classes = tuple(classes)
        if classes == self.classes:
            return None
        keys = [each.key for each in classes]
        if len(set(keys)) < len(keys):
            raise ValueError(f"two classes have one key: {keys}")
        corners, deltas = self._state.recast(self._moves(keys))
        gone = frozenset(mark for mark in self.absent if mark[1] not in keys)
        return self._add(Change("classes", self._now(), corners, deltas, (self.classes, classes), gone))

    def mark_absent(self, place: Place, key: int, absent: bool = True) -> Change | None:
        """Say that a class is nowhere in a plane, or take that back; None where it is so already."""
        mark = (tuple(int(i) for i in place), key)
        if (mark in self.absent) == absent:
            return None
        if len(mark[0]) != len(self.shape) - 2 or key not in {each.key for each in self.classes}:
            raise ValueError(f"no plane {mark[0]} in {self.shape}, or no class with key {key} in {self.classes}")
        return self._add(Change("absent", self._now(), marks=frozenset([mark])))

    def undo(self) -> Change | None:
        """Take back the last step; `restore` its regions then. None where nothing is left to take back."""
        return self._step("undo", self._done)

    def redo(self) -> Change | None:
        """Do again what was undone last. None where nothing was, or something was drawn since."""
        return self._step("redo", self._undone)

    @property
    def strokes(self) -> int:
        """How many strokes stand, of those that can be taken back."""
        return sum(change.kind == "stroke" for change in self._done)

    @property
    def next_undo(self) -> Change | None:
        return self._done[-1] if self._done else None

    @property
    def next_redo(self) -> Change | None:
        return self._undone[-1] if self._undone else None

    # the past -------------------------------------------------------------------------------------------------------

    @property
    def times(self) -> list[float]:
        """When something was done, undone or redone, seconds since 1970."""
        return [*self._past, *(seconds for seconds, _ in self._timeline[self._counted :])]

    @property
    def moments(self) -> list[float]:
        """Those of the times that `at` can tell apart, in order."""
        return [seconds for seconds, _ in self._timeline]

    def at(self, seconds: float) -> State:
        """The strokes as they were at a moment; before the first, those that the history begins with.

        The state is good until the next call, which goes on from it, forwards or backwards: a slider moves quickly.
        """
        place = bisect.bisect_right(self._timeline, seconds, key=lambda each: each[0])
        state, shown = self._replay or (self._base.copy(), 0)
        between = self._timeline[shown:place] if shown <= place else self._timeline[place:shown][::-1]
        for _, change in between:
            state.toggle(change)
        self._replay = state, place
        return state

    def minutes(self, pause: float = PAUSE) -> float:
        """Time spent drawing: the sum of the gaps between changes that are no longer than a pause (seconds)."""
        gaps = np.diff(self.times)
        return float(gaps[gaps <= pause].sum()) / 60

    # the file -------------------------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Write the file anew, in the background: without what was undone and drawn over since, and no more than the
        last 10,000 steps of undo. Strokes, undo, redo and minutes stay as they are."""
        done, undone, times = list(self._done), list(reversed(self._undone)), self.times
        self._log.rewrite(partial(_compacted, self._base, done, undone, times, self._steps))

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until all is on disk; whether it is."""
        return self._log.flush(seconds)

    def close(self, seconds: float = PATIENCE) -> None:
        """Once all is on disk. OSError, and the journal stays open, where the disk refuses for so long."""
        self._log.close(seconds)
        self._end.detach()

    # helpers --------------------------------------------------------------------------------------------------------

    def _add(self, change: Change) -> Change:
        self._state.toggle(change)
        self._note(change, "do")
        self._log.append(partial(_change_payload, change))
        return change

    def _step(self, verb: str, source: list[Change]) -> Change | None:
        if not source:
            return None
        change, seconds = source[-1], self._now()
        self._state.toggle(change)
        self._note(change, verb, seconds)
        self._log.append(partial(_payload, {"kind": verb, "time": seconds}))
        return change

    def _note(self, change: Change, verb: str, seconds: float | None = None) -> None:
        """Keep the linear history: who draws after an undo has nothing left to redo."""
        if verb == "undo":
            self._undone.append(self._done.pop())
        elif verb == "redo":
            self._done.append(self._undone.pop())
        else:
            self._done.append(change)
            self._undone.clear()
        self._timeline.append((change.seconds if seconds is None else seconds, change))

    def _load(self, payloads: Sequence[bytes]) -> None:
        self._base, self._past, self._counted = _read_base(payloads[0])
        self._state = self._base.copy()
        for payload in payloads[1:]:
            header, packed = _unpack(payload)
            verb = header["kind"]
            if verb in ("undo", "redo"):
                change = (self._done if verb == "undo" else self._undone)[-1]
            else:
                change = Change.from_record(header, packed)
            self._state.toggle(change)
            self._note(change, verb, header["time"])

    def _idle_records(self) -> int:
        return len(self._timeline) - len(self._done) - 2 * len(self._undone)

    def _moves(self, keys: Sequence[int]) -> dict[int, int]:
        """label -> label, so that strokes keep their class; labels of no class stay such."""
        moves = {i: keys.index(c.key) + 1 if c.key in keys else 0 for i, c in enumerate(self.classes, start=1)}
        beyond = sorted({int(v) for tile in self._state.tiles.values() for v in np.unique(tile)} - {0, *moves})
        moves |= {label: label + len(keys) - len(self.classes) for label in beyond}
        limit = np.iinfo(self.dtype).max
        if max(len(keys), *moves.values(), 0) > limit:
            raise ValueError(f"the strokes hold labels up to {limit}, too few for {len(keys)} classes")
        return {label: other for label, other in moves.items() if label != other}

    def _now(self) -> float:
        """Never before the last change, even if the clock was set back."""
        last = self._timeline[-1][0] if self._timeline else self._past[-1] if self._past else -math.inf
        return max(self._clock(), last)

    def _check(self, data: Any) -> None:
        if tuple(data.shape) != self.shape or np.dtype(data.dtype) != self.dtype:
            raise ValueError(
                f"{self.file} is of strokes {self.shape} {self.dtype}, got {tuple(data.shape)} {data.dtype}; "
                "open it with the image it belongs to"
            )


def was_drawn_in(file: Path) -> bool:
    """Whether anything was ever drawn in a journal, without opening it. OSError, ValueError where it cannot be read."""
    if file.stat().st_size > EMPTY:
        return True
    payloads, _, reason = good_records(file.read_bytes())
    if not payloads:
        raise ValueError(f"{file} is damaged from its first record on ({reason})")
    return len(payloads) > 1 or bool(reason) or bool(_read_base(payloads[0])[1])


# records ------------------------------------------------------------------------------------------------------------


def _payload(header: dict[str, Any], packed: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + packed


def _change_payload(change: Change) -> bytes:
    return _payload(*change.record())


def _unpack(payload: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<I", payload)
    return json.loads(payload[4 : 4 + length]), payload[4 + length :]


def _base_payload(base: State, times: Sequence[float], counted: int) -> bytes:
    """The state that a history begins with; `times` of all that ever happened, the next `counted` changes included."""
    header = {"kind": "base", "shape": base.shape, "dtype": base.dtype.str, "classes": class_list(base.classes)}
    header |= {"absent": sorted(base.absent), "tiles": list(base.tiles), "times": len(times), "counted": counted}
    blob = np.asarray(times, "<f8").tobytes() + b"".join(tile.tobytes() for tile in base.tiles.values())
    return _payload(header, zlib.compress(blob, 1))


def _read_base(payload: bytes) -> tuple[State, list[float], int]:
    """The state, the times and how many of the changes that follow are among them."""
    header, packed = _unpack(payload)
    base = State(tuple(header["shape"]), np.dtype(header["dtype"]), classes_of(header["classes"]))
    base.absent = marks_of(header["absent"])
    blob, keys = zlib.decompress(packed), [tuple(key) for key in header["tiles"]]
    end = 8 * header["times"]
    labels = np.frombuffer(blob[end:], base.dtype)
    tiles = split(labels, [tile_shape(key, base.shape) for key in keys])
    base.tiles = {key: tile.copy() for key, tile in zip(keys, tiles, strict=True)}
    return base, np.frombuffer(blob[:end], "<f8").tolist(), header["counted"]


def _compacted(
    base: State, done: Sequence[Change], undone: Sequence[Change], times: Sequence[float], steps: int
) -> list[bytes]:
    """The records of a file that has this state, undo, redo and these times; `undone` in the order they were drawn."""
    folded = max(0, len(done) - steps)
    base = base.copy() if folded else base
    for change in islice(done, folded):
        base.toggle(change)
    kept = [*done[folded:], *undone]
    undo = _payload({"kind": "undo", "time": times[-1] if times else 0.0})
    first = _base_payload(base, times, len(kept) + len(undone))
    return [first, *(_change_payload(change) for change in kept), *[undo] * len(undone)]
