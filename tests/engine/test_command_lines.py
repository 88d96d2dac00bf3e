"""fit, predict, evaluate, as a user runs them."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from toys import CLASSES, QUICK, dense_disc, scribbled_disc, scribbled_stack

from trainer import evaluate, fit, predict
from trainer.dataset import save_dataset
from trainer.fit import one_budget, parse
from trainer.model import Model
from trainer.sample import Sample

SAMPLES = Path(__file__).parents[2] / "sample_data"
TINY = "--patch 32 32 --batch 2 --device cpu --dtype float32 --threads 1".split()


def call(verb: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"trainer.{verb}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_strokes_in_labels_out(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [scribbled_stack()], CLASSES)
    fitted = call("fit", tmp_path / "data", "--out", tmp_path / "run", "--iterations", 4, *TINY)
    assert fitted.returncode == 0, fitted.stderr
    assert "preset interactive" in fitted.stderr
    assert {f.name for f in (tmp_path / "run").iterdir()} == {
        "weights.safetensors", "checkpoint.safetensors", "config.json", "history.csv",
    }  # fmt: skip
    for network in ("unet", "swinunet", "mambaunet", "ensemble"):
        images = tmp_path / "data" / "imagesTr"
        flags = ["--run", tmp_path / "run", "--images", images, "--out", tmp_path / network, "--network", network]
        assert call("predict", *flags, "--device", "cpu").returncode == 0
        found, image = nib.load(tmp_path / network / "stack.nii.gz"), nib.load(images / "stack_0000.nii.gz")
        assert found.get_data_dtype() == np.uint8 and found.shape == image.shape
        np.testing.assert_array_equal(found.affine, image.affine)
    flags = ["--run", tmp_path / "run", "--dataset", tmp_path / "data", "--out", tmp_path / "filled"]
    assert call("predict", *flags, "--device", "cpu").returncode == 0
    filled = np.asarray(nib.load(tmp_path / "filled" / "stack.nii.gz").dataobj).T
    assert (filled == dense_stack().target).mean() > 0.95  # after four steps it is the strokes that know it
    assert "either --images or --dataset" in call("predict", *flags, "--images", tmp_path).stderr
    scores = tmp_path / "scores.json"
    save_dataset(tmp_path / "truth", [dense_stack()], CLASSES, sparse=False)
    references = tmp_path / "truth" / "labelsTr"
    assert (
        call(
            "evaluate", "--predictions", tmp_path / "ensemble", "--references", references, "--json", scores
        ).returncode
        == 0
    )
    assert 0 <= json.loads(scores.read_text())["mean_foreground"]["dice"] <= 1


def dense_stack():
    stack = scribbled_stack()
    return dataclasses.replace(stack, target=np.stack([dense_disc().target] * 3))


def run_here(monkeypatch: pytest.MonkeyPatch, verb: ModuleType, *arguments: object) -> None:
    """The command line in this process: it need not import torch again. SystemExit with its message where it fails."""
    monkeypatch.setattr(sys, "argv", [verb.__name__, *map(str, arguments)])
    verb.main()


def test_labels_are_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn everywhere comes back as it is, of an untrained run, too."""
    drawn = np.zeros((40, 40), np.uint8)
    drawn[8:20, 8:20] = drawn[30:36, 30:36] = drawn[4, 30] = drawn[4, 34:36] = 1
    drawn[13, 13] = 0  # a hole
    image = np.random.default_rng(0).normal(100 * drawn, 1).astype(np.float32)[None]
    save_dataset(tmp_path / "data", [Sample(image, drawn, (2.0, 2.0), "a")], CLASSES, sparse=False)
    Model.new(dataclasses.replace(QUICK, networks=("unet", "unet")), CLASSES, 1).save(tmp_path / "run")

    def labels(*flags: object) -> np.ndarray:
        where = ["--run", tmp_path / "run", "--dataset", tmp_path / "data", "--out", tmp_path / "out"]
        run_here(monkeypatch, predict, *where, "--device", "cpu", *flags)
        return tifffile.imread(tmp_path / "out" / "a.tif")

    np.testing.assert_array_equal(labels(), drawn)
    drawn[4, 30] = 0
    np.testing.assert_array_equal(labels("--minimum", 5), drawn)  # a pixel is 4 mm2
    drawn[30:36, 30:36] = drawn[4] = 0
    drawn[13, 13] = 1
    np.testing.assert_array_equal(labels("--largest", "--holes"), drawn)
    with pytest.raises(SystemExit, match="objects are told apart by a run with the classes"):
        labels("--instances")


def test_a_bundled_model_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nuclei(tmp_path / "data")
    flags = [tmp_path / "data", "--out", tmp_path / "run", "--iterations", 1, "--batch", 1, "--device", "cpu"]
    run_here(monkeypatch, fit, *flags, "--start", "bundled:nuclei", "--learning-rate", 1e-12)
    bundled, ours = (Model.load(run, "cpu").networks["umamba_bot"] for run in ("bundled:nuclei", tmp_path / "run"))
    pairs = zip(bundled.parameters(), ours.parameters(), strict=True)
    assert all(torch.allclose(*pair, atol=1e-9) for pair in pairs)
    with pytest.raises(SystemExit, match="no model 'hearts' is bundled"):
        run_here(monkeypatch, fit, *flags, "--start", "bundled:hearts")


def test_from_the_numbers_of_nuclei_to_the_numbers_of_nuclei(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two commands, and one that counts."""
    nuclei(tmp_path / "data")
    small = "--patch 64 64 --batch 4 --learning-rate 0.003 --device cpu --dtype float32 --threads 1".split()
    run_here(monkeypatch, fit, tmp_path / "data", "--out", tmp_path / "run", "--iterations", 30, *small)
    images = ["--run", tmp_path / "run", "--images", tmp_path / "data" / "imagesTr", "--instances", "--device", "cpu"]
    run_here(monkeypatch, predict, *images, "--out", tmp_path / "objects", "--minimum", 30)
    objects = np.asarray(Image.open(tmp_path / "objects" / "cells.png"))
    assert objects.dtype == np.uint16 and np.unique(objects, return_counts=True)[1].min() >= 30
    scores = evaluate.evaluate(tmp_path / "objects", tmp_path / "data" / "labelsTr")
    assert scores["f1"] == scores["cases"]["cells"]["f1"] > 0.6
    assert scores["cases"]["cells"]["predicted"] == objects.max()
    with pytest.raises(SystemExit, match="leave --largest and --holes out"):
        run_here(monkeypatch, predict, *images, "--out", tmp_path / "x", "--largest")


def nuclei(folder: Path) -> None:
    """A dataset of the numbers of generated nuclei, one picture."""
    sys.path.insert(0, str(SAMPLES))
    from microscopy import microscopy

    image, _, numbers = microscopy()
    for name, array in (("imagesTr/cells_0000.png", image), ("labelsTr/cells.png", numbers)):
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(array[:192, :192]).save(folder / name)
    header = {"task": "instances", "channel_names": {"0": "DAPI"}, "numTraining": 1, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(header))


def test_the_preset_follows_from_the_dataset(tmp_path: Path) -> None:
    save_dataset(tmp_path / "strokes", [scribbled_disc()], CLASSES)
    save_dataset(tmp_path / "dense", [dense_disc()], CLASSES, sparse=False)
    assert parse([str(tmp_path / "strokes"), "--out", "x"]).preset == "interactive"
    dense = parse([str(tmp_path / "dense"), "--out", "x"])
    assert dense.preset == "supervised" and dense.config.networks == ("unet",)


def test_flags_change_the_preset_they_start_from(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [scribbled_disc()], CLASSES)
    data = str(tmp_path / "data")
    paper = parse([data, "--out", "x", "--preset", "paper", "--minutes", "2", "--networks", "unet", "unet"]).config
    assert (paper.minutes, paper.iterations, paper.batch) == (2, None, 12)
    assert paper.names == ("unet", "unet2")
    counted = parse([data, "--out", "x", "--iterations", "7"]).config
    assert (counted.minutes, counted.iterations) == (None, 7)
    assert one_budget(counted, counted) == counted


def test_a_run_begins_where_another_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its weights and its config, on other images; what does not fit is told in words."""
    first = Model.new(dataclasses.replace(QUICK, networks=("unet",), objective="supervised", batch=3), CLASSES, 1)
    first.save(tmp_path / "first")
    save_dataset(tmp_path / "data", [dense_disc()], CLASSES, sparse=False)
    flags = [tmp_path / "data", "--start", tmp_path / "first"]
    # so slow that one step changes nothing
    run_here(monkeypatch, fit, *flags, "--out", tmp_path / "second", "--iterations", 1, "--learning-rate", 1e-12)
    second = Model.load(tmp_path / "second", "cpu")
    assert (second.names, second.config.batch, second.config.iterations) == (("unet",), 3, 1)
    before, after = (dict(model.networks["unet"].named_parameters()) for model in (first, second))
    assert all(torch.allclose(value, before[name], atol=1e-9) for name, value in after.items())

    def refused(message: str, *more: object) -> None:
        with pytest.raises(SystemExit, match=message):
            run_here(monkeypatch, fit, *flags, "--out", tmp_path / "third", *more)

    refused(r"the networks \('unet',\), this training \('vmunet',\)", "--networks", "vmunet")
    refused("the size small, this training official", "--size", "official")
    refused("either --start, which begins a run, or --resume", "--resume")
    refused("no run in .*nowhere", "--start", tmp_path / "nowhere")
    save_dataset(tmp_path / "cells", [dense_disc()], ("background", "cell"), sparse=False)
    flags[0] = tmp_path / "cells"
    refused(r"the classes \('background', 'disc'\), this training \('background', 'cell'\)")
    two = dataclasses.replace(dense_disc(), image=np.repeat(dense_disc().image, 2, 0))
    save_dataset(tmp_path / "two", [two], CLASSES, sparse=False)
    flags[0] = tmp_path / "two"
    refused("the channels 1, this training 2")


def test_ctrl_c_ends_kindly_and_keeps_the_model(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [scribbled_disc()], CLASSES)
    command = [sys.executable, "-m", "trainer.fit", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    flags = [*TINY, "--iterations", "100000", "--checkpoint-seconds", "0.1"]
    fit = subprocess.Popen([*command, *flags], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "checkpoint.safetensors").is_file():
        assert fit.poll() is None, fit.stderr.read()
        time.sleep(0.05)
    fit.send_signal(signal.SIGINT)
    _, said = fit.communicate(timeout=60)
    assert fit.returncode == 0, said
    assert "stopping after this step" in said
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [scribbled_disc()], CLASSES)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    result = call("fit", tmp_path / "data", "--out", tmp_path / "run", "--iterations", 1, *TINY)
    assert result.returncode != 0 and "--resume" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("verb", "arguments", "message"),
    [
        ("fit", ["nowhere", "--out", "x"], "dataset.json is missing"),
        ("predict", ["--run", "nowhere", "--images", "nowhere", "--out", "x"], "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(verb: str, arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call(verb, *arguments)
    assert result.returncode != 0
    assert message in result.stderr and "Traceback" not in result.stderr


def test_predict_names_the_networks_of_the_run(tmp_path: Path) -> None:
    save_dataset(tmp_path / "data", [scribbled_disc()], CLASSES)
    images = tmp_path / "data" / "imagesTr"
    flags = ["--images", images, "--out", tmp_path / "out", "--network"]
    call("fit", tmp_path / "data", "--out", tmp_path / "run", "--iterations", 1, "--lead", 0, *TINY)
    result = call("predict", "--run", tmp_path / "run", *flags, "vmunet")
    assert result.returncode != 0 and "unet, swinunet, mambaunet, ensemble" in result.stderr
    call("fit", tmp_path / "data", "--out", tmp_path / "short", "--iterations", 1, *TINY)  # the others never join
    result = call("predict", "--run", tmp_path / "short", *flags, "swinunet")
    assert result.returncode != 0 and "swinunet has not begun to learn; choose unet, ensemble" in result.stderr


def test_the_doctor_says_what_runs_and_why_not() -> None:
    result = call("doctor", "--device", "cpu", "--quick")
    assert result.returncode == 0, result.stderr
    assert "the scan runs on: " in result.stdout
    assert "torch" in result.stdout and "usable" in result.stdout


def test_the_doctor_names_a_device_that_is_not_here() -> None:
    result = call("doctor", "--device", "cuda:77")
    assert result.returncode != 0 and "--device cpu" in result.stderr and "Traceback" not in result.stderr
