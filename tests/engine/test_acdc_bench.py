"""The long run as a script, on made-up hearts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.acdc import over_seeds, parse, unseen

ROOT = Path(__file__).parents[2]
SMALL = "--size small --patch 32 32 --batch 2 --networks unet unet --validate-every 1 --device cpu --threads 1".split()


def heart() -> tuple[np.ndarray, np.ndarray]:
    """Three rings around each other, image and label (2, 48, 40)."""
    y, x = np.indices((48, 40)) - 20
    label = np.tile((3 - np.hypot(y, x) // 5).clip(0).astype(np.uint8), (2, 1, 1))
    return (60 * label).astype(np.uint8), label


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two patients to train, one to validate, twenty to test."""
    folder, (image, label) = tmp_path / "data/acdc", heart()
    strokes, spacing = np.where(np.indices(label.shape)[1] % 4 == 0, label, 4), np.array([10.0, 1.5, 1.5])
    split = {"train": ["patient021", "patient022"], "val": ["patient038"]}
    for part, patients in {
        "dev": split["train"] + split["val"],
        "test": [f"patient{i:03}" for i in range(1, 21)],
    }.items():
        (folder / part).mkdir(parents=True)
        for patient in patients:
            file = folder / part / f"{patient}_frame01.npz"
            np.savez(file, image=image, label=label, scribble=strokes, spacing_zyx_mm=spacing)
    (folder / "splits.json").write_text(json.dumps(split))
    return tmp_path / "data"


def acdc(data: Path, *flags: str, processes: int = 1) -> subprocess.CompletedProcess:
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launch, "-m", "benchmarks.acdc", *SMALL, *flags]
    command += ["--out", str(data.parent / "out"), "--runs", str(data.parent / "runs"), "--name", "toy"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "SCRIBBLEMAMBA_DATA": str(data)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_two_seeds_one_after_the_other(data: Path, tmp_path: Path) -> None:
    """The second call trains only the seed that is new; both columns of weights are there, with their spread; then a
    test folder comes and is scored without training; other settings are refused."""
    flags = ["--iterations", "2"]
    assert (done := acdc(data, *flags, "--seeds", "1")).returncode == 0, done.stderr
    before = (tmp_path / "out/acdc-toy-seed1.json").read_bytes()
    assert "±" not in done.stdout
    assert (done := acdc(data, *flags, "--seeds", "1", "2")).returncode == 0, done.stderr
    assert "seed 2: 2" in done.stdout and "seed 1: 2" not in done.stdout
    assert (tmp_path / "out/acdc-toy-seed1.json").read_bytes() == before

    one = json.loads(before)
    assert set(one["scores"]) == {"val"} and set(one["scores"]["val"]) == {"last", "best on the 12"}
    summary = json.loads((tmp_path / "out/acdc-toy.json").read_text())
    assert summary["seeds"] == [1, 2] and len(summary["rows"]) == 2 * 3  # weights, two networks and their ensemble
    table = (tmp_path / "out/acdc-toy.md").read_text()
    assert table.count("| val | last | ensemble |") == 2 and "±" in table and "HD95 mm" in table

    history = (tmp_path / "runs/toy-seed1/history.csv").read_bytes()
    test = ["--test", str(data / "acdc/test")]
    assert (done := acdc(data, *flags, "--seeds", "1", "2", *test)).returncode == 0, done.stderr
    assert "| test | best on the 12 | unet2 |" in done.stdout
    assert (tmp_path / "runs/toy-seed1/history.csv").read_bytes() == history

    refused = acdc(data, "--iterations", "3", "--seeds", "1")
    assert refused.returncode and "'iterations': (2, 3)" in refused.stderr and "another --name" in refused.stderr


def test_fold_1_in_two_processes(data: Path, tmp_path: Path) -> None:
    """All patients train, the last weights are scored on 001-020, once."""
    test = ["--protocol", "fold1", "--test", str(data / "acdc/test")]
    done = acdc(data, "--iterations", "1", "--seeds", "1", *test, processes=2)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out/acdc-toy-seed1.json").read_text())
    assert set(result["scores"]) == {"test"} and set(result["scores"]["test"]) == {"last"}
    assert done.stdout.count("mean of RV, MYO and LV") == 1


def test_a_folder_as_acdc_comes(tmp_path: Path) -> None:
    """NIfTI beside its _gt, all twenty of them or an error that names who is missing."""
    image, label = heart()
    for number in range(1, 20):
        folder = tmp_path / f"patient{number:03}"
        folder.mkdir()
        for ending, array in (("", image), ("_gt", label)):
            nifti = nibabel.Nifti1Image(array.T, np.diag([1.5, 1.5, 10, 1]))
            nibabel.save(nifti, folder / f"{folder.name}_frame01{ending}.nii.gz")
    volumes = unseen(tmp_path)
    first = next(volumes)
    assert first.name == "patient001_frame01" and first.spacing == (10, 1.5, 1.5)
    assert (first.image[0] == image).all() and (first.target == label).all()
    with pytest.raises(FileNotFoundError, match="no labels of patient020"):
        list(volumes)


def test_flags_start_from_the_preset() -> None:
    """Slices are resized linearly unless that is asked for otherwise; minutes take the place of iterations."""
    paper = parse(["--minutes", "3"]).config
    assert (paper.interpolation, paper.minutes, paper.iterations, paper.batch) == ("linear", 3, None, 12)
    assert parse(["--interpolation", "nearest"]).config.interpolation == "nearest"
    assert parse(["--preset", "interactive", "--iterations", "9"]).config.view == "patch"
    with pytest.raises(SystemExit, match="give --test FOLDER"):
        parse(["--protocol", "fold1"])


def test_spread_over_seeds() -> None:
    """The sample deviation of 1 and 3 is the root of 2; one value has none."""
    assert over_seeds([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert over_seeds([1.0, None]) == (1.0, None)
    assert over_seeds([None]) == (None, None)
