"""The ablation as a script, on toys."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def test_the_ablation_on_toys_skips_what_is_measured(tmp_path: Path) -> None:
    """Two made-up hearts; the second call finds its row done, another seed is refused."""
    hearts = tmp_path / "data/acdc"
    (hearts / "dev").mkdir(parents=True)
    (hearts / "splits.json").write_text(json.dumps({"train": ["patient1"], "val": ["patient2"]}))
    for patient in ("patient1", "patient2"):
        y, x = np.indices((48, 40)) - 20
        label = np.tile((3 - np.hypot(y, x) // 5).clip(0).astype(np.uint8), (2, 1, 1))
        strokes = np.where(np.indices(label.shape)[1] % 4 == 0, label, 4)
        image, spacing = (60 * label).astype(np.uint8), np.array([10.0, 1.5, 1.5])
        file = hearts / f"dev/{patient}_frame01.npz"
        np.savez(file, image=image, label=label, scribble=strokes, spacing_zyx_mm=spacing)
    command = [sys.executable, str(ROOT / "benchmarks/ablation.py"), "--rows", "ustm unet", "--iterations", "2"]
    command += ["--size", "small", "--patch", "32", "--batch", "2", "--device", "cpu", "--out", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCRIBBLEMAMBA_DATA": str(tmp_path / "data")}
    for more, expected in (([], "ustm unet"), ([], ""), (["--seed", "1"], "give another --out")):
        run = subprocess.run([*command, *more], capture_output=True, text=True, env=environment)
        assert (run.returncode == 0) == (not more) and expected in run.stderr + (tmp_path / "out/table.md").read_text()
    result = json.loads((tmp_path / "out/ustm-unet.json").read_text())
    assert result["iterations"] == 2 and 0 <= result["scores"]["unet"]["mean_all"]["dice"] <= 1
    assert (tmp_path / "out/table.md").read_text().count("| ustm unet | unet | 2 |") == 2
