"""Does the window stay fluid while it trains? python -m benchmarks.responsiveness

Opens the app on the cardiac sample, leaves it alone for ten seconds, presses Train, and lets a mouse paint a short
stroke every 100 ms while the networks train. A timer in the window's event loop measures how late it comes. Prints the
stall at the start, the delays afterwards, when the first overlay was on screen and how long Stop takes; writes them as
JSON, with the load of the machine; exits 1 beyond the bars. Without a display:
xvfb-run -a -s "-screen 0 1400x1000x24" python -m benchmarks.responsiveness
"""

import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import napari
import numpy as np
import tyro
from qtpy.QtCore import QEvent, QEventLoop, QPoint, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from napari_scribblemamba import _layers, _recovery
from napari_scribblemamba.__main__ import open_window
from napari_scribblemamba._widget import ScribbleMamba
from napari_scribblemamba._worker import wait_for_background

TICK = 10  # ms between two looks at the clock
STROKE, MOVE = 100, 20  # ms between two strokes, and between two moves of the mouse in one
MOVES, REACH = 3, 12  # in a stroke: moves, and pixels on the screen that each goes at most
START = 1.0  # s after the press that count as the start
BARS = {"stall_ms": 400, "p99_ms": 60, "max_ms": 200, "overlay_s": 3, "stop_s": 1}


@dataclass(frozen=True)
class Options:
    """Measure how late the window answers while it trains."""

    idle: float = 10.0
    """Seconds before Train is pressed; the last half of them are measured too, as a control."""
    seconds: float = 20.0
    """Of training that are measured, from a second after the press."""
    out: Path = Path(__file__).parent / "results" / "responsiveness.json"


@dataclass(frozen=True)
class Delays:
    """How late the timer came, ms, and what became of that time."""

    p50: float
    p99: float
    max: float
    waiting_p99: float  # of something that wants an answer at any moment: a long delay counts as often as it is long
    window_cpu: float  # seconds on the processor a second, of the window's thread


class Clock:
    """Ticks in the event loop from its making on."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []  # monotonic and processor time of the window's thread, s
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.setInterval(TICK)
        self.timer.timeout.connect(lambda: self.ticks.append((time.monotonic(), time.thread_time())))
        self.timer.start()

    def delays(self, begin: float, end: float) -> Delays:
        """Of all ticks that were due between these moments."""
        moments, cpu = np.array(self.ticks).T
        inside = np.flatnonzero((moments[1:] > begin) & (moments[:-1] < end))
        late = 1000 * np.diff(moments)[inside] - TICK
        late = late.clip(0)
        waits = np.concatenate([np.arange(ms, -1, -TICK) for ms in late])
        busy = (cpu[inside[-1] + 1] - cpu[inside[0]]) / (moments[inside[-1] + 1] - moments[inside[0]])
        p50, p99 = np.percentile(late, [50, 99])
        numbers = (p50, p99, late.max(), np.percentile(waits, 99), busy)
        return Delays(*(round(float(number), 2) for number in numbers))


class Mouse:
    """Paints short strokes at random places of the picture."""

    def __init__(self, viewer: napari.Viewer) -> None:
        self.canvas = viewer.window._qt_viewer.canvas.native
        self.rng = np.random.default_rng(0)
        self.strokes = 0
        self.timer = QTimer()
        self.timer.setTimerType(Qt.TimerType.PreciseTimer)
        self.timer.setInterval(STROKE)
        self.timer.timeout.connect(self.stroke)

    def stroke(self) -> None:
        self.strokes += 1
        size = np.array([self.canvas.width(), self.canvas.height()])
        points = size / 2 + self.rng.uniform(-0.15, 0.15, 2) * size.min()
        points = points + np.cumsum(self.rng.integers(-REACH, REACH + 1, (MOVES + 1, 2)), 0)
        self.send(QEvent.Type.MouseButtonPress, points[0])
        for i, point in enumerate(points[1:], start=1):
            QTimer.singleShot(i * MOVE, lambda point=point: self.send(QEvent.Type.MouseMove, point))
        QTimer.singleShot((MOVES + 1) * MOVE, lambda: self.send(QEvent.Type.MouseButtonRelease, points[-1]))

    def send(self, kind: QEvent.Type, point: np.ndarray) -> None:
        """As the window system would."""
        left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
        button = none if kind == QEvent.Type.MouseMove else left
        held = none if kind == QEvent.Type.MouseButtonRelease else left
        place = QPoint(*(int(x) for x in point))
        there = QPointF(self.canvas.mapToGlobal(place))
        event = QMouseEvent(kind, QPointF(place), there, button, held, Qt.KeyboardModifier.NoModifier)
        QApplication.sendEvent(self.canvas, event)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        _recovery.home = lambda: Path(folder)  # what is painted here is nobody's work
        found = measure(options)
    found["load"] = {"before": found["load"]["before"], "after": os.getloadavg()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(report(found))


def measure(options: Options) -> dict:
    before = os.getloadavg()
    viewer, widget = open_window(sample="cardiac")
    clock, mouse, shown = Clock(), Mouse(viewer), []
    wait(options.idle / 2)
    show_drawn_slice(viewer)
    mouse.timer.start()
    alone = time.monotonic()
    wait(options.idle / 2)
    follow_overlay(viewer, widget, shown)
    pressed, cpu = time.monotonic(), time.process_time()
    widget.training.button.click()
    wait(pressed + START + options.seconds - time.monotonic())
    end, cpu = time.monotonic(), time.process_time() - cpu
    last = widget.progress.value()
    stop = stopped(widget)
    mouse.timer.stop()
    found = {
        "bars": BARS,
        "stall_ms": clock.delays(pressed, pressed + START).max,
        "p99_ms": clock.delays(pressed + START, end).p99,
        "max_ms": clock.delays(pressed + START, end).max,
        "overlay_s": round(shown[0] - pressed, 2) if shown else None,
        "stop_s": round(stop, 2),
        "training": asdict(clock.delays(pressed + START, end)),
        "painting alone": asdict(clock.delays(alone, pressed)),
        "strokes": mouse.strokes,
        "steps": last.iteration if last else 0,
        "processors": round(cpu / (end - pressed), 2),
        "load": {"before": before},
        "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
    }
    viewer.window.remove_dock_widget(widget)
    widget.deleteLater()
    wait(0.1)
    viewer.close()
    wait_for_background(seconds=60)
    return found


def follow_overlay(viewer: napari.Viewer, widget: ScribbleMamba, shown: list[float]) -> None:
    """Note when the canvas was first drawn after a prediction of the slice in view had come."""
    image, arrived = viewer.layers[0], []

    def arrive(_: object) -> None:
        layer = _layers.prediction_layers(viewer, image)["ensemble"]
        if layer.data[_layers.visible_slice(viewer, image)].any():
            arrived.append(time.monotonic())

    def draw(_: object) -> None:
        if arrived and not shown:
            shown.append(time.monotonic())

    widget.session.predicted.connect(arrive)
    viewer.window._qt_viewer.canvas._scene_canvas.events.draw.connect(draw, position="last")


def show_drawn_slice(viewer: napari.Viewer) -> None:
    """Of those with strokes the one nearest to the middle."""
    image, strokes = viewer.layers[:2]
    drawn = np.flatnonzero(strokes.data.any((1, 2)))
    _layers.show_slice(viewer, image, int(drawn[len(drawn) // 2]))


def stopped(widget: ScribbleMamba) -> float:
    """Press Stop; seconds until the window is idle."""
    loop, pressed = QEventLoop(), time.monotonic()
    widget.session.state_changed.connect(lambda state: loop.quit() if state == "idle" else None)
    QTimer.singleShot(0, widget.training.button.click)
    loop.exec()
    return time.monotonic() - pressed


def wait(seconds: float) -> None:
    """In the window's own event loop."""
    loop, timer = QEventLoop(), QTimer()
    timer.setTimerType(Qt.TimerType.PreciseTimer)
    timer.setSingleShot(True)
    timer.timeout.connect(loop.quit)
    timer.start(round(1000 * seconds))
    loop.exec()


def report(found: dict) -> bool:
    """Print it; whether a bar was missed."""
    print(json.dumps(found, indent=1))
    missed = [name for name, bar in BARS.items() if found[name] is None or found[name] > bar]
    print("beyond the bars: " + ", ".join(missed) if missed else "within all bars")
    return bool(missed)


if __name__ == "__main__":
    main()
