"""Journal and project: what was drawn is there again after a crash, a torn file, a full disk; no window needed."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from napari_scribblemamba._journal import Journal
from napari_scribblemamba._log import HEAD, MAGIC, Writer, good_records
from napari_scribblemamba._project import Project
from napari_scribblemamba._strokes import LabelClass

CLASSES = (
    LabelClass(0, "background", "#7d8590"),
    LabelClass(1, "nerve", "#e69f00"),
    LabelClass(2, "vessel", "#56b4e9"),
)
SHAPE = (3, 40, 300)  # two tiles wide, the second one smaller


def ticking(start: float = 1000.0) -> Callable[[], float]:
    """A clock on which ten seconds pass between two looks at it."""
    moments = iter(np.arange(start, start + 10**6, 10.0))
    return lambda: float(next(moments))


def new_journal(folder: Path, **options: object) -> tuple[Journal, np.ndarray]:
    strokes = np.zeros(SHAPE, np.uint8)
    return Journal.create(folder / "a.journal", SHAPE, strokes.dtype, CLASSES, **options), strokes


def draw(journal: Journal, strokes: np.ndarray, i: int) -> None:
    """The i-th stroke: a line of nine pixels in slice i % 3, of the three classes in turn."""
    y, x = i * 7 % 40, i * 13 % 290
    strokes[i % 3, y, x : x + 9] = (i + i // 3) % 3 + 1
    assert journal.record(strokes, (i % 3,)) is not None


def reopened(journal: Journal, **options: object) -> Journal:
    journal.close()
    return Journal(journal.file, **options)


def drawn(journal: Journal) -> np.ndarray:
    strokes = np.zeros(journal.shape, journal.dtype)
    journal.restore(strokes)
    np.testing.assert_array_equal(strokes, journal.read())
    return strokes


# strokes, undo, redo ------------------------------------------------------------------------------------------------


def test_a_reopened_journal_holds_what_was_drawn(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    for i in range(12):
        draw(journal, strokes, i)
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    assert journal.classes == CLASSES and journal.damage is None
    journal.close()


def test_only_the_slice_that_was_drawn_on_is_compared(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    strokes[0, 5, 5] = strokes[2, 5, 5] = 1
    change = journal.record(strokes, (2,))
    assert change.regions == [(slice(2, 3), slice(5, 6), slice(5, 6))]
    assert journal.record(strokes, (2,)) is None  # nothing new there
    assert journal.record(strokes, (slice(0, 2), slice(5, 6), slice(4, 9))).regions[0][0] == slice(0, 1)
    assert journal.record(strokes, ()) is None
    assert journal.places == [(0,), (2,)]
    journal.close()


def test_a_stroke_over_the_edge_of_tiles_is_one_step(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    strokes[1, 3, 250:262] = 2
    assert len(journal.record(strokes, (1,)).regions) == 2
    journal.restore(strokes, journal.undo().regions)
    assert not strokes.any()
    assert not journal._state.tiles  # and no memory is kept for them
    journal.close()


def test_two_thousand_strokes_are_undone_and_redone_in_another_session(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    for i in range(2000):
        draw(journal, strokes, i)
    drawn_all = strokes.copy()
    journal = reopened(journal)
    for _ in range(2000):
        journal.restore(strokes, journal.undo().regions)
    assert not strokes.any() and journal.undo() is None
    journal = reopened(journal)
    for _ in range(2000):
        journal.restore(strokes, journal.redo().regions)
    assert journal.redo() is None
    np.testing.assert_array_equal(strokes, drawn_all)
    journal.close()


def test_who_draws_after_an_undo_has_nothing_to_redo(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    draw(journal, strokes, 0)
    draw(journal, strokes, 1)
    journal.restore(strokes, journal.undo().regions)
    draw(journal, strokes, 2)
    journal = reopened(journal)
    assert journal.redo() is None
    assert journal.undo().regions[0][0] == slice(2, 3)
    assert journal.undo().regions[0][0] == slice(0, 1)
    assert not drawn(journal).any()
    journal.close()


@pytest.mark.parametrize("shape", [(70,), (600, 50), (2, 3, 20, 20)])
def test_any_number_of_axes_from_two_on(tmp_path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        with pytest.raises(ValueError, match="two axes or more, got int32 of shape"):
            Journal.create(tmp_path / "a.journal", shape, np.int32)
        return
    journal = Journal.create(tmp_path / "a.journal", shape, np.int32)
    strokes = np.zeros(shape, np.int32)
    strokes[..., 3:18, 7] = 70_000
    journal.record(strokes, ())
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_strokes_of_another_image_are_refused(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    with pytest.raises(ValueError, match=r"is of strokes \(3, 40, 300\) uint8, got \(2, 40, 300\) uint8"):
        journal.record(strokes[1:], (0,))
    with pytest.raises(ValueError, match="3 is outside axis 0"):
        journal.record(strokes, (3,))
    journal.close()


def test_memory_is_taken_for_what_is_drawn_on(tmp_path: Path) -> None:
    class Lazy:
        """2000 x 2000 x 200 voxels of which only one slice may be looked at."""

        shape, dtype = (200, 2000, 2000), np.dtype(np.uint8)

        def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
            assert index[0] == slice(7, 8)
            plane = np.zeros((1, 2000, 2000), np.uint8)
            plane[0, 600, 300:900] = 1
            return plane[(slice(None), *index[1:])]

    journal = Journal.create(tmp_path / "a.journal", Lazy.shape, Lazy.dtype)
    journal.record(Lazy(), (7,))
    assert sum(tile.nbytes for tile in journal._state.tiles.values()) == 3 * 256**2
    assert journal.read((7, 600)).sum() == 600
    journal.close()


# classes and marks --------------------------------------------------------------------------------------------------


def test_strokes_follow_their_class(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    strokes[0, 0, :4] = (1, 2, 3, 9)  # 9 belongs to no class
    journal.record(strokes, (0,))
    background, _, vessel = CLASSES
    journal.set_classes((vessel, background))  # the nerve is gone
    assert journal.read((0, 0, slice(0, 4))).ravel().tolist() == [2, 0, 1, 8]
    renamed = LabelClass(0, "ground", "#000000")
    assert journal.set_classes((vessel, renamed)).regions == []
    journal = reopened(journal)
    assert journal.classes == (vessel, renamed)
    journal.undo()
    assert journal.undo().kind == "classes"
    assert journal.classes == CLASSES
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_more_classes_than_the_labels_can_hold(tmp_path: Path) -> None:
    journal, _ = new_journal(tmp_path)
    many = tuple(LabelClass(i, str(i), "#000000") for i in range(256))
    with pytest.raises(ValueError, match="too few for 256 classes"):
        journal.set_classes(many)
    assert journal.classes == CLASSES
    journal.close()


def test_a_class_absent_from_a_slice_is_kept_and_undone_like_a_stroke(tmp_path: Path) -> None:
    journal, _ = new_journal(tmp_path)
    journal.mark_absent((2,), 1)
    assert journal.mark_absent((2,), 1) is None
    journal = reopened(journal)
    assert journal.absent == {((2,), 1)}
    journal.set_classes(CLASSES[:1])  # of a class that is gone nothing is absent
    assert not journal.absent
    journal.undo()
    assert journal.absent == {((2,), 1)}
    journal.mark_absent((2,), 1, absent=False)
    assert not journal.absent
    with pytest.raises(ValueError, match="no class with key 7"):
        journal.mark_absent((2,), 7)
    journal.close()


# time ---------------------------------------------------------------------------------------------------------------


def test_replay(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path, clock=ticking())
    stills = [strokes.copy()]
    for i in range(6):
        draw(journal, strokes, i)
        stills.append(strokes.copy())
    journal.undo()  # the seventh moment looks like the fifth
    stills.append(stills[5])
    journal = reopened(journal, clock=ticking(9000.0))
    assert journal.times == [1000.0 + 10 * i for i in range(7)]
    for i in (7, 3, 0, 1, 2, 6, 4, 5):  # the slider goes to and fro
        np.testing.assert_array_equal(journal.at(995.0 + 10 * i).read(), stills[i])
    np.testing.assert_array_equal(drawn(journal), stills[7])  # the present is as it was
    journal.close()


def test_replay_of_classes(tmp_path: Path) -> None:
    journal, _ = new_journal(tmp_path, clock=ticking())
    lists = [CLASSES, CLASSES[:2], CLASSES[1:2], CLASSES]
    for classes in lists[1:]:
        journal.set_classes(classes)
    for i in (3, 0, 2, 1, 3, 1):
        assert journal.at(995.0 + 10 * i).classes == lists[i]
    journal.close()


def test_minutes_do_not_count_pauses(tmp_path: Path) -> None:
    moments = iter([0.0, 10.0, 30.0, 1030.0, 1040.0, 500.0])  # an absence, and a clock that is set back
    journal, strokes = new_journal(tmp_path, clock=lambda: next(moments))
    for i in range(6):
        draw(journal, strokes, i)
    assert journal.minutes() == pytest.approx(40 / 60)  # 10 + 20 + 10 + 0 seconds
    assert journal.minutes(pause=15) == pytest.approx(20 / 60)
    assert journal.times[-1] == 1040.0
    journal.close()


# damage -------------------------------------------------------------------------------------------------------------


def test_a_record_torn_at_any_byte_is_cut_and_told(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    draw(journal, strokes, 0)
    draw(journal, strokes, 1)
    journal.flush()
    before, good = strokes.copy(), journal.file.stat().st_size
    draw(journal, strokes, 2)
    journal.close()
    content = journal.file.read_bytes()
    for length in range(good, len(content)):
        journal.file.write_bytes(content[:length])
        torn = Journal(journal.file)
        np.testing.assert_array_equal(torn.read(), before)
        torn.close()
        if length == good:
            assert torn.damage is None
        else:
            assert (torn.damage.at, torn.damage.lost, torn.damage.aside) == (good, length - good, None)
            assert "unfinished record at byte" in str(torn.damage)
        assert journal.file.stat().st_size == good
    assert list(tmp_path.iterdir()) == [journal.file]


def test_one_can_draw_on_after_a_torn_record(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    draw(journal, strokes, 0)
    draw(journal, strokes, 1)
    journal.close()
    journal.file.write_bytes(journal.file.read_bytes()[:-5] + b"")
    journal = Journal(journal.file)
    strokes = drawn(journal)
    draw(journal, strokes, 4)
    journal = reopened(journal)
    assert journal.damage is None
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


@pytest.mark.parametrize("where", ["head", "payload"])
def test_a_flipped_byte_is_reported_with_its_place(tmp_path: Path, where: str) -> None:
    journal, strokes = new_journal(tmp_path)
    stills, ends = [], []
    for i in range(5):
        draw(journal, strokes, i)
        journal.flush()
        stills.append(strokes.copy())
        ends.append(journal.file.stat().st_size)
    journal.close()
    content = bytearray(journal.file.read_bytes())
    content[ends[1] + (9 if where == "head" else HEAD.size + 9)] ^= 16  # in the third stroke
    journal.file.write_bytes(content)
    journal = Journal(journal.file)
    np.testing.assert_array_equal(drawn(journal), stills[1])
    assert (journal.damage.at, journal.damage.later) == (ends[1], 2)
    assert f"damaged record at byte {ends[1]}" in str(journal.damage)
    assert journal.damage.aside.read_bytes() == content[ends[1] :]  # nothing is thrown away
    journal.close()


def test_whichever_byte_is_flipped_no_false_stroke_appears(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    stills = [strokes.tobytes()]
    for i in range(2):
        draw(journal, strokes, i)
        stills.append(strokes.tobytes())
    journal.flush()
    first_stroke = HEAD.size + HEAD.unpack_from(journal.file.read_bytes(), len(MAGIC))[2] + len(MAGIC)
    journal.close()
    content = journal.file.read_bytes()
    for at in range(len(content)):
        file = tmp_path / f"{at}.journal"
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        if at < first_stroke:
            with pytest.raises(ValueError, match=r"no record of strokes|damaged from its first record|has version"):
                Journal(file)
        else:
            flipped = Journal(file)
            assert flipped.damage.at <= at
            assert flipped.read().tobytes() == stills[len(flipped.times)] != stills[2]
            flipped.close()


def test_a_tail_of_zeros_after_a_power_cut(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    draw(journal, strokes, 0)
    journal.close()
    with journal.file.open("ab") as stream:
        stream.write(bytes(500))
    journal = Journal(journal.file)
    np.testing.assert_array_equal(drawn(journal), strokes)
    assert journal.damage.lost == 500 and journal.damage.aside is None
    journal.close()


@pytest.mark.parametrize(
    "content, message",
    [
        (b"PNG...", "is no record of strokes"),
        (b"", "is no record of strokes"),
        (b"SCRIBBLES 99\nrest", "has version 99, this program reads 1; update it"),
        (MAGIC + b"garbage" * 9, "is damaged from its first record on"),
    ],
)
def test_a_file_that_cannot_be_read_is_left_alone(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.journal"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Journal(file)
    assert file.read_bytes() == content


def test_a_compaction_that_a_crash_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    draw(journal, strokes, 0)
    journal.close()
    (tmp_path / ".a.journal.123.tmp").write_bytes(MAGIC)
    journal = Journal(journal.file)
    assert list(tmp_path.iterdir()) == [journal.file]
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_a_journal_is_not_begun_over_another(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    draw(journal, strokes, 0)
    with pytest.raises(FileExistsError, match="exists; open it"):
        new_journal(tmp_path)
    journal.close()


# the disk -----------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited for twenty seconds"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit of file size is what Unix has")
def test_strokes_wait_in_memory_while_the_disk_is_full(tmp_path: Path) -> None:
    import resource

    errors = []
    journal, strokes = new_journal(tmp_path, failed=errors.append)
    draw(journal, strokes, 0)
    journal.flush()
    good = journal.file.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (good + 50, hard))  # the next record fits in part
        draw(journal, strokes, 1)
        wait_until(lambda: bool(errors))
        draw(journal, strokes, 2)
        assert not journal.flush(1.5)  # tried again meanwhile
        assert len(errors) == 1 and "stay in memory" in str(errors[0])
        assert journal.pending == 2
        assert good_records(journal.file.read_bytes())[1:] == (good, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    assert journal.damage is None
    journal.close()


def test_closing_says_what_is_not_on_disk_and_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    journal, strokes = new_journal(tmp_path, failed=lambda error: None)
    with monkeypatch.context() as patch:
        patch.setattr("napari_scribblemamba._log.os.fsync", full)
        draw(journal, strokes, 0)
        with pytest.raises(OSError, match=r"1 changes are not in .* No space left on device"):
            journal.close(seconds=0.2)
    wait_until(lambda: journal.pending == 0)
    journal.close()
    journal = Journal(journal.file)
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_a_callback_that_fails_costs_no_stroke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([OSError("busy")])

    def busy_once(handle: int) -> None:
        for error in calls:
            raise error

    def gone(error: OSError) -> None:
        raise RuntimeError("the window was deleted")

    journal, strokes = new_journal(tmp_path, failed=gone)
    monkeypatch.setattr("napari_scribblemamba._log.os.fsync", busy_once)
    draw(journal, strokes, 0)
    assert journal.flush()
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def is_open(file: Path) -> bool:
    """By this process; where that can be told."""
    handles = Path("/proc/self/fd")
    return handles.exists() and str(file) in {os.readlink(each) for each in handles.iterdir() if each.is_symlink()}


def test_a_journal_that_was_replaced_before_the_first_stroke_is_not_written_into(tmp_path: Path) -> None:
    errors = []
    journal, strokes = new_journal(tmp_path, failed=errors.append)
    before = journal.file.read_bytes()
    journal.file.write_bytes(before + b"by another program")
    draw(journal, strokes, 0)
    wait_until(lambda: bool(errors))
    assert "replaced by another program" in str(errors[0])
    assert journal.file.read_bytes() == before + b"by another program"
    journal.file.write_bytes(before)
    assert journal.flush()
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_a_journal_that_nobody_closed_is_written_and_its_thread_ends(tmp_path: Path) -> None:
    threads = threading.active_count()
    journal, strokes = new_journal(tmp_path)
    assert threading.active_count() == threads and not is_open(journal.file)  # a list of many images reads them all
    draw(journal, strokes, 0)
    file = journal.file
    del journal
    assert threading.active_count() == threads
    journal = Journal(file)
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_what_a_slow_disk_has_not_confirmed_is_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = threading.Event()
    journal, strokes = new_journal(tmp_path)
    monkeypatch.setattr("napari_scribblemamba._log.os.fsync", lambda handle: slow.wait(10))
    for i in range(4):
        draw(journal, strokes, i)
        wait_until(lambda i=i: len(good_records(journal.file.read_bytes())[0]) == i + 2)
    assert journal.pending == 4 and not journal.flush(0)
    slow.set()
    assert journal.flush() and journal.pending == 0
    journal.close()


def test_what_the_disk_refused_to_confirm_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drops(handle: int) -> None:  # what the system held of the file, as it may after an error
        if not errors:
            os.ftruncate(handle, good)
            raise OSError(5, "Input/output error")

    errors = []
    journal, strokes = new_journal(tmp_path, failed=errors.append)
    draw(journal, strokes, 0)
    journal.flush()
    good = journal.file.stat().st_size
    monkeypatch.setattr("napari_scribblemamba._log.os.fsync", drops)
    draw(journal, strokes, 1)
    assert journal.flush() and len(errors) == 1
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    assert journal.damage is None
    journal.close()


def test_a_writer_goes_on_after_an_error_that_nobody_expected(tmp_path: Path) -> None:
    errors, failing = [], [RuntimeError("surprise")]

    def work() -> None:
        for error in failing:
            raise error
        (tmp_path / "written").touch()

    writer = Writer(work, errors.append, "test")
    writer.wake()
    wait_until(lambda: bool(errors))
    assert "surprise" in str(errors[0]) and not writer.flush(0)
    failing.clear()
    assert writer.flush(10) and (tmp_path / "written").exists()
    writer.close()


# compaction ---------------------------------------------------------------------------------------------------------


def mixed_history(journal: Journal, strokes: np.ndarray) -> None:
    """40 strokes of which some are undone and drawn over, a class deleted, three steps left to redo."""
    for i in range(40):
        draw(journal, strokes, i)
        if i % 5 == 4:
            for _ in range(2):
                journal.restore(strokes, journal.undo().regions)
            if i % 10 == 4:
                journal.restore(strokes, journal.redo().regions)
        if i == 20:
            journal.restore(strokes, journal.set_classes((CLASSES[0], CLASSES[2])).regions)
            journal.mark_absent((1,), 2)
    for _ in range(3):
        journal.restore(strokes, journal.undo().regions)


def story(journal: Journal) -> list[tuple[object, ...]]:
    """All that undo and redo lead through, from the present."""
    seen = []
    for step in (journal.undo, journal.redo, journal.undo):
        seen.append((journal.classes, journal.absent, journal.read().tobytes()))
        while step() is not None:
            seen.append((journal.classes, journal.absent, journal.read().tobytes()))
    return seen


def test_compaction_equals_no_compaction(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path, clock=ticking())
    mixed_history(journal, strokes)
    times, minutes, before = journal.times, journal.minutes(), journal.file.stat().st_size
    journal.compact()
    draw(journal, strokes, 41)  # one goes on while the file is written
    journal.restore(strokes, journal.undo().regions)
    whole = story(journal)
    journal.flush()
    assert journal.file.stat().st_size != before
    journal.close()

    (tmp_path / "b").mkdir()
    other, strokes = new_journal(tmp_path / "b", clock=ticking())
    mixed_history(other, strokes)
    draw(other, strokes, 41)
    other.restore(strokes, other.undo().regions)
    assert story(other) == whole
    other.close()

    compacted, plain = Journal(journal.file), Journal(other.file)
    assert compacted.times == plain.times and compacted.times[: len(times)] == times
    assert compacted.minutes() == plain.minutes() >= minutes
    assert story(compacted) == story(plain)
    compacted.close()
    plain.close()


def test_what_was_undone_before_a_compaction_is_redone_after_it(tmp_path: Path) -> None:
    journal, strokes = new_journal(tmp_path)
    stills = []
    for i in range(4):
        draw(journal, strokes, i)
        stills.append(strokes.copy())
    for _ in range(3):
        journal.undo()
    journal.compact()
    journal = reopened(journal)
    for still in stills:
        np.testing.assert_array_equal(drawn(journal), still)
        journal.redo()
    assert journal.next_redo is None and journal.next_undo is not None
    journal.close()


def test_compaction_forgets_what_was_drawn_over_and_the_oldest_steps(tmp_path: Path) -> None:
    clock = ticking()
    journal, strokes = new_journal(tmp_path, steps=4, clock=clock)
    for i in range(10):
        draw(journal, strokes, i)
    journal.compact()
    journal.flush()
    assert not journal.at(0.0).read().any()  # the file forgets, not this session
    journal = reopened(journal, steps=4, clock=clock)
    for i in range(10, 16):
        draw(journal, strokes, i)
    journal = reopened(journal, steps=4, clock=clock)  # more than twice the steps: it compacts by itself
    journal = reopened(journal, steps=4, clock=clock)
    np.testing.assert_array_equal(drawn(journal), strokes)
    assert journal.minutes() == pytest.approx(150 / 60)
    steps = [journal.undo() for _ in range(4)]
    assert all(steps) and journal.undo() is None
    assert journal.read().any()  # the first twelve strokes are there for good
    np.testing.assert_array_equal(journal.at(1115.0).read(), journal.read())
    journal.close()


def test_a_compaction_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Path, target: Path) -> None:
        raise PermissionError("held by another program")

    errors = []
    journal, strokes = new_journal(tmp_path, failed=errors.append)
    mixed_history(journal, strokes)
    journal.flush()
    content = journal.file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        journal.compact()
        assert journal.flush()
    assert "could not compact" in str(errors[0])
    assert journal.file.read_bytes() == content
    draw(journal, strokes, 50)
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    assert [each.name for each in tmp_path.iterdir()] == ["a.journal"]
    journal.close()


def test_one_can_draw_on_where_a_compacted_file_could_not_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(file: Path, *args: object, **options: object) -> object:
        if file.suffix == ".journal" and not errors:
            raise PermissionError("in use")
        return opened(file, *args, **options)

    errors, opened = [], Path.open
    journal, strokes = new_journal(tmp_path, failed=errors.append)
    draw(journal, strokes, 0)
    journal.flush()
    monkeypatch.setattr(Path, "open", refused)
    journal.compact()
    draw(journal, strokes, 1)
    assert journal.flush() and len(errors) == 1 and "could not compact" in str(errors[0])
    journal = reopened(journal)
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


def test_a_compaction_of_which_nobody_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> None:
        raise OSError("no such call on this disk")

    def gone(error: OSError) -> None:
        raise RuntimeError("the window was deleted")

    journal, strokes = new_journal(tmp_path, failed=gone)
    mixed_history(journal, strokes)
    with monkeypatch.context() as patch:
        patch.setattr("napari_scribblemamba._log._sync_folder", broken)
        journal.compact()
        assert journal.flush()
    draw(journal, strokes, 50)
    journal = reopened(journal)
    assert journal.damage is None
    np.testing.assert_array_equal(drawn(journal), strokes)
    journal.close()


# kill -9 ------------------------------------------------------------------------------------------------------------

DRAWS = """
import sys, time
from pathlib import Path
import numpy as np
from napari_scribblemamba import _log
from napari_scribblemamba._journal import Journal
_log.os.fsync = lambda handle: time.sleep(0.3)  # of a busy disk
strokes = np.zeros((4, 64, 64), np.uint8)
journal = Journal(Path(sys.argv[1]))
for i in range(10_000):
    strokes[i % 4, i // 4 % 64, i % 50 : i % 50 + 10] ^= 1 + i % 3
    journal.record(strokes, (i % 4,))
    print(i + 1, flush=True)
    time.sleep(0.04)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no kill -9")
@pytest.mark.parametrize("strokes", [1, 5, 12])
def test_kill_9_costs_at_most_the_last_stroke(tmp_path: Path, strokes: int) -> None:
    Journal.create(tmp_path / "a.journal", (4, 64, 64), np.uint8).close()
    child = subprocess.Popen([sys.executable, "-c", DRAWS, tmp_path / "a.journal"], stdout=subprocess.PIPE, text=True)
    for _ in range(strokes):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    drawn_by_child = strokes + len(child.stdout.readlines())
    child.wait()
    child.stdout.close()
    journal = Journal(tmp_path / "a.journal")
    assert len(journal.times) >= drawn_by_child - 1
    expected = np.zeros((4, 64, 64), np.uint8)
    for i in range(len(journal.times)):
        expected[i % 4, i // 4 % 64, i % 50 : i % 50 + 10] ^= 1 + i % 3
    np.testing.assert_array_equal(journal.read(), expected)
    journal.close()


# projects -----------------------------------------------------------------------------------------------------------

PALETTE = [("background", "#7d8590"), ("nerve", "#e69f00")]


def image_file(folder: Path, name: str, content: bytes = b"pixels") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


def test_a_project_reopens_as_it_was(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", PALETTE)
    first = project.add(image_file(tmp_path / "images", "a.tif"), "patient 1", (40, 40), np.uint8, {"gamma": 0.7})
    second = project.add(image_file(tmp_path / "images", "b.tif", b"other"), "patient 2", (2, 30, 30), np.uint8)
    strokes = np.zeros((40, 40), np.uint8)
    strokes[3, 4:20] = 2
    project.journal(first.key).record(strokes, ())
    project.set_settings(config={"minutes": 5.0})
    project.close()

    project = Project(tmp_path / "project")
    assert list(project.images.values()) == [first, second]
    assert project.classes == (LabelClass(0, *PALETTE[0]), LabelClass(1, *PALETTE[1]))
    assert project.settings == {"config": {"minutes": 5.0}}
    np.testing.assert_array_equal(project.journal(first.key).read(), strokes)
    assert not project.journal(second.key).read().any()
    project.close()


def test_a_project_open_elsewhere_says_where(tmp_path: Path) -> None:
    holds = "import sys; from pathlib import Path; from napari_scribblemamba._project import Project"
    holds += "; project = Project.create(Path(sys.argv[1]), []); print('open', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holds, tmp_path / "project"], **pipes) as child:
        assert child.stdout.readline().strip() == b"open"
        with pytest.raises(BlockingIOError, match=rf"is open elsewhere: process {child.pid} on .*; close it there"):
            Project(tmp_path / "project")
        child.kill()
        child.wait()
    Project(tmp_path / "project").close()  # the lock ended with the process


def test_a_moved_image_is_linked_again(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project", PALETTE)
    file = image_file(tmp_path / "images", "a.tif")
    key = project.add(file, "patient 1", (40, 40), np.uint8).key
    assert project.whereabouts(key) == "there"
    with pytest.raises(ValueError, match="is in the project already, as 'patient 1'"):
        project.add(file, "again", (40, 40), np.uint8)
    moved = file.rename(tmp_path / "images" / "moved.tif")
    assert project.whereabouts(key) == "missing"
    stranger = image_file(tmp_path / "images", "stranger.tif", b"of somebody else")
    with pytest.raises(ValueError, match="is not the file that 'patient 1' was drawn on"):
        project.relink(key, stranger)
    assert project.relink(key, moved).path == moved
    assert project.whereabouts(key) == "there"
    moved.write_bytes(b"painted over")
    assert project.whereabouts(key) == "changed"
    assert project.relink(key, moved, changed=True).path == moved
    project.close()


def test_project_and_images_may_move_together(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    project = Project.create(tmp_path / "here" / "project", PALETTE)
    key = project.add(image_file(tmp_path / "here" / "images", "a.tif"), "patient 1", (40, 40), np.uint8).key
    project.close()
    (tmp_path / "here").rename(tmp_path / "there")
    project = Project(tmp_path / "there" / "project")
    assert project.images[key].path == tmp_path / "there" / "images" / "a.tif"
    assert project.whereabouts(key) == "there"
    project.close()


def test_a_copied_project_does_not_take_another_image_of_the_same_name(tmp_path: Path) -> None:
    mine, other = (
        image_file(tmp_path / "A", "image.tif"),
        image_file(tmp_path / "B", "image.tif", b"of another patient"),
    )
    project = Project.create(tmp_path / "A" / "project", PALETTE)
    key = project.add(mine, "patient 1", (40, 40), np.uint8).key
    project.close()
    shutil.copytree(tmp_path / "A" / "project", tmp_path / "B" / "project")
    project = Project(tmp_path / "B" / "project")
    assert project.images[key].path == mine and project.whereabouts(key) == "there"
    project.close()
    other.write_bytes(mine.read_bytes())  # the image was copied, too
    project = Project(tmp_path / "B" / "project")
    assert project.images[key].path == other and project.whereabouts(key) == "there"
    project.close()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_an_image_whose_name_is_not_utf8(tmp_path: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xe9decin.tif"))
    file.write_bytes(b"pixels")
    project = Project.create(tmp_path / "project", PALETTE)
    key = project.add(file, file.name, (40, 40), np.uint8).key
    project.close()
    project = Project(tmp_path / "project")
    assert project.images[key].path == file and project.whereabouts(key) == "there"
    project.close()


def two_images(tmp_path: Path) -> tuple[Project, list[np.ndarray]]:
    """Each with a stroke of class 1 and one of class 2 in its first row."""
    project, strokes = Project.create(tmp_path / "project", PALETTE), []
    for name in "ab":
        key = project.add(image_file(tmp_path / "images", name, name.encode()), name, (9, 9), np.uint8).key
        strokes.append(np.zeros((9, 9), np.uint8))
        strokes[-1][0, :4] = (1, 1, 2, 2)
        project.journal(key).record(strokes[-1], ())
    return project, strokes


def test_a_deleted_class_is_gone_from_all_images_and_comes_back_in_all(tmp_path: Path) -> None:
    project, _ = two_images(tmp_path)
    assert set(project.set_classes([("nerve", "#e69f00", 1), ("vessel", "#56b4e9", None)])) == {"0000", "0001"}
    assert [each.key for each in project.classes] == [1, 2]
    for key in project.images:
        assert project.journal(key).read((0,)).ravel()[:4].tolist() == [0, 0, 1, 1]
    assert set(project.undo("0001")) == {"0000", "0001"}
    for key in project.images:
        assert project.journal(key).read((0,)).ravel()[:4].tolist() == [1, 1, 2, 2]
    assert [each.name for each in project.classes] == ["background", "nerve"]
    assert set(project.redo("0000")) == {"0000", "0001"}
    assert [each.name for each in project.classes] == ["nerve", "vessel"]
    project.close()


def test_a_closed_image_follows_the_classes_when_it_is_opened(tmp_path: Path) -> None:
    project, _ = two_images(tmp_path)
    project.close()
    project = Project(tmp_path / "project")
    project.journal("0000")
    project.set_classes([("nerve", "#e69f00", 1)])
    project.close()
    project = Project(tmp_path / "project")
    assert project.journal("0001").read((0,)).ravel()[:4].tolist() == [0, 0, 1, 1]
    assert project.journal("0001").classes == project.classes
    project.close()


def test_an_image_taken_out_leaves_its_journal(tmp_path: Path) -> None:
    project, strokes = two_images(tmp_path)
    file = project.remove("0000")
    assert list(project.images) == ["0001"]
    assert project.add(tmp_path / "images" / "a", "a again", (9, 9), np.uint8).key == "0002"
    project.close()
    journal = Journal(file)
    np.testing.assert_array_equal(drawn(journal), strokes[0])
    journal.close()


def test_what_is_no_project_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"project\.json is missing"):
        Project(tmp_path)
    Project.create(tmp_path, PALETTE).close()
    with pytest.raises(FileExistsError, match="holds a project; open it"):
        Project.create(tmp_path, PALETTE)
    (tmp_path / "project.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99 is newer than this version reads"):
        Project(tmp_path)
    (tmp_path / "project.json").write_text('{"format": 1')
    with pytest.raises(ValueError, match="the journals beside it hold all strokes"):
        Project(tmp_path)


def test_neither_qt_nor_napari_nor_torch_is_needed() -> None:
    code = "import sys, napari_scribblemamba._project; sys.exit(len({'qtpy', 'napari', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
