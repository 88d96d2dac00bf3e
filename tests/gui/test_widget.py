"""The dock widget in a real window: strokes drawn with the mouse, training, predictions, errors, closing."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from fakes import FakeProgress, FakeRun
from napari import Viewer
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

import napari_scribblemamba
from napari_scribblemamba import _layers
from napari_scribblemamba._session import Prediction, Session
from napari_scribblemamba._widget import ScribbleMamba
from napari_scribblemamba._worker import run_in_background
from trainer import IGNORE, Config, load_dataset

TINY = Config(iterations=30, patch=(32, 32), batch=2, device="cpu", dtype="float32")
SCALE = (2.0, 2.0)


def disc_image() -> np.ndarray:
    y, x = np.indices((48, 48))
    noise = np.random.default_rng(0).normal(0, 5, y.shape)
    return (30 + 150 * (np.hypot(y - 24, x - 24) < 12) + noise).astype(np.float32)


def docked(viewer: Viewer, make_run: Callable | None = None) -> ScribbleMamba:
    session = Session(run_in_background, make_run) if make_run else None
    widget = ScribbleMamba(viewer, session)
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
    QTest.qWait(100)  # until the docks have found their sizes
    points = [canvas_point(viewer, point) for point in np.linspace(start, end, 9)]
    mouse(viewer, QEvent.Type.MouseButtonPress, points[0])
    for i, point in enumerate(points):
        QTest.qWait(15)  # vispy drops moves that come within 10 ms
        mouse(viewer, QEvent.Type.MouseMove, point)
        if midway is not None and i == 4:
            midway()
    mouse(viewer, QEvent.Type.MouseButtonRelease, points[-1])


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
    viewer = make_napari_viewer(show=True)
    image = viewer.add_image(disc_image(), scale=SCALE, units="mm", name="disc")
    widget = docked(viewer)
    strokes = scribble(viewer, widget)
    assert (strokes[24, 18:31] == 2).all()
    assert (strokes[4, 6:42] == 1).all()

    widget.settings.setValue(TINY)
    widget.button.click()
    assert widget.button.text() == "Stop"
    qtbot.waitUntil(lambda: len(_layers.prediction_layers(viewer, image)) == 1, timeout=60_000)
    assert "propagated strokes" in widget.progress.shown()
    qtbot.waitUntil(lambda: widget.button.text() == "Train" and widget.session.state == "idle", timeout=120_000)

    layers = _layers.prediction_layers(viewer, image)
    assert set(layers) == {"unet", "swinunet", "mambaunet", "ensemble"}
    for layer in layers.values():
        assert (layer.scale == SCALE).all()
        assert layer.units == image.units
        painted = strokes > 0
        expected = np.where(strokes == 1, 0, strokes)  # the background is transparent in predictions
        assert (layer.data == expected)[painted].mean() > 0.8
    assert "ensemble of 3 networks" in widget.progress.shown()
    assert [p.iteration for p in widget.progress.value()] == list(range(TINY.iterations + 1))

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
    assert messages() == [f"saved to {tmp_path / 'run'}", f"saved to {tmp_path / 'data'}"]


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

    def __iter__(self):
        yield from super().__iter__()
        i = self.config.iterations
        while not self.stopped:
            time.sleep(0.01)
            i += 1
            yield FakeProgress(i, dict.fromkeys(self.model.names, 1 / i))


def start_endless(viewer: Viewer, qtbot: QtBot) -> tuple[ScribbleMamba, Endless]:
    Endless.made = []
    viewer.add_image(disc_image(), scale=SCALE)
    widget = docked(viewer, Endless)
    scribble(viewer, widget)
    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: len(widget.progress.value()) > TINY.iterations, timeout=30_000)
    return widget, Endless.made[0]


def test_stop_keeps_the_model(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    widget, _ = start_endless(make_napari_viewer(show=True), qtbot)
    widget.button.click()
    assert (widget.button.text(), widget.button.isEnabled()) == ("Stopping…", False)
    qtbot.waitUntil(lambda: widget.button.text() == "Train", timeout=30_000)
    assert widget.session.model is not None
    assert widget.models._save.isEnabled()


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
    widget._watch(image, ("background", "object"))
    labels = {"unet": np.ones((48, 48), np.uint8)}
    draw(viewer, (10, 8), (10, 40), midway=lambda: widget.session.predicted.emit(Prediction("disc", None, labels, "x")))
    assert (viewer.layers["unet · disc"].data == 2).all()
    assert (viewer.layers["strokes · disc"].data[10, 10:38] == 2).all()
    viewer.layers["unet · disc"].locked = False
    viewer.layers.remove(image)
    widget.session.predicted.emit(Prediction("disc", None, labels, "y"))  # for an image that is gone: dropped
    assert widget.progress.shown() == "Overlay: <b>x</b>"


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
    assert [brush.name for brush in _layers.brushes_of(strokes)] == ["background", "LV"]


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
