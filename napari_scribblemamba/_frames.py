"""How the window is drawn while it trains: beside the training, and not so often that nothing else gets done.

Where no graphics card helps (a remote desktop, a virtual screen), drawing the window takes tens of milliseconds. napari
has a python method through which Qt's request to draw passes; python's lock would be held all the while, and a mouse
that moves would stop the training. Told that a corner of it is exposed, Qt draws what is due without that method.
"""

import time
import weakref

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtGui import QExposeEvent, QRegion
from qtpy.QtWidgets import QApplication, QMainWindow

LONGEST = 0.1  # seconds that drawing is put off, at most
CORNER = QRegion(0, 0, 1, 1)
DRAWN = QEvent.Type(QEvent.registerEventType())  # comes after a picture


class Frames(QObject):
    """While there is something to leave time for, puts off drawing a window by as long as it took last time."""

    def __init__(self) -> None:
        super().__init__()
        self._held: weakref.ref[QMainWindow] | None = None  # weak: the window goes when it is closed
        self._busy = self._drawing = self._passing = False
        self._begun = self._free = 0.0  # time.monotonic() of the last picture's beginning, and before the next one
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._draw)

    def hold(self, window: QMainWindow) -> None:
        """Mind this window."""
        if window is not self._window:
            self._held = weakref.ref(window)
            window.installEventFilter(self)

    @property
    def _window(self) -> QMainWindow | None:
        window = None if self._held is None else self._held()
        return window if window is not None and isalive(window) else None

    def set_busy(self, busy: bool) -> None:
        """Whether there is something that drawing must leave time for."""
        if self._busy and not busy and self._window is not None:
            QApplication.postEvent(self._window, QEvent(QEvent.Type.UpdateRequest))  # for what was put off
        self._busy = busy and self._window is not None

    def end(self) -> None:
        """Mind nothing any more."""
        self.set_busy(False)
        if self._window is not None and isalive(self):
            self._timer.stop()
            self._window.removeEventFilter(self)
        self._held = None

    def eventFilter(self, window: QObject, event: QEvent) -> bool:
        if event.type() == DRAWN:
            self._on_drawn()
            return True
        if event.type() != QEvent.Type.UpdateRequest or not self._busy or self._passing:
            return False
        if not self._drawing and not self._timer.isActive():
            self._timer.start(max(0, round(1000 * (self._free - time.monotonic()))))
        return True  # what is to be drawn stays marked

    def _draw(self) -> None:
        if self._busy and self._window is not None:
            self._drawing, self._begun = True, time.monotonic()
            QApplication.postEvent(self._window.windowHandle(), QExposeEvent(CORNER))
            QApplication.postEvent(self._window, QEvent(DRAWN))

    def _on_drawn(self) -> None:
        end = time.monotonic()
        self._drawing, self._free = False, end + min(end - self._begun, LONGEST)
        self._passing = True
        self._window.event(QEvent(QEvent.Type.UpdateRequest))  # nothing is left to draw; now Qt asks again
        self._passing = False
