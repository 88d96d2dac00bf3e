"""The dock widget in a real window: strokes drawn with the mouse, training, predictions, errors, closing."""

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeModel, FakeProgress, FakeRun
from napari import Viewer
from napari._qt.widgets.qt_progress_bar import QtLabeledProgressBar
from napari.layers import Labels
from napari.utils._proxies import PublicOnlyProxy
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

import napari_scribblemamba
from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._classes_panel import PIXELS
from napari_scribblemamba._folded import Folded
from napari_scribblemamba._predictor import Prediction
from napari_scribblemamba._session import Session
from napari_scribblemamba._widget import ScribbleMamba
from napari_scribblemamba._worker import run_in_background
from trainer import IGNORE, Config, Sample, load_dataset
from trainer.disagreement import Place
from trainer.run import check

pytestmark = pytest.mark.bindings

TINY = Config(iterations=30, patch=(32, 32), batch=2, device="cpu", dtype="float32")
SCALE = (2.0, 2.0)


def disc_image() -> np.ndarray:
    y, x = np.indices((48, 48))
    noise = np.random.default_rng(0).normal(0, 5, y.shape)
    return (30 + 150 * (np.hypot(y - 24, x - 24) < 12) + noise).astype(np.float32)


def docked(viewer: Viewer, make_run: Callable | None = None) -> ScribbleMamba:
    session = Session(run_in_background, make_run) if make_run else None
    widget = ScribbleMamba(PublicOnlyProxy(viewer), session)  # as napari gives it to plugins
    viewer.window.add_dock_widget(widget, name="ScribbleMamba")
    return widget


def canvas_point(viewer: Viewer, point: tuple[float, float]) -> QPoint:
    """Where a pixel (row, column) of the image is on the canvas."""
    native = viewer.window._qt_viewer.canvas.native
    y, x = (p * s - c for p, s, c in zip(point, SCALE, viewer.camera.center[-2:], strict=True))
    return QPoint(
        round(native.width() / 2 + x * viewer.camera.zoom), round(native.height() / 2 + y * viewer.camera.zoom)
    )


def mouse(viewer: Viewer, kind: QEvent.Type, point: QPoint) -> None:
    """A mouse event with the left button, as the window system would send it."""
    native, left = viewer.window._qt_viewer.canvas.native, Qt.MouseButton.LeftButton
    none = Qt.MouseButton.NoButton
    button, held = {
        QEvent.Type.MouseButtonPress: (left, left),
        QEvent.Type.MouseMove: (none, left),
        QEvent.Type.MouseButtonRelease: (left, none),
    }[kind]
    there = QPointF(native.mapToGlobal(point))
    QApplication.sendEvent(
        native, QMouseEvent(kind, QPointF(point), there, button, held, Qt.KeyboardModifier.NoModifier)
    )


def draw(viewer: Viewer, start: tuple[float, float], end: tuple[float, float], midway: Callable | None = None) -> None:
    """Drag the mouse over the canvas from one pixel of the image to another."""
    native, size = viewer.window._qt_viewer.canvas.native, None
    while size != native.size():  # until the docks have found theirs
        size = native.size()
        QTest.qWait(100)
    viewer.reset_view()  # all of the image
    points = [*np.linspace(start, end, 9), end]  # the last one twice: a move of the screen's own cursor may drop one
    mouse(viewer, QEvent.Type.MouseButtonPress, canvas_point(viewer, points[0]))
    for i, point in enumerate(points):
        QTest.qWait(25)  # vispy drops moves that come within 10 ms
        mouse(viewer, QEvent.Type.MouseMove, canvas_point(viewer, point))
        if midway is not None and i == 4:
            midway()
    mouse(viewer, QEvent.Type.MouseButtonRelease, canvas_point(viewer, end))


def scribble(viewer: Viewer, widget: ScribbleMamba) -> np.ndarray:
    """A stroke of each class, by mouse; the scribble layer's values."""
    widget.layers._new.click()
    draw(viewer, (24, 16), (24, 32))
    widget.classes.setCurrent(0)
    draw(viewer, (4, 4), (4, 44))
    return widget.layers.value()[1].data


def messages() -> list[str]:
    return [notification.message for notification in notification_manager.records]


def test_draw_train_see_save_load_export(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer, said = make_napari_viewer(show=True), len(messages())
    image = viewer.add_image(disc_image(), scale=SCALE, units="mm", name="disc")
    widget = docked(viewer)
    strokes = scribble(viewer, widget)
    assert (strokes[24, 18:31] == 2).all()
    assert (strokes[4, 6:42] == 1).all()

    widget.settings.setValue(TINY)
    widget.button.click()
    assert widget.button.text() == "Stop"
    qtbot.waitUntil(lambda: "propagated strokes" in widget.progress.shown(), timeout=60_000)
    assert _layers.prediction_layers(viewer, image)["ensemble"].data.any()
    qtbot.waitUntil(lambda: widget.button.text() == "Train" and widget.session.state == "idle", timeout=120_000)

    layers = _layers.prediction_layers(viewer, image)
    assert set(layers) == {"unet", "swinunet", "mambaunet", "ensemble"}
    for layer in layers.values():
        assert (layer.scale == SCALE).all()
        assert layer.units == image.units
        painted = strokes > 0
        expected = np.where(strokes == 1, 0, strokes)  # the background is transparent in predictions
        assert (layer.data == expected)[painted].mean() > 0.8
    assert "3 networks and propagated strokes" in widget.progress.shown()
    assert widget.progress.value().iteration == TINY.iterations

    def done() -> bool:
        return widget.session.state == "idle"

    seen = layers["unet"].data.copy()
    widget.models.saveRequested.emit(tmp_path / "run")
    qtbot.waitUntil(done, timeout=30_000)
    widget.models.loadRequested.emit(tmp_path / "run")
    qtbot.waitUntil(done, timeout=30_000)
    _layers.clear_predictions(viewer, image)
    widget.models.predictRequested.emit()
    qtbot.waitUntil(done, timeout=30_000)
    assert (layers["unet"].data == seen).all()

    widget.models.exportRequested.emit(tmp_path / "data")
    qtbot.waitUntil(done, timeout=30_000)
    [exported] = load_dataset(tmp_path / "data").samples
    assert (exported.target == np.where(strokes == 0, IGNORE, strokes - 1)).all()
    assert exported.spacing == SCALE
    assert messages()[said:] == [f"saved to {tmp_path / 'run'}", f"saved to {tmp_path / 'data'}"]


def test_out_of_memory_is_said_and_the_button_lives(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    class Greedy(FakeRun):
        def __iter__(self):
            from torch import OutOfMemoryError

            yield FakeProgress(0, stage="propagation")
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    viewer = make_napari_viewer(show=True)
    viewer.add_image(disc_image(), scale=SCALE)
    widget = docked(viewer, Greedy)
    scribble(viewer, widget)
    widget.button.click()
    qtbot.waitUntil(lambda: any("Tried to allocate 20.00 GiB" in message for message in messages()), timeout=30_000)
    assert (widget.button.text(), widget.button.isEnabled()) == ("Train", True)
    assert widget.settings.isEnabled()


class Endless(FakeRun):
    """Trains until it is stopped."""

    made: "list[Endless]"

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.made.append(self)

    def update(self, samples: Sequence[Sample]) -> None:
        check(samples, self.classes)
        super().update(samples)

    def __iter__(self):
        yield from super().__iter__()
        i = self.config.iterations
        while not self.stopped:
            time.sleep(0.01)
            i += not self.paused
            yield FakeProgress(i, dict.fromkeys(self.model.names, 1 / i))


def is_past(iterations: int, widget: ScribbleMamba) -> bool:
    """Whether a training has gone so far."""
    last = widget.progress.value()
    return last is not None and last.iteration >= iterations


def start_endless(viewer: Viewer, qtbot: QtBot) -> tuple[ScribbleMamba, Endless]:
    Endless.made = []
    viewer.add_image(disc_image(), scale=SCALE)
    widget = docked(viewer, Endless)
    scribble(viewer, widget)
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: is_past(TINY.iterations, widget), timeout=30_000)
    return widget, Endless.made[0]


def test_stop_keeps_the_model(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    widget, _ = start_endless(make_napari_viewer(show=True), qtbot)
    widget.button.click()
    assert (widget.button.text(), widget.button.isEnabled()) == ("Train", True)
    assert widget.progress._headline.text() == "Stopped; what was learnt is kept"
    assert widget.session.model is not None
    assert widget.models._save.isEnabled()


def test_strokes_drawn_while_it_trains_go_into_the_run(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget, run = start_endless(viewer, qtbot)
    widget.training.setValue(False)
    draw(viewer, (30, 20), (30, 28))  # still with the background in hand
    QTest.qWait(1500)
    assert run.samples[0].target[30, 24] == IGNORE
    widget.training.setValue(True)  # takes up what waited
    assert run.samples[0].target[30, 24] == 0
    image = run.samples[0].image
    draw(viewer, (40, 10), (40, 30))
    qtbot.waitUntil(lambda: run.samples[0].target[40, 20] == 0, timeout=5000)
    assert run.samples[0].image is image  # the engine need not prepare it again
    widget.layers.value()[1].undo()
    qtbot.waitUntil(lambda: run.samples[0].target[40, 20] == IGNORE, timeout=5000)
    _notes.mark_absent(widget.layers.value()[1], 1, 0)
    widget.drawing.changed.emit()
    assert "absent" in widget.progress.note()  # it is drawn there: the engine refuses, and goes on
    assert len(Endless.made) == 1 and widget.session.state == "training"
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)


def test_strokes_that_cannot_be_used_wait_with_a_quiet_word(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget, run = start_endless(viewer, qtbot)
    strokes = widget.layers.value()[1]
    before, said = run.samples[0], len(messages())
    strokes.data_setitem(np.nonzero(strokes.data == 2), 0)
    qtbot.waitUntil(lambda: "no scribbles for class 1" in widget.progress.note(), timeout=5000)
    assert run.samples[0] is before and len(messages()) == said
    strokes.undo()
    qtbot.waitUntil(lambda: not widget.progress.note(), timeout=5000)
    widget.classes.add()
    draw(viewer, (40, 10), (40, 30))
    qtbot.waitUntil(lambda: "classes are other ones" in widget.progress.note(), timeout=5000)
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)


def test_strokes_on_another_image_of_the_same_name_are_not_learnt_from(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget, run = start_endless(viewer, qtbot)
    image, strokes = widget.layers.value()
    name, image.name = image.name, "renamed"
    widget.hand.take(viewer.add_image(disc_image(), scale=SCALE, name=name), None)
    widget.layers._new.click()
    others = widget.layers.value()[1]
    for row, label in ((24, 2), (40, 1)):
        others.data_setitem((np.full(20, row), np.arange(20)), label)
    qtbot.waitUntil(lambda: f"'{name}' is not in this training" in widget.progress.note(), timeout=10_000)
    assert (run.samples[0].target[40] == IGNORE).all()
    widget.hand.take(image, strokes)
    strokes.data_setitem((np.full(20, 42), np.arange(20)), 1)
    qtbot.waitUntil(lambda: (run.samples[0].target[42, :20] == 0).all(), timeout=10_000)
    assert (run.samples[0].target[40] == IGNORE).all()
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)


def test_pause_and_resume(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    widget, run = start_endless(make_napari_viewer(show=True), qtbot)
    QTest.mouseClick(widget.training.pause, Qt.MouseButton.LeftButton)
    assert (run.paused, widget.training.pause.text(), widget.button.text()) == (True, "Resume", "Stop")
    assert not widget.settings.isEnabled()
    QTest.mouseClick(widget.training.pause, Qt.MouseButton.LeftButton)
    assert (run.paused, widget.training.pause.text()) == (False, "Pause")
    QTest.mouseClick(widget.training.pause, Qt.MouseButton.LeftButton)
    QTest.mouseClick(widget.button, Qt.MouseButton.LeftButton)  # stop while paused
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    assert widget.training.pause.isHidden()
    assert widget.session.model is not None


def test_the_time_of_a_preset_is_measured_when_it_is_chosen(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainer import doctor

    monkeypatch.setattr(doctor, "seconds_a_step", lambda name, config, machine: 2.0)
    widget = docked(make_napari_viewer())
    for preset, words in (("paper", "about 2.1 days on this machine"), ("umamba", "depends on your images")):
        widget.settings._preset.setCurrentText(preset)
        widget.settings._preset.activated.emit(widget.settings._preset.currentIndex())
        qtbot.waitUntil(lambda words=words: words in widget.settings._hint.text(), timeout=30_000)


def test_taking_the_widget_out_of_its_dock_stops_the_run(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget, run = start_endless(viewer, qtbot)
    viewer.window.remove_dock_widget(widget)
    assert run.stopped
    viewer.add_image(disc_image())  # the panel has stopped following the viewer
    widget.deleteLater()


def test_closing_the_viewer_stops_the_run(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    _, run = start_endless(viewer, qtbot)
    viewer.close()
    qtbot.waitUntil(lambda: run.stopped, timeout=10_000)


def test_a_prediction_that_arrives_in_mid_stroke_leaves_the_stroke_whole(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer)
    widget.layers._new.click()
    widget._watch([image], ("background", "object"))
    labels = {"unet": np.ones((48, 48), np.uint8)}
    draw(viewer, (10, 8), (10, 40), midway=lambda: widget.session.predicted.emit(Prediction("disc", None, labels, "x")))
    assert (viewer.layers["unet · disc"].data == 2).all()
    assert (viewer.layers["strokes · disc"].data[10, 10:38] == 2).all()
    viewer.layers["unet · disc"].locked = False
    viewer.layers.remove(image)
    widget.session.predicted.emit(Prediction("disc", None, labels, "y"))  # for an image that is gone: dropped
    assert not widget.progress.shown()


def test_what_is_missing_is_said(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer()
    widget = docked(viewer)
    widget.button.click()
    assert "no image" in messages()[-1]
    viewer.add_image(disc_image(), name="disc")
    widget.button.click()
    assert "no strokes on 'disc'" in messages()[-1]
    widget.layers._new.click()
    widget.button.click()
    qtbot.waitUntil(lambda: "no scribbles" in messages()[-1], timeout=10_000)
    viewer.add_labels(np.ones((9, 9), int), name="other")
    widget.layers.setValue((viewer.layers["disc"], viewer.layers["other"]))
    widget.button.click()
    assert "(9, 9), the image 'disc' (48, 48)" in messages()[-1]
    assert (widget.button.text(), widget.button.isEnabled()) == ("Train", True)


def test_work_that_fails_leaves_what_is_there_alone(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    class Unfit(FakeModel):
        def prepared(self, *image: object) -> np.ndarray:
            raise ValueError("not for this image")

    def refused(*asked: object) -> FakeRun:
        raise ValueError("not these networks")

    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer, refused)
    widget.classes.setValue(_notes.default_brushes(FakeModel.classes))
    strokes = scribble(viewer, widget)
    widget.session._set_model(FakeModel())
    widget.models._predict.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    layer = _layers.prediction_layers(viewer, image)["ensemble"]
    seen, layers, shown = layer.data.copy(), list(viewer.layers), widget.progress.shown()
    assert seen.any() and shown and widget.progress._bar.value() == 1000
    widget.session.model = Unfit()
    widget.classes.setValue(_notes.default_brushes(["background", "RV"]))
    for button, why in ((widget.button, "not these networks"), (widget.models._predict, "not for this image")):
        button.click()
        qtbot.waitUntil(lambda why=why: messages()[-1:] == [why] and widget.session.state == "idle", timeout=30_000)
        assert widget.progress._headline.text() == f"Failed: {why}"
        assert (widget.progress._bar.value(), widget.progress._bar.maximum()) == (0, 1000)
        assert np.array_equal(layer.data, seen) and list(viewer.layers) == layers
        assert (widget.progress.shown(), widget.overlays.names) == (shown, FakeModel.classes)

    image.data = np.full_like(image.data, 7)
    widget.button.click()
    assert "'disc' is constant, every pixel is 7" in messages()[-1]
    assert widget.progress._headline.text() == "Failed: not for this image"  # nothing was begun
    image.data = disc_image()
    strokes[:] = 0
    widget.button.click()
    assert messages()[-1] == "no scribbles on 'disc'; paint a stroke of each class"


def test_a_class_that_goes_takes_its_strokes_along(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(np.eye(4))
    strokes = viewer.add_labels(
        np.array([[1, 2, 3, 0]] * 4), metadata={"scribblemamba": {"classes": ["background", "RV", "LV"]}}
    )
    widget = docked(viewer)
    assert [brush.name for brush in widget.classes.value()] == ["background", "RV", "LV"]
    widget.classes.setCurrent(1)
    assert (strokes.selected_label, strokes.mode) == (2, "paint")
    widget.classes.remove()
    assert strokes.data[0].tolist() == [1, 0, 2, 0]
    assert [brush.name for brush in _notes.brushes_of(strokes)] == ["background", "LV"]


def stack_in_a_window(viewer: Viewer) -> ScribbleMamba:
    """A docked panel, a stack of six slices, and empty strokes for three classes in hand."""
    viewer.add_image(np.stack([disc_image()] * 6), scale=(10, *SCALE), name="stack")
    widget = docked(viewer)
    widget.classes.setValue(_notes.default_brushes(["background", "RV", "LV"]))
    widget.layers._new.click()
    viewer.window._qt_window.activateWindow()
    viewer.window._qt_viewer.canvas.native.setFocus()
    return widget


def press(viewer: Viewer, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    QTest.keyClick(viewer.window._qt_viewer.canvas.native, key, modifier)
    QTest.qWait(10)


CTRL = Qt.KeyboardModifier.ControlModifier


def test_keys_choose_classes_and_erase(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    strokes = widget.layers.value()[1]
    for key, label in ((Qt.Key.Key_1, 1), (Qt.Key.Key_3, 3), (Qt.Key.Key_9, 3), (Qt.Key.Key_2, 2)):
        press(viewer, key, CTRL)  # there is no ninth class
        assert (strokes.selected_label, strokes.mode) == (label, "paint")
        assert widget.classes.current() == label - 1
    press(viewer, Qt.Key.Key_0, CTRL)
    assert strokes.mode == "erase"
    press(viewer, Qt.Key.Key_2, CTRL)
    assert strokes.mode == "paint"
    if xdotool := shutil.which("xdotool"):  # keys as the window system sends them
        for key, mode in (("ctrl+0", "erase"), ("ctrl+3", "paint")):
            subprocess.run([xdotool, "key", key], check=True)
            qtbot.waitUntil(lambda mode=mode: strokes.mode == mode, timeout=5000)
        assert strokes.selected_label == 3
    press(viewer, Qt.Key.Key_E)  # napari's own
    assert strokes.mode == "erase"
    bound = len(strokes.keymap)
    viewer.window.remove_dock_widget(widget)
    assert bound and not strokes.keymap
    widget.deleteLater()


def test_with_another_layer_active_keys_lead_back_and_look(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    strokes = widget.layers.value()[1]
    for layer in (viewer.add_image(np.eye(9)), viewer.add_labels(np.eye(9, dtype=int)), viewer.add_points()):
        viewer.layers.selection.active = layer
        press(viewer, Qt.Key.Key_1, CTRL)
        assert viewer.layers.selection.active == strokes and (strokes.selected_label, strokes.mode) == (1, "paint")
    viewer.layers.selection.clear()
    widget.guide.setPlaces([Place("stack", 4, 30, 20, 9.0)])
    press(viewer, Qt.Key.Key_N)
    press(viewer, Qt.Key.Key_C)
    assert round(viewer.dims.point[0]) == 40 and widget.view.value().hidden
    bound = len(viewer.keymap)
    viewer.window.remove_dock_widget(widget)
    assert bound and not viewer.keymap
    widget.deleteLater()


def test_pixels_are_counted_while_one_draws_and_slices_are_jumped_among(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    strokes = widget.layers.value()[1]
    for z in (1, 4):
        viewer.dims.set_point(0, 10 * z)
        draw(viewer, (10, 8), (10, 40))
    pixels = [int((strokes.data[z] == 2).sum()) for z in (1, 4)]
    assert min(pixels) > 30
    row = widget.classes._list.model().index(1, 0)
    qtbot.waitUntil(lambda: row.data(PIXELS) == f"{sum(pixels)} px", timeout=2000)
    assert widget.slices._list.placeholderText() == "2 slices with strokes"
    press(viewer, Qt.Key.Key_Comma)
    assert round(viewer.dims.point[0]) == 10
    press(viewer, Qt.Key.Key_Period)
    assert round(viewer.dims.point[0]) == 40
    assert widget.slices._list.currentText() == f"slice 4 · {pixels[1]} px"
    viewer.dims.set_point(0, 0)
    strokes.undo()  # on a slice that is not in view
    qtbot.waitUntil(lambda: row.data(PIXELS) == f"{pixels[0]} px", timeout=2000)


def test_a_class_is_absent_from_a_slice_until_it_is_said_again(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    strokes = widget.layers.value()[1]
    viewer.dims.set_point(0, 30)
    press(viewer, Qt.Key.Key_A)
    overlay = viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay
    assert _notes.absences(strokes) == ((3, 1),)
    assert (overlay.text, overlay.visible) == ("absent here: RV", True)
    assert widget.classes._list.item(1).data(PIXELS) == "absent here"
    viewer.dims.set_point(0, 40)
    assert (overlay.text, overlay.visible) == ("", False)
    viewer.dims.set_point(0, 30)
    widget.classes.setCurrent(1)
    widget.classes.move(1)  # the mark follows its class
    assert overlay.text == "absent here: RV" and _notes.absences(strokes) == ((3, 2),)
    press(viewer, Qt.Key.Key_A)
    assert not _notes.absences(strokes) and not overlay.visible
    draw(viewer, (10, 8), (10, 40))
    press(viewer, Qt.Key.Key_A)
    assert not _notes.absences(strokes) and "is drawn on this slice" in messages()[-1]


def test_classes_from_a_table_keep_the_strokes_with_their_names(
    make_napari_viewer: Callable[..., Viewer], tmp_path: Path
) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(np.eye(4))
    strokes = viewer.add_labels(
        np.array([[1, 2, 3, 0]] * 4), metadata={"scribblemamba": {"classes": ["background", "RV", "LV"]}}
    )
    widget = docked(viewer)
    widget.classes.exportRequested.emit(tmp_path / "classes.csv")
    assert (tmp_path / "classes.csv").read_text().split() == [
        "name,colour", "background,#7d8590", "RV,#e69f00", "LV,#56b4e9",
    ]  # fmt: skip
    (tmp_path / "more.csv").write_text("name\nbackground\nLV\nMYO\nRV\n")
    widget.classes.importRequested.emit(tmp_path / "more.csv")
    assert strokes.data[0].tolist() == [1, 4, 2, 0]
    (tmp_path / "fewer.csv").write_text("name\nbackground\nLV\n")
    widget.classes.importRequested.emit(tmp_path / "fewer.csv")
    assert "there are strokes of 'RV'" in messages()[-1]
    assert len(widget.classes.value()) == 4


def test_channels_of_several_layers_are_learnt_from_together(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    red, green = viewer.add_image(disc_image(), scale=SCALE), viewer.add_image(disc_image().T, scale=SCALE)
    Endless.made = []
    widget = docked(viewer, Endless)
    scribble(viewer, widget)
    viewer.layers.selection = {red, green}
    widget.layers._join.click()
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: bool(Endless.made), timeout=30_000)
    assert Endless.made[0].samples[0].image.shape == (2, 48, 48)
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)


def test_predictions_are_compared_with_one_click(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = stack_in_a_window(viewer)
    image = viewer.layers["stack"]
    widget.session._set_model(FakeModel())
    widget.models._predict.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    ensemble = _layers.prediction_layers(viewer, image)["ensemble"]
    viewer.window._qt_viewer.canvas.native.setFocus()
    press(viewer, Qt.Key.Key_C)
    assert not ensemble.visible and widget.view._hide.text() == "Show"
    press(viewer, Qt.Key.Key_C)
    assert ensemble.visible
    widget.view._contour.click()
    widget.view._opacity.setValue(90)
    assert (ensemble.contour, ensemble.opacity) == (1, 0.9)
    assert [widget.view._one.itemText(i) for i in range(3)] == ["swinunet", "unet", "ensemble"]
    widget.view._difference.click()
    assert viewer.layers["swinunet – unet · stack"].opacity == 0.9
    widget.classes.setCurrent(1)
    widget.view._probability.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    layer = viewer.layers["P(disc) · ensemble · stack"]
    assert np.array_equal(layer.data, ensemble.data == 2)
    assert layer.data.any() and widget.layers.value()[0] is image  # nor is it offered as an image
    assert widget.layers._image.count() == 1


def predicted_stack(viewer: Viewer, qtbot: QtBot) -> tuple[ScribbleMamba, Labels]:
    """A stack, and the ensemble's layer with what a model said of it."""
    widget = stack_in_a_window(viewer)
    widget.session._set_model(FakeModel())
    widget.models._predict.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    ensemble = _layers.prediction_layers(viewer, viewer.layers["stack"])["ensemble"]
    assert ensemble.data.any()
    return widget, ensemble


def test_a_training_that_is_refused_leaves_what_is_there(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot
) -> None:
    viewer = make_napari_viewer(show=True)
    widget, ensemble = predicted_stack(viewer, qtbot)
    before = ensemble.data.copy()
    draw(viewer, (10, 8), (10, 40))
    widget.button.click()  # one class has no stroke
    assert widget.session.state == "idle" and np.array_equal(ensemble.data, before)


def test_what_another_model_said_goes_before_the_next_one_speaks(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    viewer = make_napari_viewer(show=True)
    widget, ensemble = predicted_stack(viewer, qtbot)
    monkeypatch.setattr(widget.session, "predict", lambda *_: None)
    widget.models._predict.click()
    assert ensemble.data.any()
    monkeypatch.setattr(widget.session, "_load_model", lambda folder: FakeModel())
    widget.session.load(tmp_path)
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    widget.models._predict.click()
    assert ensemble.data.any() and not widget.session.samples  # it may fail
    widget.session._set_state("predicting")
    widget.session.predicted.emit(Prediction("stack", 0, {"ensemble": np.ones((48, 48), np.uint8)}, "x"))
    assert ensemble.data[0].all() and not ensemble.data[1:].any()
    assert set(widget.overlays.predicted) == {("stack", 0)}


def test_a_training_is_cancelled_in_the_activity_dock(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget, run = start_endless(viewer, qtbot)
    dialog = viewer.window._qt_window._activity_dialog
    qtbot.waitUntil(lambda: bool(dialog.findChildren(QtLabeledProgressBar)), timeout=5000)
    [bar] = dialog.findChildren(QtLabeledProgressBar)
    assert bar.description_label.text().startswith("Training on strokes")
    bar.cancel_button.click()
    assert run.stopped and widget.session.state == "idle"
    qtbot.waitUntil(lambda: not dialog.findChildren(QtLabeledProgressBar), timeout=5000)


def test_the_manifest_names_what_exists() -> None:
    manifest = PluginManifest.from_file(Path(napari_scribblemamba.__file__).with_name("napari.yaml"))
    manifest.validate_imports()
    assert {sample.key for sample in manifest.contributions.sample_data} == {"cardiac", "microscopy", "endoscopy"}


def test_the_chosen_class_and_the_layers_label_are_one(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(disc_image(), name="disc")
    widget = docked(viewer)
    names = {"scribblemamba": {"classes": ["background", "disc", "rim"]}}
    strokes = viewer.add_labels(np.zeros((48, 48), np.uint8), metadata=names)
    assert strokes.selected_label == widget.classes.current() + 1 == 2
    strokes.selected_label = 3  # by napari's own spin box
    assert widget.classes.current() == 2
    widget.classes.setCurrent(0)
    assert strokes.selected_label == 1
    strokes.selected_label = 9  # no class: the row stays
    assert widget.classes.current() == 0


def test_the_class_in_hand_after_an_undo_is_one_that_is_there(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer)
    scribble(viewer, widget)
    strokes = widget.layers.value()[1]
    widget.recorder.settle()
    widget.classes.add()
    assert (widget.classes.current(), strokes.selected_label) == (2, 3)
    widget.recorder.undo()
    assert [brush.name for brush in widget.classes.value()] == ["background", "object"]
    assert (widget.classes.current(), strokes.selected_label) == (1, 2)


def test_a_closed_widget_lets_go_once(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer()
    widget = docked(viewer)
    ended: list[str] = []
    widget._endings.append(lambda: ended.append("once"))
    viewer.window.remove_dock_widget(widget)
    assert ended == ["once"]
    widget.deleteLater()
    QTest.qWait(50)
    assert ended == ["once"]


def test_nothing_is_cut_at_the_side(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = docked(viewer)
    viewer.add_image(disc_image(), name="an image whose name is longer than a panel is wide, as of a microscope")
    widget.layers._new.click()
    column = widget._column
    for unfolded in (False, True):
        for part in column.findChildren(Folded):
            part.unfold(unfolded)
        for width in (10, 340):  # as narrow as it goes, and as it opens
            viewer.window._qt_window.resizeDocks([widget.parent()], [width], Qt.Orientation.Horizontal)
            QTest.qWait(100)
            qtbot.waitUntil(lambda: column.widget().width() <= column.viewport().width())
