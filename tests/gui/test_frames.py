"""The window is drawn while it trains, without its python method; and what was put off is drawn afterwards."""

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import QMainWindow, QWidget

from napari_scribblemamba._frames import Frames


class Window(QMainWindow):
    """Knows, as napari's, what passes its method."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def event(self, event: QEvent) -> bool:
        self.depth += 1
        try:
            return super().event(event)
        finally:
            self.depth -= 1


class Picture(QWidget):
    """Notes of every drawing whether it was inside the window's method."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[bool] = []

    def paintEvent(self, event: QPaintEvent) -> None:
        self.drawn.append(self.window().depth > 0)


@pytest.fixture
def window(qtbot: QtBot) -> Window:
    window = Window()
    window.setCentralWidget(Picture())
    qtbot.addWidget(window)
    with qtbot.waitExposed(window):
        window.show()
    qtbot.waitUntil(lambda: bool(window.centralWidget().drawn), timeout=5000)
    return window


def test_a_busy_window_is_drawn_outside_its_method(qtbot: QtBot, window: Window) -> None:
    picture, frames = window.centralWidget(), Frames()
    frames.hold(window)
    for busy in (False, True, False, True):
        frames.set_busy(busy)
        for _ in range(3):
            qtbot.wait(20)  # what is still to come of before
            picture.drawn.clear()
            picture.update()
            qtbot.waitUntil(lambda: bool(picture.drawn), timeout=5000)
            assert picture.drawn == [not busy]
    frames.end()


def test_what_was_put_off_is_drawn_when_it_ends(qtbot: QtBot, window: Window) -> None:
    picture, frames = window.centralWidget(), Frames()
    frames.hold(window)
    frames.set_busy(True)
    frames._free = float("inf")  # the last picture took for ever
    frames._timer.setInterval(10**6)
    frames._timer.start()
    picture.drawn.clear()
    picture.update()
    qtbot.wait(50)
    assert not picture.drawn
    frames.end()
    qtbot.waitUntil(lambda: bool(picture.drawn), timeout=5000)
    picture.drawn.clear()
    picture.update()
    qtbot.waitUntil(lambda: bool(picture.drawn), timeout=5000)
    assert picture.drawn == [True]  # as if nobody had minded
