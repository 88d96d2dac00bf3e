"""The benchmarks still run, on toys, and compare what computes the same."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import plot_bench
from trainer import bench
from trainer.networks.vss import SS2D

ROOT = Path(__file__).parents[2]


def test_the_gpu_benchmark_on_toys(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--tiny", "--tune", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    (file,) = tmp_path.glob("gpu-*-tiny.json")
    results = json.loads(file.read_text())
    assert results["verdict"].startswith("every kernel that can run is right; 30000 iterations: ")
    scans = results["scans"]["D 6 L 4 N 4"]["bfloat16"]
    assert results["kernels"]["torch"] == "usable" and min(scans["torch"]["forward"], scans["torch"]["both"]) > 0
    assert ("triton" in scans) == bool(find_spec("triton")) == (results["kernels"]["triton"] == "usable")
    assert results["tiles"]["D 6 L 4 N 4"].keys() == {"T 4, channels 16, programs 1"}
    assert results["steps"]["float32"]["seconds"] > 0
    if results["device"] == "cpu":
        assert results["steps"]["float32 captured"] == {"reason": "RuntimeError: CUDA graphs need a CUDA device"}


def test_every_scan_of_the_benchmark_says_the_same() -> None:
    torch.manual_seed(0)
    positions = bench.square(16)
    runs = bench.scans(bench.numbers(2, 5, 16, 3), positions)
    scan, tensors = runs["plain loop"]
    expected = scan(*tensors)  # (B, L, K, D), each direction as it walks
    for name, (scan, tensors) in runs.items():
        y = scan(*tensors)
        if name.endswith("selective_scan"):
            y = y.transpose(1, 2).unflatten(2, (bench.K, -1))
        if name.endswith("fused"):
            back = [expected[:, order.argsort(), k] for k, order in enumerate(positions)]
            torch.testing.assert_close(y, sum(back), msg=name)
        else:
            torch.testing.assert_close(y, expected, msg=name)


def test_the_published_layout_with_a_scan_is_ours() -> None:
    torch.manual_seed(0)
    block, x = SS2D(6, d_state=3), torch.randn(2, 3, 5, 6)
    torch.testing.assert_close(bench.published_forward(block, x, bench.of_sequences), block(x))


def test_the_scan_benchmark_on_toys(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "trainer.bench", "scan", "--quick", "--out", str(tmp_path / "bench.json")]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["scan"].keys() == {"4 x 4, N 1", "4 x 4, N 16"} and "step" not in report
    both = report["scan"]["4 x 4, N 16"]["both"]["nanoseconds"]
    assert {f"{name} fused" for name in bench.usable()} | {"plain loop", "floor: memory"} <= both.keys()
    assert ("floor: arithmetic" in both) == ("native" in bench.usable())
    assert ("blelloch" in both) == bench.has_mambapy() and min(both.values()) > 0


def test_the_step_benchmark_on_toys() -> None:
    steps = bench.step_figures("small", quick=True)
    assert steps["times unet"].keys() == {"swinunet", "mambaunet"}
    figures = bench.mambaunet_figures(quick=True)["batch 1"]
    assert {"no scan, our layout", "no scan, published layout"} <= figures[f"{bench.usable()[0]} over"].keys()
    assert bench.bench_memory(quick=True)["unet small, batch 1"] > 0


@pytest.mark.parametrize("free", [30_000, 20_000])
def test_memory_is_not_asked_for_where_there_is_none(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four images in the Blelloch scan take 5100 MiB each."""
    taken = {"native": 1000, "torch": 2000, "blelloch": 21_000}
    monkeypatch.setattr(bench, "usable", lambda: ["native", "torch"])
    monkeypatch.setattr(bench, "has_mambapy", lambda: True)
    monkeypatch.setattr(bench, "free_memory", lambda: free)
    monkeypatch.setattr(bench, "memory_of", lambda name, size, batch, scan, quick: taken[scan])
    found = bench.memory_by_scan(4)
    if free > 20_912:
        assert found == taken | {"blelloch over native": 21.0}
    else:
        assert found == taken | {"blelloch": "left out: it needs 20912 MiB, 20000 are free"}


def test_at_one_state_softplus_is_most_of_the_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 directions, 16 channels in one vector, 10 positions: 40 times (31 N + 60) operations, one a second."""
    monkeypatch.setattr(bench, "peak_rate", lambda quick: (1.0, 16))
    for N in (1, 16):
        found = bench.floors("both", 16, 10, N, quick=True)
        assert found["arithmetic"] == 40 * 31 * N
        assert found["arithmetic with softplus"] == 40 * (31 * N + 60)


def test_a_report_becomes_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    times = {"native fused": 1.0, "blelloch": 60.0, "floor: memory": 0.1, "floor: arithmetic": 0.5}
    work = {"forward": {"nanoseconds": times}, "both": {"nanoseconds": times}}
    step = {"mambaunet": {"batch 1": {"milliseconds": {"native": 700, "blelloch": 21_000}}}}
    report = {
        "scan": {"56 x 56, N 1": work, "56 x 56, N 16": work, "7 x 7, N 1": work, "7 x 7, N 16": work},
        "step": step,
    }
    assert [file.name for file in plot_bench.plot(report, tmp_path, "r")] == ["r-scan.png", "r-step.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in tmp_path.iterdir())
    left, right = plot_bench.draw_scan(report["scan"]).axes[:2]
    assert (left.get_title(), right.get_title()) == ("N = 1, forward", "N = 16, forward")
    assert [bar.get_height() for bar in left.patches] == [1.0, 1.0, 60.0, 60.0]  # two shapes each
    (axes,) = plot_bench.draw_step(step).axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, 30.0]
