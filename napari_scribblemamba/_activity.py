"""A training or a prediction in napari's activity dock, with its Cancel; what is short is not shown there."""

from collections.abc import Callable

from napari.utils import cancelable_progress
from qtpy.QtCore import QTimer

TITLES = {
    "training": "Training on strokes",
    "paused": "Training, paused",
    "predicting": "Predicting",
    "labelling": "Labelling a folder",
    "exporting": "Exporting the model",
}
EVERY = 500  # ms between two looks; what is done by the first needs no bar
TOTAL = 100


class Bar(cancelable_progress):
    """Calls back as soon as Cancel is pressed; napari's own does so in the next turn of a loop, and here is none."""

    def cancel(self) -> None:
        super().cancel()
        self.cancel_callback()


class Activity:
    """Shows state and fraction of what is being done; `cancel` is called where the person asks for it.

    Only a timer touches the bar: napari handles whatever events are waiting whenever one moves, and in the middle of
    such an event that would turn their order upside down.
    """

    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._title, self._done = "", 0
        self._bar: Bar | None = None
        self._timer = QTimer()
        self._timer.setInterval(EVERY)
        self._timer.timeout.connect(self._show)

    def set_state(self, state: str) -> None:
        if state not in TITLES:
            self.end()
            return
        self._title = TITLES[state]
        if not self._timer.isActive():
            self._done = 0
            self._timer.start()

    def set_fraction(self, fraction: float) -> None:
        """0..1"""
        self._done = round(TOTAL * fraction)

    def end(self) -> None:
        self._timer.stop()
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self) -> None:
        if self._bar is None:
            self._bar = Bar(total=TOTAL, desc=self._title, cancel_callback=self._cancel)
        elif self._bar.desc.rstrip(": ") != self._title:
            self._bar.set_description(self._title)
        elif self._bar.n != self._done:
            self._bar.update(self._done - self._bar.n)
