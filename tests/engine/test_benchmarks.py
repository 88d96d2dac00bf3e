"""The benchmarks for machines that are not here still run, on toys."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

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
