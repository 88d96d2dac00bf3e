"""Log: an append-only file of checksummed records, written by a thread of its own; and files that are whole or absent.

A file is one line (MAGIC, with the version) and then records, each a head and a payload. The head holds a mark, the
record's number, the payload's length and CRC-32, and its own CRC-32. What a crash cuts short is found by these, removed
at the next opening and told; what is damaged otherwise is put aside, never thrown away. No Qt, no arrays.
"""

import glob
import logging
import os
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import chain, count
from pathlib import Path

log = logging.getLogger(__name__)
NAME, VERSION = b"SCRIBBLES ", 1
MAGIC = NAME + b"%d\n" % VERSION
MARK = b"\xabSTK"
HEAD = struct.Struct("<4sIIII")  # mark, number, length and CRC of the payload, CRC of the head before it
RETRY = 1.0  # seconds between two tries while the disk refuses
PATIENCE = 10.0  # seconds that closing waits for the disk, unless told otherwise

Payload = Callable[[], bytes]  # made in the thread: compression takes longer than a frame of the window


@dataclass(frozen=True)
class Damage:
    """What of a log could not be read; everything before it was."""

    file: Path
    at: int  # byte where the good part ends
    lost: int  # bytes after it
    reason: str
    aside: Path | None = None  # where the rest was put; None for what a crash had not finished writing
    later: int = 0  # whole records in the rest

    def __str__(self) -> str:
        text = f"{self.file}: {self.reason} at byte {self.at}; everything before it is restored"
        if self.aside is None:
            return f"{text}, {self.lost} bytes that were not finished are cut off"
        return f"{text}, the {self.lost} bytes from there on, with {self.later} whole records, are kept in {self.aside}"


class Log:
    """The records of one file. `append` returns at once; one thread makes and writes what it is given, another fsyncs
    it: a program that is killed has lost nothing to a slow disk, as the system writes on what it was given.

    While the disk refuses (full, gone), records wait in memory and are tried again each second; `failed` is called
    once, from the thread, when that begins. What is in the file stays good: a try that fails is cut off again.
    """

    def __init__(self, file: Path, failed: Callable[[OSError], None] | None = None) -> None:
        """Open a file that `create` made. ValueError where it is no log or of a newer version."""
        self.file = file
        remove_drafts(file)
        self.payloads, self.damage = read_log(file)  # the first is always there
        self._stream: FileIO | None = None  # opened with the first record: a list of many images only reads their logs
        self._good, self._count = os.path.getsize(file), len(self.payloads)
        self._safe = self._good  # byte that all before it is fsynced
        self._pending: deque[tuple[bool, object]] = deque()  # (is a rewrite, payload or all payloads)
        self._written: deque[bytes] = deque()  # records that are in the file, and not fsynced
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._syncer = Writer(self._sync_written, failed, f"{file.name}, to the disk")
        self._writer = Writer(self._write_pending, failed, file.name)

    @staticmethod
    def create(file: Path, first: bytes) -> None:
        """A log of one record. FileExistsError rather than to write over anything."""
        if file.exists():
            raise FileExistsError(f"{file} exists; open it, or choose another name")
        write_whole(file, MAGIC + record(0, first))

    @property
    def pending(self) -> int:
        """Records that are not on disk yet."""
        return len(self._pending) + len(self._written)

    def append(self, payload: Payload) -> None:
        self._pending.append((False, payload))
        self._writer.wake()

    def rewrite(self, payloads: Callable[[], Sequence[bytes]]) -> None:
        """Put these records in the place of all before them, once they are whole on disk and read back equal."""
        self._pending.append((True, payloads))
        self._writer.wake()

    def flush(self, seconds: float = PATIENCE) -> bool:
        """Wait until all is on disk; whether it is."""
        until = time.monotonic() + seconds
        return self._writer.flush(seconds) and self._syncer.flush(max(until - time.monotonic(), 0))

    def close(self, seconds: float = PATIENCE) -> None:
        """End the threads, all being written. OSError, and the log stays open, where the disk refuses still."""
        if not self.flush(seconds):
            reason = self._writer.error or self._syncer.error or "the disk is slow"
            raise OSError(f"{self.pending} changes are not in {self.file} yet ({reason}); make room and close again")
        self.abandon()

    def abandon(self) -> None:
        """End the threads after one last try, as a program does that is ending."""
        self._writer.close()
        self._syncer.close()
        if self.pending:
            log.error("%d changes were not written to %s", self.pending, self.file)
        if self._stream is not None:
            self._stream.close()

    # in the threads -------------------------------------------------------------------------------------------------

    def _write_pending(self) -> None:
        while self._pending:
            whole, payload = self._pending[0]
            if whole:
                self._write_whole(payload)
                self._pending.popleft()
                continue
            batch = []
            for i in range(len(self._pending)):  # by index: the window may append meanwhile
                whole, payload = self._pending[i]
                if whole:
                    break
                batch.append(payload())
            self._write(batch)
            for _ in batch:
                self._pending.popleft()

    def _write(self, payloads: Sequence[bytes]) -> None:
        self._check_place()
        records = [record(self._count + i, each) for i, each in enumerate(payloads)]
        try:
            self._put(self._good, records)
        except OSError as e:
            self._stream.truncate(self._good)  # what fitted of it
            raise self._refusal(e) from e
        self._good += sum(map(len, records))
        self._count += len(records)
        self._written.extend(records)
        self._syncer.wake()

    def _put(self, at: int, records: Iterable[bytes]) -> None:
        rest = memoryview(b"".join(records))
        with self._writing:
            self._stream.seek(at)
            while rest:
                rest = rest[self._stream.write(rest) :]

    def _sync_written(self) -> None:
        with self._syncing:
            records = list(self._written)
            try:
                if self._syncer.error is not None:  # after a refusal, a system may take what was not written for clean
                    self._put(self._safe, records)
                os.fsync(self._stream.fileno())
            except OSError as e:
                raise self._refusal(e) from e
            self._safe += sum(map(len, records))
            for _ in records:
                self._written.popleft()

    def _refusal(self, error: OSError) -> OSError:
        return OSError(
            f"could not write strokes to {self.file}: {error}; they stay in memory and are tried again, so make room "
            "and leave the window open"
        )

    def _write_whole(self, make: Callable[[], Sequence[bytes]]) -> None:
        """Compaction is no duty: where it fails, that is told and the file stays as it was."""
        payloads = make()
        draft = draft_of(self.file)
        try:
            self._check_place()
            draft.write_bytes(MAGIC + b"".join(record(i, each) for i, each in enumerate(payloads)))
            _sync(draft)
            if good_records(draft.read_bytes())[0] != list(payloads):
                raise OSError("what was written does not read back equal")
            self._replace(draft)
            self._count = len(payloads)
            _sync_folder(self.file.parent)
        except OSError as e:
            self._writer.tell(OSError(f"could not compact {self.file}: {e}; the strokes are safe in it"))
        finally:
            draft.unlink(missing_ok=True)

    def _replace(self, draft: Path) -> None:
        """Put an fsynced draft in the place of the file; nothing waits for an fsync then."""
        with self._syncing:
            self._stream.close()  # Windows replaces no open file
            try:
                draft.replace(self.file)
                self._written.clear()
                self._good = self._safe = os.path.getsize(self.file)
            finally:
                self._stream = self.file.open("r+b", buffering=0)

    def _check_place(self) -> None:
        """Of the file as it was read or written last; it is opened where it is not. OSError where it is another."""
        opened = self._stream is not None and not self._stream.closed  # not, too, if that failed after a compaction
        same = self.file.exists() and (
            os.path.samestat(self.file.stat(), os.fstat(self._stream.fileno()))
            if opened
            else os.path.getsize(self.file) == self._good
        )
        if not same:
            raise OSError(f"{self.file} was removed or replaced by another program; put it back where it was")
        if not opened:
            self._stream = self.file.open("r+b", buffering=0)


class Writer:
    """A thread that does a piece of work on disk whenever woken, and again each second while the disk refuses."""

    def __init__(self, work: Callable[[], None], failed: Callable[[OSError], None] | None, name: str) -> None:
        self.error: OSError | None = None
        self._work, self._failed = work, failed or (lambda error: log.error("%s", error))
        self._asked = self._done = 0
        self._closed = False
        self._changed = threading.Condition()
        # a daemon, or a program that forgets to close would never end
        self._thread = threading.Thread(target=self._run, name=f"writer of {name}", daemon=True)

    def wake(self) -> None:
        with self._changed:
            if self._closed:
                raise RuntimeError(f"the {self._thread.name} is closed")
            if self._asked == 0:  # many journals are opened only to be read
                self._thread.start()
            self._asked += 1
            self._changed.notify_all()

    def flush(self, seconds: float) -> bool:
        """Wait until what was asked for is done; whether it is."""
        with self._changed:
            asked = self._asked
            return self._changed.wait_for(lambda: self._done >= asked, seconds)

    def close(self) -> None:
        """End the thread, after one last try of what is not done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._asked:
            self._thread.join(PATIENCE)

    def tell(self, error: OSError) -> None:
        """Call `failed`, from the thread."""
        try:
            self._failed(error)
        except Exception:  # of a window that is gone, perhaps; the strokes are to be written all the same
            log.exception("nobody could be told that %s", error)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._done or self._closed)
                asked, last = self._asked, self._closed
            if asked > self._done:
                self._try(asked)
            if last:
                return

    def _try(self, asked: int) -> None:
        try:
            self._work()
        except Exception as e:  # a thread that ended would leave all that follows in memory
            told, self.error = self.error is not None, e if isinstance(e, OSError) else OSError(f"{e!r}")
            if not told:  # once, not every second
                self.tell(self.error)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, RETRY)
            return
        self.error = None
        with self._changed:
            self._done = asked
            self._changed.notify_all()


# reading ------------------------------------------------------------------------------------------------------------


def read_log(file: Path) -> tuple[list[bytes], Damage | None]:
    """The payloads of a log; what cannot be read is cut off the file, and put aside if it is more than a torn end.

    ValueError, and the file is untouched, where it is no log, is of a newer version or has no good record at all.
    """
    content = file.read_bytes()
    _check_version(file, content)
    payloads, at, reason = good_records(content)
    if not payloads:
        raise ValueError(f"{file} is damaged from its first record on ({reason}); take it from a backup")
    if not reason:
        return payloads, None
    rest = content[at:]
    if reason.startswith("unfinished") or not any(rest):  # zeros: the machine lost power before they were written
        damage = Damage(file, at, len(rest), reason)
    else:
        aside = _unused(file.with_name(f"{file.name}.damaged-{at}"))
        write_whole(aside, rest)
        damage = Damage(file, at, len(rest), reason, aside, _whole_records(rest))
    os.truncate(file, at)
    return payloads, damage


def good_records(content: bytes) -> tuple[list[bytes], int, str]:
    """Payloads up to the first that is not good, where they end, and what is wrong there ("" where nothing is)."""
    payloads: list[bytes] = []
    at = len(MAGIC)
    while at < len(content):
        payload, reason = _record_at(content, at)
        if payload is None:
            return payloads, at, reason
        number = HEAD.unpack_from(content, at)[1]
        if number != len(payloads):
            return payloads, at, f"record {number} where record {len(payloads)} should be"
        payloads.append(payload)
        at += HEAD.size + len(payload)
    return payloads, at, ""


def record(number: int, payload: bytes) -> bytes:
    start = HEAD.pack(MARK, number, len(payload), zlib.crc32(payload), 0)[:-4]
    return start + struct.pack("<I", zlib.crc32(start)) + payload


def _record_at(content: bytes, at: int) -> tuple[bytes | None, str]:
    """The payload of the record that begins here, or None and why there is none."""
    head = content[at : at + HEAD.size]
    if len(head) < HEAD.size:
        torn = head.startswith(MARK[: len(head)])
        return None, "unfinished record" if torn else "damaged record"
    mark, _, length, crc, head_crc = HEAD.unpack(head)
    if mark != MARK or head_crc != zlib.crc32(head[:-4]):
        return None, "damaged record"
    payload = content[at + HEAD.size : at + HEAD.size + length]
    if len(payload) < length:
        return None, "unfinished record"
    return (payload, "") if zlib.crc32(payload) == crc else (None, "damaged record")


def _whole_records(rest: bytes) -> int:
    at, count = rest.find(MARK), 0
    while at >= 0:
        count += _record_at(rest, at)[0] is not None
        at = rest.find(MARK, at + 1)
    return count


def _unused(file: Path) -> Path:
    """This name, or the first with a number behind it that nothing has."""
    names = (file.with_name(f"{file.name}-{i}") for i in count(2))
    return next(name for name in chain([file], names) if not name.exists())


def _check_version(file: Path, content: bytes) -> None:
    line = content[: len(MAGIC) + 8].split(b"\n")[0]
    if not line.startswith(NAME) or not line[len(NAME) :].isdigit():
        raise ValueError(f"{file} is no record of strokes: it begins with {content[:16]!r}")
    if int(line[len(NAME) :]) not in range(1, VERSION + 1):
        raise ValueError(f"{file} has version {line[len(NAME) :].decode()}, this program reads {VERSION}; update it")


# whole files --------------------------------------------------------------------------------------------------------


def write_whole(file: Path, content: bytes) -> None:
    """Write beside the place, fsync, rename: at any moment the file is the old one or the new one, whole."""
    draft = draft_of(file)
    try:
        draft.write_bytes(content)
        _sync(draft)
        draft.replace(file)
        _sync_folder(file.parent)
    except OSError as e:
        raise OSError(f"could not write {file}: {e}; what was there before is kept") from e
    finally:
        draft.unlink(missing_ok=True)


def draft_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.tmp")


def remove_drafts(file: Path) -> None:
    """What a crash left of unfinished writing. Only for who has the folder alone."""
    for draft in file.parent.glob(f".{glob.escape(file.name)}.*.tmp"):
        draft.unlink()


def _sync(file: Path) -> None:
    with file.open("r+b") as stream:  # Windows syncs only what may be written
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    """The new name too survives a power cut; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
