"""The benchmark of the window's delays: its arithmetic, and a short run of it."""

import json
import subprocess
import sys
from pathlib import Path

from qtpy.QtWidgets import QApplication

from benchmarks.responsiveness import BARS, TICK, Clock


def test_delays_are_what_the_timer_came_too_late(qapp: QApplication) -> None:
    clock = Clock()
    clock.timer.stop()
    moments = [0.0, 0.01, 0.02, 0.13, 0.14]  # every 10 ms, but for one stall of 100 ms
    clock.ticks = [(moment, moment / 2) for moment in moments]
    delays = clock.delays(0.0, 1.0)
    assert TICK == 10
    assert (delays.p50, delays.max, delays.window_cpu) == (0.0, 100.0, 0.5)
    assert clock.delays(0.0, 0.015).max == 0  # the stall came later


def test_a_short_run_writes_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.responsiveness", "--idle", "1", "--seconds", "0.2", "--out", str(out)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    assert run.returncode in (0, 1), run.stderr  # 1: a bar was missed, as may be on a machine that does more
    found = json.loads(out.read_text())
    assert found["bars"] == BARS and set(BARS) <= set(found)
    assert found["strokes"] > 5
