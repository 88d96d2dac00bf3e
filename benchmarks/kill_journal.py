"""Twenty kills at random moments while strokes are drawn, and what a stroke costs: python benchmarks/kill_journal.py

A child draws a stroke every --pause seconds and says so; it is killed (SIGKILL), the project is opened again, and what
it holds is compared with what the child had drawn. Exits 1 if more than the last stroke is missing anywhere, or if a
project does not open. Then times: what the window waits for at a stroke, and how long until it is on disk. Both go
into --out, a JSON file.
"""

import itertools
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import tyro

from napari_scribblemamba._journal import Journal
from napari_scribblemamba._project import Project

SHAPE = (8, 512, 512)
BRUSH = 5  # radius in pixels
RESULT = Path(__file__).with_name("results") / "kill_journal.json"


@dataclass(frozen=True)
class Options:
    """Kill a program that draws, again and again."""

    kills: int = 20
    """Children, all on one project that grows."""
    longest: float = 2.0
    """Seconds after which a child is dead for certain."""
    pause: float = 0.05
    """Seconds between two strokes; people need ten times as long."""
    seed: int = 0
    """Of the moments."""
    out: Path = RESULT
    """Where the figures are written."""
    child: Path | None = None
    """Draw in this project until killed (what a child does)."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.child:
        draw_for_ever(options.child, options.pause)
    with tempfile.TemporaryDirectory() as folder:
        missing = kills(Path(folder) / "project", options)
        figures = {"date": str(date.today()), "kills": options.kills, "pause": options.pause, "seed": options.seed}
        figures |= {"missing strokes, each kill": missing, "costs": costs(Path(folder))}
    options.out.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(max(missing) > 1)


# kills --------------------------------------------------------------------------------------------------------------


def kills(folder: Path, options: Options) -> list[int]:
    """How many strokes each kill cost."""
    image = folder.parent / "image.tif"
    image.write_bytes(b"pixels")
    project = Project.create(folder, [("background", "#7d8590"), ("nerve", "#e69f00")])
    project.add(image, "image", SHAPE, np.uint8)
    project.close()
    moments = random.Random(options.seed)
    lost = []
    for i in range(options.kills):
        said = strokes_until_killed(folder, options.pause, moments.uniform(0, options.longest))
        found = strokes_found(folder)
        lost.append(max(0, said - found))
        print(f"kill {i + 1:2}: drawn {said:4}, found {found:4}, missing {lost[-1]}", flush=True)
    print(f"{options.kills} kills, every project opened, at most {max(lost)} stroke missing")
    return lost


def strokes_until_killed(folder: Path, pause: float, seconds: float) -> int:
    """How many strokes the project should hold: the last number that the child said."""
    command = [sys.executable, __file__, "--child", str(folder), "--pause", str(pause)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    first = child.stdout.readline()  # importing takes longer than drawing
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    numbers = [first, *child.stdout.readlines()]
    child.wait()
    child.stdout.close()
    return int(numbers[-1])


def draw_for_ever(folder: Path, pause: float) -> None:
    project = Project(folder)
    journal = project.journal("0000")
    strokes = np.zeros(SHAPE, np.uint8)
    journal.restore(strokes)
    for i in itertools.count(len(journal.times)):
        paint(strokes, i)
        journal.record(strokes, (i % SHAPE[0],))
        print(i + 1, flush=True)
        time.sleep(pause)


def strokes_found(folder: Path) -> int:
    """Strokes in the project; AssertionError unless they are the first ones, exactly."""
    project = Project(folder)
    journal = project.journal("0000")
    found = len(journal.times)
    expected = np.zeros(SHAPE, np.uint8)
    for i in range(found):
        paint(expected, i)
    np.testing.assert_array_equal(journal.read(), expected)
    project.close()
    return found


def paint(strokes: np.ndarray, i: int) -> None:
    """The i-th stroke: a wavy line of a round brush, 200 pixels long."""
    random_numbers = np.random.default_rng(i)
    y, x = random_numbers.integers(40, strokes.shape[1] - 40), random_numbers.integers(10, strokes.shape[2] - 220)
    rows, columns = np.indices((2 * BRUSH + 1, 2 * BRUSH + 1))
    disc = np.hypot(rows - BRUSH, columns - BRUSH) <= BRUSH
    plane, label = strokes[i % len(strokes)], i // len(strokes) % 200 + 1  # always another: each stroke changes pixels
    for step in range(0, 200, 2):
        top, left = y + round(20 * np.sin(step / 15)) - BRUSH, x + step - BRUSH
        plane[top : top + len(disc), left : left + len(disc)][disc] = label


# costs --------------------------------------------------------------------------------------------------------------


def costs(folder: Path) -> dict[str, dict[str, float]]:
    """What a stroke costs, ms and bytes."""
    figures = {}
    for name, shape, busy in [
        ("512 x 512 slice", SHAPE, False),
        ("512 x 512 slice, Python busy in another thread", SHAPE, True),
        ("2000 x 2000 slice", (3, 2000, 2000), False),
    ]:
        waits, delays, size = stroke_times(folder / f"{name}.journal", shape, busy)
        print(f"{name}: the window waits {spread(waits)}, on disk after {spread(delays)}, {size:.0f} bytes a stroke")
        median = {"the window waits (ms)": waits, "on disk after (ms)": delays}
        figures[name] = {what: round(1e3 * float(np.median(times)), 2) for what, times in median.items()}
        figures[name]["bytes"] = round(size)
    journal = Journal(folder / "512 x 512 slice.journal")
    start = time.perf_counter()
    steps = 0
    while journal.undo():
        steps += 1
    print(f"undo: {1e3 * (time.perf_counter() - start) / steps:.2f} ms a step")
    journal.close()
    return figures


def stroke_times(file: Path, shape: tuple[int, ...], busy: bool, strokes: int = 300) -> tuple[list, list, float]:
    """Seconds in `record`, seconds until the stroke is on disk, and bytes a stroke in the file."""
    journal, labels = Journal.create(file, shape, np.uint8), np.zeros(shape, np.uint8)
    ended = threading.Event()
    if busy:
        threading.Thread(target=count_until, args=(ended,)).start()
    waits, delays = [], []
    for i in range(strokes):
        paint(labels, i)
        start = time.perf_counter()
        journal.record(labels, (i % shape[0],))
        waits.append(time.perf_counter() - start)
        journal.flush()
        delays.append(time.perf_counter() - start)
    ended.set()
    journal.close()
    return waits, delays, file.stat().st_size / strokes


def count_until(ended: threading.Event) -> None:
    while not ended.is_set():
        sum(range(1000))


def spread(seconds: Sequence[float]) -> str:
    median, high = np.percentile(seconds, [50, 99]) * 1e3
    return f"{median:.2f} ms (99 %: {high:.2f})"


if __name__ == "__main__":
    main()
