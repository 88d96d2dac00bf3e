"""Training and predicting in a box only: from the view, moved with napari's tools, kept with the image."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from test_recorder import close, reopened
from test_widget import SCALE, TINY, Endless, docked, draw, is_past, messages

from napari_scribblemamba import _layers, _notes
from napari_scribblemamba._box import Box, box_around
from napari_scribblemamba._box_panel import BoxPanel
from napari_scribblemamba._guide import Guidance
from napari_scribblemamba._widget import ScribbleMamba
from trainer import IGNORE, load_dataset
from trainer.disagreement import Place

BOX = Box(40, 60, 100, 140)


def test_the_view_of_a_pyramid_is_in_pixels_of_its_finest_level(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    pixels = np.random.default_rng(0).normal(size=(2048, 2048)).astype(np.float32)
    image = viewer.add_image([pixels, pixels[::2, ::2], pixels[::4, ::4], pixels[::8, ::8]], name="pyramid")
    widget = docked(viewer)
    viewer.reset_view()
    QTest.qWait(300)
    assert image.data_level > 0
    widget.box_layer.take_view()
    box = widget.box_layer.value()
    assert box.top <= 64 and box.left <= 64 and box.bottom >= 1984 and box.right >= 1984  # it is all in view


def opened(viewer: Viewer) -> ScribbleMamba:
    """A stack of three slices of 160 x 200 pixels, a stroke of each class inside BOX, one of the first outside."""
    pixels = np.random.default_rng(0).normal(size=(3, 160, 200)).astype(np.float32)
    viewer.add_image(pixels, scale=(1, *SCALE), name="stack")
    Endless.made = []
    widget = docked(viewer, Endless)
    widget.classes.setValue(_notes.default_brushes(["background", "disc"]))
    widget.layers._new.click()
    strokes = widget.layers.value()[1]
    for z, row, label in ((1, 50, 1), (1, 80, 2), (1, 10, 1)):
        strokes.data_setitem((np.full(60, z), np.full(60, row), np.arange(70, 130)), label)
        widget.recorder.settle()
    return widget


def test_the_view_becomes_the_box_and_only_that_is_learnt(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, tmp_path: Path
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = opened(viewer)
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.center, camera.zoom = (140, 200), 6
    QTest.qWait(300)  # until it is drawn
    widget.box._on.click()
    box = widget.box.value()
    assert box is not None and 40 <= box.top < 70 < box.bottom <= 110 and box.shape < (160, 200)
    shapes = viewer.layers["box · stack"]
    shapes.data = [np.array([[40, 60], [40, 140], [100, 140], [100, 60]]) - 0.5]  # as the person drags it
    assert widget.box.value() == BOX and "60 × 80" in widget.box._on.text()

    widget.settings.setValue(TINY)
    widget.button.click()
    qtbot.waitUntil(lambda: is_past(TINY.iterations, widget), timeout=30_000)
    [sample] = Endless.made[0].samples
    assert sample.image.shape == (1, 3, 60, 80) and sample.target.shape == (3, 60, 80)
    assert (sample.target[1, 10, 10:70] == 0).all() and (sample.target[1] != IGNORE).sum() == 120
    strokes = widget.layers.value()[1]
    strokes.data_setitem((np.full(60, 1), np.full(60, 90), np.arange(70, 130)), 2)
    qtbot.waitUntil(lambda: (Endless.made[0].samples[0].target[1, 50] == 1).any(), timeout=10_000)
    widget.button.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    widget.models._predict.click()
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    seen = viewer.layers["ensemble · stack"].data.copy()
    assert seen[_layers.index_of(viewer.layers["stack"], None, BOX)].any()
    seen[_layers.index_of(viewer.layers["stack"], None, BOX)] = 0
    assert not seen.any()
    widget.session.guided.emit(Guidance((Place("stack", 1, 5, 6, 3.0),), None))
    assert [(p.row, p.column) for p in widget.guide.places()] == [(45, 66)]

    outside = strokes.data[:, :40].copy()
    viewer.dims.set_point(0, 1)
    widget.results.acceptRequested.emit()
    assert (strokes.data[1][40:100, 60:140] > 0).all() and np.array_equal(strokes.data[:, :40], outside)
    widget.results.copyRequested.emit()
    assert "cut to the box" in messages()[-1] and "trainer.fit" in QApplication.clipboard().text()
    widget.models.exportRequested.emit(tmp_path / "data")
    qtbot.waitUntil(lambda: widget.session.state == "idle", timeout=30_000)
    assert load_dataset(tmp_path / "data").samples[0].image.shape == (1, 3, 60, 80)
    close(viewer, widget)


def test_strokes_outside_are_told_and_a_box_that_is_deleted_is_none(
    make_napari_viewer: Callable[..., Viewer],
) -> None:
    viewer = make_napari_viewer(show=True)
    widget = opened(viewer)
    widget.box_layer.setValue(Box(0, 0, 60, 200))
    widget.button.click()
    assert "all strokes of disc are outside the box" in messages()[-1] and widget.session.state == "idle"
    viewer.layers.remove("box · stack")
    assert widget.box.value() is None and not widget.box._on.isChecked()
    widget.box_layer.setValue(BOX)
    widget.box._on.click()
    assert "box · stack" not in viewer.layers and widget.box_layer.value() is None
    close(viewer, widget)


def test_an_image_that_comes_back_has_the_box_that_it_had(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer()
    one, two = (viewer.add_image(np.zeros((160, 200), np.float32), name=name) for name in ("one", "two"))
    widget = docked(viewer)
    for image in (one, two, one):
        widget.hand.take(image, None)
        if image != two:
            widget.box_layer.setValue(BOX)
    assert [layer.name for layer in viewer.layers if "box" in layer.name] == ["box · one"]
    viewer.layers["box · one"].data = [np.array([[20, 60], [20, 140], [100, 140], [100, 60]]) - 0.5]
    assert widget.box.value() == Box(20, 60, 100, 140)  # it is followed again
    widget.box_layer.setValue(None)
    assert "box · one" not in viewer.layers
    close(viewer, widget)


def test_the_box_is_kept_in_the_project(make_napari_viewer: Callable[..., Viewer], tmp_path: Path) -> None:
    viewer = make_napari_viewer(show=True)
    widget = opened(viewer)
    widget.project.saveRequested.emit(tmp_path / "boxed")
    widget.box_layer.setValue(BOX)
    close(viewer, widget)
    viewer, widget = reopened(make_napari_viewer, tmp_path / "boxed")
    assert widget.box.value() == BOX and "box · stack" in viewer.layers
    draw(viewer, (120, 20), (120, 90))  # the brush is still in hand
    assert widget.layers.value()[1].data[:, 120].any()
    close(viewer, widget)


def test_a_box_is_of_whole_pixels_inside_the_image_and_not_too_small() -> None:
    assert box_around(np.array([[-5.2, 3.4], [60.4, 70.6]]), (50, 100)) == Box(0, 3, 50, 71)
    assert box_around(np.array([[95.0, 10.0], [97.0, 12.0]]), (3, 100, 20)) == Box(68, 0, 100, 20)


def test_the_panel_edits_a_box(qtbot: QtBot) -> None:
    panel = BoxPanel()
    qtbot.addWidget(panel)
    with qtbot.waitSignal(panel.valueChanged):
        panel.setValue(BOX)
    assert panel.value() == BOX and not panel._row.isHidden()
    with qtbot.waitSignal(panel.valueChanged):
        panel._on.click()
    assert panel.value() is None and panel._row.isHidden()
    with qtbot.waitSignal(panel.viewRequested):
        panel._on.click()
