"""What a volume of 2000 x 2000 x 200 takes: python -m benchmarks.huge [--depth 200 --side 2000 ...]

Makes such a volume (uint8, zarr, a chunk a slice, small on disk), opens it in the app, draws strokes with the mouse on
several slices, trains for some steps, looks at other slices, begins to predict all of it and stops that. Prints the
memory of the process and the processor time of the mouse's events; writes them as JSON. Without a display:
xvfb-run -a -s "-screen 0 1400x1000x24" python -m benchmarks.huge
"""

import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tyro
from napari import Viewer
from qtpy.QtCore import QEvent, QEventLoop, QPointF, Qt, QTimer
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from napari_scribblemamba import _layers, _recovery
from napari_scribblemamba._widget import ScribbleMamba
from napari_scribblemamba._worker import wait_for_background
from trainer import Config

MOVES = 20  # of the mouse in a stroke
PATIENCE = 1200  # seconds


@dataclass(frozen=True)
class Options:
    """Annotate, train and predict a volume that is not to be loaded."""

    side: int = 2000
    """Pixels of a slice, along both axes."""
    depth: int = 200
    """Slices."""
    annotated: int = 4
    """Slices that are drawn on."""
    looks: int = 3
    """Further slices that are looked at after the training."""
    steps: int = 20
    """Of training."""
    zoom: float = 4.0
    """How far the person has zoomed in to draw: 1 shows all of a slice, and strokes run across all of it."""
    out: Path = Path(__file__).parent / "results" / "huge.json"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        _recovery.home = lambda: Path(folder) / "recovered"  # what is drawn here is nobody's work
        found = measured(options, write_volume(Path(folder) / "volume.zarr", options))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def write_volume(folder: Path, options: Options) -> Path:
    """Discs that wander from slice to slice on a ground of stripes."""
    import zarr

    side = options.side
    volume = zarr.create_array(str(folder), shape=(options.depth, side, side), chunks=(1, side, side), dtype="u1")
    y, x = np.ogrid[:side, :side]
    plane = (40 + 10 * (y // 50 % 2) + 0 * x).astype(np.uint8)
    for centre in np.linspace(0.2, 0.8, 4) * side:
        plane[(y - centre) ** 2 + (x - centre) ** 2 < (side * 0.06) ** 2] = 180
    for z in range(options.depth):
        shift = round(side * 0.05 * np.sin(z / 20))
        volume[z] = np.roll(plane, (shift, -shift), (0, 1))
    return folder


def measured(options: Options, folder: Path) -> dict:
    memory = Memory()
    viewer = Viewer(title="ScribbleMamba", show_welcome_screen=False)
    widget = ScribbleMamba(viewer)
    viewer.window.add_dock_widget(widget, name="ScribbleMamba")
    viewer.window.resize(1300, 900)
    widget.session.failed.connect(_end)
    wait_until(widget.isVisible)
    with memory.phase("volume opened"):
        [image] = viewer.open(str(folder), plugin="napari")
        wait(2)
    with memory.phase("engine imported"):  # torch and what it brings, whatever the image
        wait_until(lambda: "trainer.strokenet" in sys.modules)
        wait_for_background(seconds=60)
    with memory.phase("strokes layer"):
        widget.layers._new.click()
        wait(2)
    events: list[float] = []
    with memory.phase(f"strokes on {options.annotated} slices"):
        for z in np.linspace(0, options.depth - 1, options.annotated + 2).astype(int)[1:-1]:
            draw_on(viewer, widget, image, int(z), options.zoom, events)
        wait(3)
    with memory.phase("training"):
        begun = time.monotonic()
        widget.settings.setValue(Config(iterations=options.steps, device="cpu", dtype="float32"))
        widget.button.click()
        overlay = wait_until(lambda: bool(widget.progress.shown())) - begun
        wait_until(lambda: widget.session.model is not None and widget.session.state == "idle")
        trained = time.monotonic() - begun
    looks = []
    with memory.phase(f"looked at {options.looks} more slices"):
        for z in range(1, 1 + options.looks):
            begun = time.monotonic()
            _layers.show_slice(viewer, image, z)
            looks.append(wait_until(lambda z=z: (image.name, z) in widget._predicted) - begun)
    with memory.phase("predicting all, stopped after 3 slices"):
        count = len(widget._predicted)
        widget.models._predict.click()
        wait_until(lambda: len(widget._predicted) >= count + 3)
        begun = time.monotonic()
        widget.session.stop()
        wait_until(lambda: widget.session.state == "idle")
        stopped = time.monotonic() - begun
        wait_for_background(seconds=120)
    part = widget.session.samples[0].part
    found = {
        "volume": [options.depth, options.side, options.side],
        "bytes_of_volume": options.depth * options.side**2,
        "learnt_from": {"slices": part.slices, "box": part.box},
        "memory_mib": memory.rows,
        "stroke_event_cpu_ms": {
            "median": round(float(np.median(events)), 2),
            "p99": round(float(np.percentile(events, 99)), 2),
            "max": round(max(events), 2),
            "events": len(events),
        },
        "seconds": {"first overlay": overlay, "training": trained, "look at a slice": looks, "stop": stopped},
        "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
        "load": os.getloadavg(),
    }
    viewer.close()
    wait_for_background(seconds=60)
    return found


def _end(error: Exception) -> None:
    """Nothing more is to be measured."""
    print(f"it failed: {error!r}", file=sys.stderr, flush=True)
    os._exit(1)


class Memory:
    """What the process holds (RSS, MiB): after each phase, its growth since the phase before, and the peak in it."""

    def __init__(self) -> None:
        self.rows: list[dict] = []
        self._process, self._peak = psutil.Process(), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def phase(self, name: str) -> "Memory":
        self._name, self._before, self._peak = name, self.now(), 0.0
        return self

    def now(self) -> float:
        return self._process.memory_info().rss / 2**20

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        after = self.now()
        numbers = {"after": after, "growth": after - self._before, "peak": max(self._peak, after)}
        self.rows.append({"phase": self._name, **{name: round(value) for name, value in numbers.items()}})
        print(self.rows[-1], flush=True)

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, self.now())
            time.sleep(0.02)


def draw_on(viewer: Viewer, widget: ScribbleMamba, image: object, z: int, zoom: float, events: list[float]) -> None:
    """A stroke in a disc and one beside it, by mouse; notes the processor time of each event."""
    height, width = image.data.shape[-2:]
    viewer.reset_view()
    viewer.camera.zoom *= zoom
    _layers.go_to(viewer, image, z, round(0.4 * height), round(0.4 * width))
    wait(0.5)
    canvas = viewer.window._qt_viewer.canvas.native
    middle, reach = np.array([canvas.width(), canvas.height()]) / 2, 0.4 * min(canvas.width(), canvas.height())
    for c, (start, end) in enumerate([((-0.9, -0.9), (-0.9, 0.9)), ((-0.1, 0), (0.1, 0))]):
        widget.classes.setCurrent(c)
        points = middle + reach * np.linspace(start, end, MOVES)
        kinds = [QEvent.Type.MouseButtonPress, *[QEvent.Type.MouseMove] * MOVES, QEvent.Type.MouseButtonRelease]
        for kind, point in zip(kinds, [points[0], *points, points[-1]], strict=True):
            wait(0.025)  # vispy drops moves that come within 10 ms
            begun = time.thread_time()
            send(canvas, kind, point)
            QApplication.processEvents()  # the redraw and what else follows
            events.append(1000 * (time.thread_time() - begun))
    wait(1.5)


def send(canvas: object, kind: QEvent.Type, point: np.ndarray) -> None:
    """A mouse event with the left button, as the window system would send it."""
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    button = none if kind == QEvent.Type.MouseMove else left
    held = none if kind == QEvent.Type.MouseButtonRelease else left
    place = QPointF(*point)
    there = QPointF(canvas.mapToGlobal(place.toPoint()))
    QApplication.sendEvent(canvas, QMouseEvent(kind, place, there, button, held, Qt.KeyboardModifier.NoModifier))


def wait(seconds: float) -> None:
    """In the window's own event loop."""
    loop = QEventLoop()
    QTimer.singleShot(round(1000 * seconds), Qt.TimerType.PreciseTimer, loop.quit)
    loop.exec()


def wait_until(reached: Callable[[], bool]) -> float:
    """Until that is so; when it was. TimeoutError."""
    begun = time.monotonic()
    while not reached():
        wait(0.05)
        if time.monotonic() - begun > PATIENCE:
            raise TimeoutError(f"nothing happened in {PATIENCE} seconds")
    return time.monotonic()


if __name__ == "__main__":
    main()
