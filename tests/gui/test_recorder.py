"""Nothing that was drawn is lost: recorded as it is drawn, undone without end, reopened, recovered after a crash."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from test_widget import CTRL, SCALE, disc_image, docked, draw, messages, press, scribble, stack_in_a_window

from napari_scribblemamba import _notes, _recovery
from napari_scribblemamba._project import Project
from napari_scribblemamba._widget import ScribbleMamba

SHIFT = Qt.KeyboardModifier.ShiftModifier


def kept(folder: Path) -> np.ndarray:
    """The strokes of a project's first image, as they are on disk."""
    project = Project(folder)
    journal = project.journal(next(iter(project.images)))
    strokes = np.zeros(journal.shape, journal.dtype)
    journal.restore(strokes)
    project.close()
    return strokes


def close(viewer: Viewer, widget: ScribbleMamba) -> None:
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    viewer.layers.clear()


def reopened(make_napari_viewer: Callable[..., Viewer], folder: Path) -> tuple[Viewer, ScribbleMamba]:
    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    widget.project.openRequested.emit(folder)
    viewer.window._qt_viewer.canvas.native.setFocus()
    return viewer, widget


def test_strokes_classes_and_marks_come_back(make_napari_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    widget.project.saveRequested.emit(tmp_path / "heart")
    assert messages()[-1].startswith(f"saved to {tmp_path / 'heart'}")
    viewer.dims.set_point(0, 20)
    draw(viewer, (10, 8), (10, 40))
    widget.classes.setCurrent(2)
    draw(viewer, (30, 8), (30, 40))
    viewer.dims.set_point(0, 30)
    press(viewer, Qt.Key.Key_A)
    widget.classes.setCurrent(1)
    widget.classes.move(1)
    widget.classes.recolour("#123456")
    strokes = widget.layers.value()[1]
    values, brushes, absent = strokes.data.copy(), widget.classes.value(), _notes.absences(strokes)
    assert absent == ((3, 1),) and values.any() and "heart" in widget.project.line()
    close(viewer, widget)

    viewer, widget = reopened(make_napari_viewer, tmp_path / "heart")
    image, strokes = widget.layers.value()
    assert np.array_equal(strokes.data, values)
    assert np.array_equal(image.data, np.stack([disc_image()] * 6))  # it had no file of its own
    assert (image.scale == (10, *SCALE)).all() and (strokes.scale == image.scale).all()
    assert (widget.classes.value(), _notes.absences(strokes)) == (brushes, absent)
    for _ in range(20):
        press(viewer, Qt.Key.Key_Z, CTRL)  # across sessions: strokes, classes, marks
    assert not strokes.data.any() and not _notes.absences(strokes)
    assert [b.name for b in widget.classes.value()] == ["background", "RV", "LV"]
    for _ in range(20):
        press(viewer, Qt.Key.Key_Z, CTRL | SHIFT)
    assert np.array_equal(strokes.data, values)
    assert (widget.classes.value(), _notes.absences(strokes)) == (brushes, absent)
    close(viewer, widget)


def test_the_first_stroke_is_kept_without_a_question(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, recovered: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer)
    widget.layers._new.click()
    assert not recovered.exists()
    draw(viewer, (24, 16), (24, 32))
    qtbot.waitUntil(lambda: "kept for recovery · saved" in widget.project.line(), timeout=5000)
    draw(viewer, (4, 4), (4, 44))
    values = widget.layers.value()[1].data.copy()
    close(viewer, widget)
    [folder] = _recovery.unsaved()
    assert np.array_equal(kept(folder), values)

    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    assert not widget.project._offer.isHidden() and "disc" in widget.project._lost.text()
    widget.project._take_up.click()
    assert np.array_equal(widget.layers.value()[1].data, values) and widget.project._offer.isHidden()
    (folder / "mark").touch()
    widget.project.saveRequested.emit(folder.parent.parent / "mine")
    assert not folder.exists() and (folder.parent.parent / "mine" / "mark").exists()
    draw(viewer, (40, 4), (40, 44))
    values = widget.layers.value()[1].data.copy()
    close(viewer, widget)
    assert np.array_equal(kept(folder.parent.parent / "mine"), values)


def test_forget_deletes_what_was_recovered(make_napari_viewer: Callable[..., Viewer], recovered: Path) -> None:
    pixels = recovered.parent / "a b.png"
    pixels.write_bytes(b"pixels")
    project = private_project(pixels, days=0)
    widget = docked(make_napari_viewer())
    assert widget.project.recovered() == project
    widget.project._forget.click()
    assert widget.project.recovered() is None and not any(recovered.iterdir())


def test_recovered_strokes_are_offered_one_after_the_other_and_damaged_ones_hide_none(
    make_napari_viewer: Callable[..., Viewer], recovered: Path
) -> None:
    folders = []
    for name in ("older", "newer", "damaged"):
        np.save(pixels := recovered.parent / f"{name}.npy", np.zeros((8, 8), np.float32))
        folders.append(private_project(pixels, days=0))
    (folders[2] / "project.json").write_text("{")
    viewer = make_napari_viewer()
    widget = docked(viewer)
    for folder in (folders[1], folders[0]):
        assert widget.project.recovered() == folder and not widget.project._offer.isHidden()
        widget.project._take_up.click()
        assert widget.recorder.project() == folder
    assert widget.project.recovered() is None and widget.project._offer.isHidden()
    close(viewer, widget)


@pytest.mark.parametrize("saved", [False, True])
def test_strokes_whose_layer_is_deleted_come_back_at_once(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, saved: bool
) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer)
    values = scribble(viewer, widget).copy()
    widget.recorder.settle()
    if saved:
        widget.project.saveRequested.emit(tmp_path / "heart")
    folder = widget.recorder.project()
    viewer.layers.remove("strokes · disc")
    if saved:
        assert widget.project.recovered() is None and str(folder) in messages()[-1]
        widget.project.openRequested.emit(folder)
    else:
        assert widget.project.recovered() == folder and not widget.project._offer.isHidden()
        widget.project._take_up.click()
    assert [layer.name for layer in viewer.layers] == ["disc", "strokes · disc"] and widget.project._offer.isHidden()
    strokes = viewer.layers[1]
    assert widget.layers.value() == (image, strokes) and np.array_equal(strokes.data, values)
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()


def private_project(pixels: Path, days: float, draws: bool = True) -> Path:
    """A private project of this image, last drawn in so many days ago."""
    project = Project.create(_recovery.new_folder(pixels.stem), [("background", "#000000")])
    journal = project.journal(project.add(pixels, pixels.stem, (8, 8), np.uint8).key)
    if draws:
        journal.record(np.ones((8, 8), np.uint8), ())
    project.close()
    seconds = time.time() - 86_400 * days
    os.utime(journal.file, (seconds, seconds))
    return project.folder


def test_private_projects_go_when_they_are_empty_or_old_and_not_the_newest_of_their_image(tmp_path: Path) -> None:
    one, other = tmp_path / "one.png", tmp_path / "other.png"
    for each in (one, other):
        each.write_bytes(b"pixels")
    old, newest_of_other = private_project(one, 31), private_project(other, 400)
    recent, newest = private_project(one, 29), private_project(one, 0)
    empty, damaged = private_project(one, 0, draws=False), private_project(one, 90)
    (damaged / "project.json").write_text("{")
    in_use = Project(private_project(one, 0, draws=False))
    assert set(_recovery.prune()) == {old, empty}
    assert {newest_of_other, recent, newest, damaged, in_use.folder} <= {
        each.parent for each in _recovery.home().glob("*/*.json")
    }
    in_use.close()


def test_strokes_that_were_kept_of_an_image_taken_out_stay(tmp_path: Path) -> None:
    pixels = tmp_path / "a.png"
    pixels.write_bytes(b"pixels")
    folder = private_project(pixels, days=40)
    private_project(pixels, days=0)  # of the same image, newer
    project = Project(folder)
    kept = project.remove(next(iter(project.images)))
    project.close()
    assert _recovery.prune() == [] and kept.exists()


def large_image_without_a_file(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("napari_scribblemamba._layers.is_large", lambda image: image.name == "large")
    viewer.add_image(np.zeros((48, 48), np.float32), name="large", scale=SCALE)


@pytest.mark.parametrize("others", [False, True])
def test_a_project_that_cannot_be_saved_leaves_nothing_behind(
    make_napari_viewer: Callable[..., Viewer],
    tmp_path: Path,
    recovered: Path,
    monkeypatch: pytest.MonkeyPatch,
    others: bool,
) -> None:
    viewer = make_napari_viewer(show=True)
    large_image_without_a_file(viewer, monkeypatch)
    widget, folder = docked(viewer), tmp_path / "heart"
    widget.layers._new.click()
    if others:
        folder.mkdir()
        (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match="save it as zarr"):
        widget.recorder.save_as(folder)
    assert (folder / "notes.txt").exists() == others and not (folder / "project.json").exists()
    small = viewer.add_image(disc_image(), scale=SCALE, name="small")
    widget.layers.setValue((small, None))
    scribble(viewer, widget)
    widget.recorder.settle()
    assert widget.recorder.project().parent == recovered  # nor do other strokes go there
    close(viewer, widget)


def test_a_project_that_cannot_be_copied_whole_is_no_project_and_can_be_saved_again(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: str, target: str, **options: object) -> None:
        if os.fspath(source).endswith(".journal"):
            raise OSError(28, "No space left on device", target)
        copy(source, target, **options)

    copy, viewer = shutil.copyfile, make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    viewer.dims.set_point(0, 20)
    draw(viewer, (10, 8), (10, 40))
    widget.recorder.settle()
    private = widget.recorder.project()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space left on device"):
            widget.recorder.save_as(tmp_path / "heart")
    assert not (tmp_path / "heart" / "project.json").exists() and widget.recorder.project() == private
    widget.recorder.save_as(tmp_path / "heart")
    assert widget.recorder.project() == tmp_path / "heart" and not private.exists()
    close(viewer, widget)
    assert (kept(tmp_path / "heart")[2] > 0).any()


def test_undo_goes_beyond_naparis_hundred_steps_but_not_before_the_beginning(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(disc_image(), scale=SCALE, name="disc")
    given = np.zeros((48, 48), np.uint8)
    given[40, :] = 1
    strokes = viewer.add_labels(given.copy(), scale=SCALE)
    widget = docked(viewer)
    viewer.layers.selection.active = strokes
    for i in range(120):
        strokes.data_setitem((np.array([i // 40]), np.array([i % 40])), 2)
        widget.recorder.settle()
    assert (strokes.data == 2).sum() == 120
    viewer.window._qt_window.activateWindow()
    viewer.window._qt_viewer.canvas.native.setFocus()
    for _ in range(130):
        press(viewer, Qt.Key.Key_Z, CTRL)
    assert np.array_equal(strokes.data, given)  # what was there before is no stroke of this session
    close(viewer, widget)


def test_fill_and_code_are_recorded_too(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer)
    scribble(viewer, widget)
    strokes = widget.layers.value()[1]
    strokes.fill((40, 40), 2)
    qtbot.wait(20)
    strokes.data[0, 0] = 1  # by somebody who tells nobody but the screen
    strokes.refresh()
    qtbot.wait(1300)
    folder, values = widget.recorder.project(), strokes.data.copy()
    viewer.layers.remove("strokes · disc")  # its project is closed with it
    assert np.array_equal(kept(folder), values)
    close(viewer, widget)


def test_a_removed_class_goes_or_gives_its_strokes_in_all_images(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    names, layers = {"scribblemamba": {"classes": ["background", "RV", "LV"]}}, []
    for name in ("one", "two"):
        image = viewer.add_image(disc_image(), name=name)
        layers.append(viewer.add_labels(np.array([[1, 2, 3, 0]] * 48).repeat(12, 1), metadata=dict(names), name=name))
        widget.layers.setValue((image, layers[-1]))
        layers[-1].data_setitem((np.array([0]), np.array([47])), 3)
        qtbot.wait(20)
    assert widget.recorder._held.project is widget.recorder._of(widget.recorder._held.project)[0].project
    assert len(widget.recorder._projects) == 1  # the same classes: one project
    widget.classes.setCurrent(1)
    widget.classes.remove(heir=2)
    for strokes in layers:
        assert np.unique(strokes.data[1]).tolist() == [0, 1, 2] and (strokes.data[1] == 2).sum() == 24
        assert [b.name for b in _notes.brushes_of(strokes)] == ["background", "LV"]
    widget.recorder.undo()  # the class is back in both
    assert [len(_notes.brushes_of(strokes)) for strokes in layers] == [3, 3]
    assert len(widget.classes.value()) == 3
    widget.recorder.undo()  # and its strokes in this one
    assert (layers[1].data[1] == 2).sum() == 12
    close(viewer, widget)


DRAWING = """
import sys, time
from pathlib import Path
import numpy as np, napari
from qtpy.QtCore import QTimer
from napari_scribblemamba import _log, _recovery
from napari_scribblemamba._widget import ScribbleMamba
_recovery.home = lambda: Path(sys.argv[1])
_log.os.fsync = lambda handle: time.sleep(0.3)  # of a busy disk
viewer = napari.Viewer(show=False)
viewer.add_image(np.zeros((8, 100, 100), np.float32), name="stack")
widget = ScribbleMamba(viewer)
viewer.window.add_dock_widget(widget)
widget.layers._new.click()
strokes, drawn = widget.layers.value()[1], [0]
def stroke():
    n = drawn[0]
    z, y = n // 100 % 8, n % 100
    viewer.dims.set_point(0, z)
    strokes.data_setitem((np.full(100, z), np.full(100, y), np.arange(100)), 2)
    drawn[0] += 1
    print(drawn[0], flush=True)
timer = QTimer()
timer.timeout.connect(stroke)
timer.start(30)
napari.run()
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is of POSIX")
def test_killed_while_drawing_at_most_the_last_stroke_is_missing(recovered: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", DRAWING, str(recovered)], stdout=subprocess.PIPE, text=True)
    for line in program.stdout:
        if int(line) == 15:
            break
    time.sleep(0.11)
    program.send_signal(signal.SIGKILL)
    told = [15, *(int(line) for line in program.stdout if line.strip())][-1]
    program.wait()
    [folder] = _recovery.unsaved()
    rows = (kept(folder) == 2).any(-1).sum()
    assert told - 1 <= rows <= told + 1
