"""What a volume of 2000 x 2000 x 200 takes: python -m benchmarks.huge [--depth 200 --side 2000 ...]

Makes such a volume (uint8, zarr, a chunk a slice, small on disk), opens it in the app, draws strokes with the mouse on
several slices, trains for some steps while it draws on, looks at further slices, moves among many, begins to predict
all of it and stops that. Then the same, in a process of its own, on a volume of no more voxels than are learnt from of
the large one: what both take is torch, the networks and the window; what the large one takes beyond that is its size.
Prints how the memory of the process (RSS) grows in each phase and how late the window's event loop is; writes them as
JSON; exits 1 beyond the bars. Without a display:
xvfb-run -a -s "-screen 0 1400x1000x24" python -m benchmarks.huge
"""

import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import tyro
from napari import Viewer
from qtpy.QtCore import QEvent

from benchmarks.responsiveness import Clock, Mouse, wait
from napari_scribblemamba import _layers, _recovery
from napari_scribblemamba._widget import ScribbleMamba
from napari_scribblemamba._worker import wait_for_background
from trainer.config import Config

MOVES = 20  # of the mouse in a long stroke
PAUSE = 0.025  # seconds between them: vispy drops moves that come within 10 ms
VIEW = 500  # pixels of the volume that the person has zoomed in to
PATIENCE = 1200  # seconds
DRAWING, TRAINING, MOVING = "strokes", "training, strokes meanwhile", "moves among slices"
ALL = "prediction of all, stopped"
BARS = {"growth_mib": 400, "drawing_p99_ms": 60, "drawing_max_ms": 250, "training_p99_ms": 100, "moving_p99_ms": 250}


@dataclass(frozen=True)
class Options:
    """Annotate, train and predict a volume that is not to be loaded."""

    side: int = 2000
    """Pixels of a slice, along both axes."""
    depth: int = 200
    """Slices."""
    small_side: int = 600
    """The same of the volume that it is compared to."""
    small_depth: int = 12
    """Slices of that one."""
    annotated: int = 4
    """Slices that are drawn on."""
    steps: int = 40
    """Of training."""
    paint: float = 10.0
    """Seconds of strokes while it trains."""
    looks: int = 3
    """Further slices that are looked at after the training."""
    moves: int = 40
    """Slices that are then passed, ten a second."""
    out: Path = Path(__file__).parent / "results" / "huge.json"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    small = replace(options, side=options.small_side, depth=options.small_depth)
    before = os.getloadavg()
    found = summary(*(in_a_process(each) for each in (options, small)))
    found["load"] = {"before": before, "after": os.getloadavg()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(report(found))


def in_a_process(options: Options) -> dict:
    """What is found in one that has done nothing before."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(find, options).result()


def find(options: Options) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        _recovery.home = lambda: Path(folder) / "recovered"  # what is drawn here is nobody's work
        return Visit(options).all(write_volume(Path(folder) / "volume.zarr", options))


def summary(large: dict, small: dict) -> dict:
    """Both, and what is judged."""
    rows = {row["phase"]: row for row in large["phases"]}
    return {
        "bars": BARS,
        "growth_mib": growth(large) - growth(small),
        "drawing_p99_ms": rows[DRAWING]["late_ms"]["p99"],
        "drawing_max_ms": rows[DRAWING]["late_ms"]["max"],
        "training_p99_ms": rows[TRAINING]["late_ms"]["p99"],
        "moving_p99_ms": rows[MOVING]["late_ms"]["p99"],
        "large": large,
        "small": small,
        "machine": f"{os.cpu_count()} x {platform.processor() or platform.machine()}",
    }


def growth(found: dict) -> int:
    """MiB, from the window with the engine to the end of what a person does before all is predicted."""
    return sum(row["growth_mib"] for row in found["phases"][1:] if row["phase"] != ALL)


def report(found: dict) -> bool:
    """Print it; whether a bar was missed."""
    for name in ("large", "small"):
        print(f"{name}: {' x '.join(map(str, found[name]['volume']))}; MiB, and ms that the window was late")
        for row in found[name]["phases"]:
            memory = f"{row['growth_mib']:+5} (at most {row['peak_mib']:+5})"
            late = "p50 {p50}, p99 {p99}, max {max}".format(**row["late_ms"])
            print(f"  {row['phase']:28} {row['seconds']:6.1f} s  {memory}  {late}")
    missed = [name for name, bar in BARS.items() if found[name] > bar]
    print(json.dumps({name: found[name] for name in BARS}))
    print("beyond the bars: " + ", ".join(missed) if missed else "within all bars")
    return bool(missed)


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


class Visit:
    """A person's work on one volume, phase by phase."""

    def __init__(self, options: Options) -> None:
        self.options, self.memory = options, Memory()
        self.viewer = Viewer(title="ScribbleMamba", show_welcome_screen=False)
        self.widget = ScribbleMamba(self.viewer)
        self.viewer.window.add_dock_widget(self.widget, name="ScribbleMamba")
        self.viewer.window.resize(1300, 900)
        self.widget.session.failed.connect(_end)
        self.clock, self.phases = Clock(), []
        wait_until(self.widget.isVisible)

    def all(self, folder: Path) -> dict:
        with self.phase("engine imported"):  # torch and what it brings, whatever the image
            self.warm_up()
        with self.phase("volume opened"):
            [self.image] = self.viewer.open(str(folder), plugin="napari")
            wait(2)
        with self.phase("layer of strokes"):
            self.widget.layers._new.click()
            wait(2)
        with self.phase(DRAWING):
            self.draw()
        with self.phase(TRAINING):
            self.train()
        with self.phase("looks at slices"):
            for z in range(1, 1 + self.options.looks):
                self.look(z)
        with self.phase(MOVING):
            self.move()
        with self.phase(ALL):
            self.predict()
        found = {"volume": list(self.image.data.shape), "learnt": self.learnt(), "phases": self.phases}
        self.viewer.close()
        wait_until(idle)
        return found

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Notes what it took."""
        before, begun = self.memory.begin(), time.monotonic()
        yield
        wait(0.1)  # the clock ticks at least once
        late = self.clock.delays(begun, time.monotonic())
        row = {
            "phase": name,
            "seconds": round(time.monotonic() - begun, 1),
            "growth_mib": round(self.memory.now() - before),
            "peak_mib": round(self.memory.peak - before),
            "late_ms": {"p50": late.p50, "p99": late.p99, "max": late.max},
        }
        self.phases.append(row)
        print(row, flush=True)

    def warm_up(self) -> None:
        """The first image makes the window import and try the engine, the first strokes make napari compile."""
        self.viewer.add_image(np.zeros((3, 48, 48), np.uint8))
        self.widget.layers._new.click()
        wait_until(lambda: "trainer.strokenet" in sys.modules)
        wait_until(idle)
        wait(1)
        self.viewer.layers.clear()

    def draw(self) -> None:
        """Two long strokes on each of some slices."""
        slices = np.linspace(0, self.options.depth - 1, self.options.annotated + 2).astype(int)[1:-1]
        for z in slices.tolist():
            self.go_to(z)
            for c, ends in enumerate([((-0.9, -0.9), (-0.9, 0.9)), ((-0.1, 0), (0.1, 0))]):
                self.widget.classes.setCurrent(c)
                self.stroke(*ends)
            wait(1.5)
        wait(1.5)

    def go_to(self, z: int) -> None:
        """Near a disc of this slice, zoomed in."""
        side = self.options.side
        self.viewer.reset_view()
        camera = self.viewer.scene.camera if hasattr(self.viewer, "scene") else self.viewer.camera  # napari < 0.9
        camera.zoom *= side / VIEW
        _layers.go_to(self.viewer, self.image, z, round(0.4 * side), round(0.4 * side))
        wait(0.5)

    def stroke(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """From here to there, as shares of the way from the middle of the picture to its edge."""
        mouse = Mouse(self.viewer)
        middle = np.array([mouse.canvas.width(), mouse.canvas.height()]) / 2
        points = middle + 0.8 * middle.min() * np.linspace(start, end, MOVES)
        mouse.send(QEvent.Type.MouseButtonPress, points[0])
        for point in points:
            wait(PAUSE)
            mouse.send(QEvent.Type.MouseMove, point)
        wait(PAUSE)
        mouse.send(QEvent.Type.MouseButtonRelease, points[-1])

    def train(self) -> None:
        """And draw on for a while as soon as there is something to see."""
        widget, mouse = self.widget, Mouse(self.viewer)
        widget.settings.setValue(Config(iterations=self.options.steps, device="cpu", dtype="float32"))
        widget.button.click()
        wait_until(lambda: bool(widget.progress.shown()))
        mouse.timer.start()
        wait(self.options.paint)
        mouse.timer.stop()
        wait_until(lambda: widget.session.model is not None and widget.session.state == "idle")

    def look(self, z: int) -> None:
        _layers.show_slice(self.viewer, self.image, z)
        wait_until(lambda: (self.image.name, z) in self.widget.overlays.predicted)

    def move(self) -> None:
        """Past some slices, as with the slider; the last of them is looked at."""
        count = min(self.options.moves, self.options.depth - 1)
        for z in range(self.options.depth - count, self.options.depth):
            _layers.show_slice(self.viewer, self.image, z)
            wait(0.1)
        wait_until(lambda: (self.image.name, z) in self.widget.overlays.predicted)

    def predict(self) -> None:
        """All of it, stopped after the first slice."""
        told: list[object] = []
        self.widget.session.predicted.connect(told.append)
        self.widget.models._predict.click()
        wait_until(lambda: bool(told))
        self.widget.session.stop()
        wait_until(lambda: self.widget.session.state == "idle")
        wait_until(idle)  # the slice that it was at is predicted to its end

    def learnt(self) -> dict:
        """How much of the volume it was trained on."""
        target = self.widget.session.samples[0].target
        return {"slices": target.shape[0], "box": list(target.shape[1:])}


def _end(error: Exception) -> None:
    """Nothing more is to be measured."""
    print(f"it failed: {error!r}", file=sys.stderr, flush=True)
    os._exit(1)


class Memory:
    """What the process holds (RSS, MiB), and the most since `begin`."""

    def __init__(self) -> None:
        self._process, self.peak = psutil.Process(), 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> float:
        self.peak = self.now()
        return self.peak

    def now(self) -> float:
        return self._process.memory_info().rss / 2**20

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.02)


def idle() -> bool:
    return wait_for_background(seconds=0)


def wait_until(reached: Callable[[], bool]) -> None:
    """TimeoutError where it takes too long."""
    begun = time.monotonic()
    while not reached():
        wait(0.05)
        if time.monotonic() - begun > PATIENCE:
            raise TimeoutError(f"nothing happened in {PATIENCE} seconds")


if __name__ == "__main__":
    main()
