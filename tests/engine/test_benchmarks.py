"""The benchmarks still run, on toys, and compare what computes the same."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

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
    assert results["kernels"]["torch"] == "usable" and 0 < scans["torch"]["forward"] < scans["torch"]["both"]
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
    assert bench.memory_figures(quick=True)["unet small, batch 1, scan " + bench.usable()[0]] > 0
