"""How the training goes: a bar, a line of numbers, the loss of each network over time, and what the overlay shows."""

from typing import TYPE_CHECKING

import numpy as np
import pyqtgraph as pg
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QProgressBar, QVBoxLayout, QWidget
from superqt.utils import qthrottled

if TYPE_CHECKING:
    from trainer import Progress

COLOURS = ("#56b4e9", "#e69f00", "#2fbf9b", "#cc79a7", "#f0e442")
BAR = """QProgressBar { background: rgba(128, 128, 128, 60); border: 0; border-radius: 4px; }
QProgressBar::chunk { background: #2f8fd0; border-radius: 4px; }"""
FAINT = "#9aa4b0"
WARNING = "#e0a04a"
REDRAW = 100  # ms between two redraws
HEADLINES = {
    "idle": "Ready",
    "training": "Training",
    "paused": "Paused",
    "propagation": "Spreading the strokes",
    "predicting": "Predicting",
    "saving": "Saving",
    "loading": "Loading",
    "labelling": "Labelling the folder",
    "exporting": "Exporting the model",
}
SMOOTHING = 0.9  # of the exponential average that is drawn; single steps jump too much to be read
POINTS = 2000  # of a curve at most, even: the window shows fewer, and a training may take days


class Curve:
    """The smoothed loss of a network at its first, its last, and every 1st, 2nd, 4th, ... step between."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []  # (iteration, loss)
        self._steps, self._every = 0, 1

    def append(self, iteration: int, loss: float) -> None:
        if self.points:
            loss = SMOOTHING * self.points[-1][1] + (1 - SMOOTHING) * loss
        if (self._steps - 1) % self._every:
            self.points.pop()  # it was there as the last one only
        self.points.append((iteration, loss))
        self._steps += 1
        if len(self.points) > POINTS:
            del self.points[1::2]
            self._every *= 2


class ProgressPanel(QWidget):
    """Edits the Progress of a training: shows the last one, None before the first, and the losses so far as curves."""

    valueChanged = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._last: Progress | None = None
        self._state = "idle"
        self._reached = 0.0  # of the work under way, 0..1
        self._curves: dict[str, Curve] = {}
        self._lines: dict[str, pg.PlotDataItem] = {}
        self._headline, self._numbers, self._shown = QLabel("Ready"), QLabel(), QLabel()
        self._machine, self._note = QLabel(), QLabel()
        self._shown.setToolTip("What the visible overlay shows")
        for label in (self._headline, self._numbers, self._shown, self._machine, self._note):
            label.setWordWrap(True)
        self._machine.setToolTip("Device, number format and kernel of the state-space scan")
        self._machine.setStyleSheet(f"color: {FAINT}; font-size: 8pt;")
        self._note.setStyleSheet(f"color: {WARNING};")
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(8)
        self._bar.setStyleSheet(BAR)
        self._plot = _plot()
        self._legend = QLabel()  # below: in the plot it would lie on the curves
        self._legend.setWordWrap(True)
        self._legend.setStyleSheet(f"color: {FAINT}; font-size: 8pt;")

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        above = (self._headline, self._bar, self._numbers, self._note)
        for widget in (*above, self._plot, self._legend, self._shown, self._machine):
            layout.addWidget(widget)
        self.redraw = qthrottled(self._redraw, timeout=REDRAW, leading=True)
        self.setValue(None)
        self.set_shown("")
        self.set_machine("")
        self.set_note("")

    def value(self) -> "Progress | None":
        return self._last

    def setValue(self, progress: "Progress | None") -> None:
        """Begin anew."""
        self._last, self._curves, self._lines = None, {}, {}
        self._plot.clear()
        if progress is not None:
            self._append(progress)
        self._redraw()
        self.valueChanged.emit()

    def show_progress(self, progress: "Progress") -> None:
        self._append(progress)
        if self._state != "paused":  # the step that was under way ends after the click
            self._headline.setText(HEADLINES[progress.stage])
        self.set_fraction(progress.fraction)
        self.redraw()
        self.valueChanged.emit()

    def set_state(self, state: str) -> None:
        """Say what is going on; the bar runs to and fro where nobody knows how long it takes."""
        before, self._state = self._state, state
        self._headline.setText(HEADLINES[state])
        self.redraw()
        if state not in ("idle", "paused"):
            self._reached = 0.0
        if state in ("training", "loading", "saving", "labelling", "exporting"):
            self._bar.setRange(0, 0)
        elif before != state == "idle":
            self._headline.setText("Done")
            self._fill(1.0)

    def set_stopped(self) -> None:
        """The person has ended what was going on."""
        last = self._last
        self._headline.setText("Stopped; what was learnt is kept" if last and last.iteration else "Stopped")
        self._fill(self._reached)

    def set_failed(self, why: str) -> None:
        """An error has ended what was going on."""
        self._headline.setText(f"Failed: {why}")
        self._fill(self._reached)

    def set_fraction(self, fraction: float) -> None:
        """How much is done, 0..1."""
        self._reached = fraction
        self._fill(fraction)

    def _fill(self, fraction: float) -> None:
        self._bar.setRange(0, 1000)
        self._bar.setValue(round(1000 * fraction))

    def set_shown(self, source: str) -> None:
        self._shown.setText(f"Overlay: <b>{source}</b>" if source else "")
        self._shown.setVisible(bool(source))

    def set_machine(self, machine: str) -> None:
        """What the training runs on."""
        self._machine.setText(machine)
        self._machine.setVisible(bool(machine))

    def set_note(self, note: str) -> None:
        """A quiet word, such as why new strokes wait; "" takes it back."""
        self._note.setText(note)
        self._note.setVisible(bool(note))

    def note(self) -> str:
        return self._note.text()

    def shown(self) -> str:
        return self._shown.text()

    def _append(self, progress: "Progress") -> None:
        self._last = progress
        for name, loss in progress.losses.items():
            self._curves.setdefault(name, Curve()).append(progress.iteration, loss)

    def _redraw(self) -> None:
        for name, curve in self._curves.items():
            if name not in self._lines:
                self._lines[name] = self._plot.plot(pen=pg.mkPen(_colour(len(self._lines)), width=2))
            self._lines[name].setData(np.asarray(curve.points))
        running = self._state in ("training", "paused")
        self._numbers.setText(_describe(self._last, running) if self._last else "")
        self._numbers.setVisible(self._last is not None)
        names = [f"<span style='color: {_colour(i)}'>■</span> {name}" for i, name in enumerate(self._lines)]
        self._legend.setText(" &nbsp; ".join(names))
        for part in (self._plot, self._legend):
            part.setVisible(bool(self._curves))


def _colour(line: int) -> str:
    return COLOURS[line % len(COLOURS)]


def _describe(progress: "Progress", running: bool) -> str:
    parts = [f"iteration {progress.iteration}"]
    if progress.rate:
        parts.append(f"{progress.rate:.1f} it/s")
    parts.append(f"{_clock(progress.seconds)} gone")
    if running and progress.remaining is not None:
        parts.append(f"{_clock(progress.remaining)} left")
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _plot() -> pg.PlotWidget:
    plot = pg.PlotWidget(background=None)
    plot.setFixedHeight(130)
    plot.setToolTip("Loss of each network, smoothed; lower is better")
    plot.setMenuEnabled(False)
    plot.setMouseEnabled(False, False)
    plot.hideButtons()
    plot.showGrid(y=True, alpha=0.15)
    plot.setMinimumWidth(100)
    for side, label in (("left", "loss"), ("bottom", "iteration")):
        axis = plot.getAxis(side)
        axis.setLabel(label, color=FAINT)
        axis.setTextPen(FAINT)
        axis.setPen("#5b6470")
    return plot
