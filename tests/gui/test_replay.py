"""The past of the strokes: seen with a slider, never changed, and left with one click."""

from collections.abc import Callable

import numpy as np
from napari import Viewer
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from test_recorder import close
from test_widget import CTRL, SCALE, disc_image, docked, draw, press

from napari_scribblemamba._replay_panel import ReplayPanel
from napari_scribblemamba._widget import ScribbleMamba


def drawn(viewer: Viewer, rows: tuple[int, ...]) -> ScribbleMamba:
    """A stroke of class 1 along each of these rows, made by code, one change each."""
    viewer.add_image(disc_image(), scale=SCALE, name="disc")
    widget = docked(viewer)
    widget.layers._new.click()
    for row in rows:
        widget.layers.value()[1].data_setitem((np.full(48, row), np.arange(48)), 2)
        widget.recorder.settle()
    widget.gallery.list()
    return widget


def rows_of(values: np.ndarray) -> list[int]:
    return np.flatnonzero(values.any(1)).tolist()


def test_the_past_is_looked_at_and_not_changed(make_napari_viewer: Callable[..., Viewer], qtbot: QtBot) -> None:
    viewer = make_napari_viewer(show=True)
    widget = drawn(viewer, (5, 15, 25))
    strokes = widget.layers.value()[1]
    before = strokes.data.copy()
    assert widget._replay_line._line.text() == "▸ Replay · under a minute drawn"
    widget._replay_line.unfold()
    widget.replay._slider.setValue(1)
    past = viewer.layers["past strokes · disc"]
    assert rows_of(past.data) == [5] and past.visible and not strokes.visible
    assert widget.layers.value() == (viewer.layers["disc"], strokes)  # nor is the past offered as strokes
    overlay = viewer.canvas.overlays.text if hasattr(viewer, "canvas") else viewer.text_overlay
    assert "the past" in overlay.text and not widget.replay._now.isHidden()
    draw(viewer, (40, 4), (40, 44))
    viewer.window._qt_viewer.canvas.native.setFocus()
    press(viewer, Qt.Key.Key_Z, CTRL)
    assert rows_of(past.data) == [5] and np.array_equal(strokes.data, before)
    widget.replay._slider.setValue(2)
    assert rows_of(past.data) == [5, 15]
    widget.replay._slider.setValue(0)
    assert rows_of(past.data) == []

    QTest.mouseClick(widget.replay._now, Qt.MouseButton.LeftButton)
    assert "past strokes · disc" not in viewer.layers and strokes.visible and not overlay.text
    assert viewer.layers.selection.active == strokes and strokes.mode == "paint"
    draw(viewer, (40, 4), (40, 44))
    assert strokes.data[40].any() and np.array_equal(strokes.data[:30], before[:30])
    close(viewer, widget)


def test_a_class_other_strokes_and_the_end_lead_back_to_now(make_napari_viewer: Callable[..., Viewer]) -> None:
    viewer = make_napari_viewer(show=True)
    widget = drawn(viewer, (5, 15))
    strokes = widget.layers.value()[1]
    viewer.window._qt_viewer.canvas.native.setFocus()
    leave = (
        lambda: widget.classes.setCurrent(0),
        lambda: press(viewer, Qt.Key.Key_2, CTRL),
        lambda: viewer.layers.remove("past strokes · disc"),
        lambda: widget._replay_line.unfold(False),
        widget.layers._new.click,
    )
    for way in leave:
        widget._replay_line.unfold()
        widget.replay._slider.setValue(1)
        assert widget.past.shown()
        way()
        assert not widget.past.shown() and widget.replay.value() is None and strokes.visible
        widget.layers.setValue((viewer.layers["disc"], strokes))
        widget.classes.setCurrent(1)
    widget.replay.setValue(1)
    close(viewer, widget)
    assert rows_of(strokes.data) == [5, 15]


def test_the_slider_edits_how_much_is_seen_and_plays(qtbot: QtBot) -> None:
    panel = ReplayPanel()
    qtbot.addWidget(panel)
    panel.set_moments([0.0, 1.0, 2.0])
    assert panel.value() is None and panel._now.isHidden()
    with qtbot.waitSignal(panel.valueChanged):
        panel.setValue(2)
    assert panel.value() == 2 and "after 2 of 3, " in panel._line.text()
    panel.set_moments([0.0, 1.0, 2.0, 3.0])
    assert panel.value() == 2
    panel.setValue(None)
    assert panel._slider.value() == 4 and panel._line.text() == "now, after 4 changes"
    seen = []
    panel.valueChanged.connect(lambda: seen.append(panel.value()))
    panel._timer.setInterval(0)
    panel._play.click()
    qtbot.waitUntil(lambda: seen[-1] == 4, timeout=20_000)
    assert seen == [0, 1, 2, 3, 4] and not panel._now.isHidden()
