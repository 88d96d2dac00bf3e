"""Bundled models: found by name, their cards say what they are, and they find what they are for."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from trainer.bundled import Card, bundled, card, run_folder
from trainer.formats import read_image, read_labels, write_array
from trainer.instances import f1, objects
from trainer.metrics import dice
from trainer.model import WEIGHTS, Model

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", ROOT / "../shared/data"))
MODELS = bundled()

CARD = Card(
    title="Dots",
    about="Finds dots.",
    images="grey",
    networks=("unet",),
    classes=("background", "dot"),
    trained_on="generated dots",
    data_licence="none needed",
    score="Dice",
    scores={"dots": {"model": 0.9, "Otsu": 0.8}},
    scored_by="python -m benchmarks.bundle dots --score",
    made_by="python -m benchmarks.bundle dots",
    licence="BSD-3-Clause",
    parameters=7,
    sha256="0" * 64,
)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled models that holds one, called dots."""
    (tmp_path / "dots").mkdir()
    (tmp_path / "dots/card.json").write_text(json.dumps(CARD.to_dict()))
    monkeypatch.setattr("trainer.bundled.FOLDER", tmp_path)
    return tmp_path


def test_a_bundled_name_is_a_folder_and_any_other_text_a_path(shelf: Path) -> None:
    assert bundled() == {"dots": shelf / "dots"}
    assert run_folder("bundled:dots") == run_folder(Path("bundled:dots")) == shelf / "dots"
    assert run_folder("runs/heart") == Path("runs/heart")


def test_an_unknown_name_is_told_what_there_is(shelf: Path) -> None:
    with pytest.raises(ValueError, match="no model 'hearts' is bundled; there is dots"):
        run_folder("bundled:hearts")


def test_a_card_comes_back_as_it_was_written(shelf: Path) -> None:
    assert card(shelf / "dots") == CARD
    assert card(shelf) is None  # most run folders have none


def test_a_card_with_other_fields_is_refused_by_its_name(shelf: Path) -> None:
    values = {**CARD.to_dict(), "colour": "red"}
    del values["licence"]
    (shelf / "dots/card.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"card\.json is not the card of a run: .*: colour, licence;"):
        card(shelf / "dots")


# ---- those that come with the package


def test_there_are_models() -> None:
    assert set(MODELS) == {"nuclei", "skin"}


@pytest.mark.parametrize("name", MODELS)
def test_the_card_is_that_of_the_weights(name: str) -> None:
    found, weights = card(MODELS[name]), MODELS[name] / WEIGHTS
    assert found.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.stat().st_size < 10e6
    with safe_open(weights, "pt") as content:
        assert {content.get_tensor(key).dtype for key in content.keys()} == {torch.float16}


@pytest.mark.parametrize("name", MODELS)
def test_the_card_says_what_the_run_is(name: str) -> None:
    found, model = card(MODELS[name]), Model.load(f"bundled:{name}", "cpu")
    assert (found.networks, found.classes) == (model.names, model.classes)
    assert found.parameters == sum(p.numel() for net in model.networks.values() for p in net.parameters())
    assert f"benchmarks.bundle {name}" in found.made_by and "--score" in found.scored_by


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_better_than_a_threshold_on_most_kinds_of_images(name: str) -> None:
    """A model that loses to Otsu does not earn its place."""
    rows = card(MODELS[name]).scores.values()
    assert sum(row["model"] > row["Otsu"] for row in rows) > len(rows) / 2


def test_every_file_of_a_model_goes_into_the_wheel(tmp_path: Path) -> None:
    """By the patterns that setuptools is given; nothing else lies there."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["trainer"]
    packed = {file for pattern in patterns for file in (ROOT / "trainer").glob(pattern)}
    for folder in MODELS.values():
        assert {file.name for file in folder.iterdir()} == {WEIGHTS, "config.json", "card.json"}
        assert set(folder.iterdir()) <= packed


def predicted(images: Path, out: Path, *flags: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "trainer.predict", "--images", str(images), "--out", str(out), "--device", "cpu"]
    return subprocess.run([*words, *flags], cwd=ROOT, capture_output=True, text=True)


def test_nuclei_that_nobody_drew_on_are_found_by_the_command_line(tmp_path: Path) -> None:
    truth, _ = read_labels(ROOT / "sample_data/microscopy/denseTr/nuclei.png")
    done = predicted(ROOT / "sample_data/microscopy/imagesTr", tmp_path, "--run", "bundled:nuclei")
    assert done.returncode == 0, done.stderr
    labels, _ = read_labels(tmp_path / "nuclei.png")
    assert dice(labels > 0, truth == 1) > 0.85


def test_grey_and_colour_of_any_name_give_the_same_objects(tmp_path: Path) -> None:
    """A colour picture is seen as the mean of its channels; a TIFF as the PNG of the same values."""
    image = read_image([ROOT / "sample_data/microscopy/imagesTr/nuclei_0000.png"])[0][0, :160, :160].astype(np.uint8)
    for folder in ("grey", "colour", "tif"):
        (tmp_path / folder).mkdir()
    write_array(tmp_path / "grey/field 1.png", image, (1.0, 1.0))
    write_array(tmp_path / "colour/field 1.png", np.stack([image] * 3, -1), (1.0, 1.0))
    write_array(tmp_path / "tif/field 1.tif", image, (1.0, 1.0))
    found = {}
    for folder, ending in (("grey", ".png"), ("colour", ".png"), ("tif", ".tif")):
        done = predicted(tmp_path / folder, tmp_path / f"{folder} out", "--run", "bundled:nuclei", "--instances")
        assert done.returncode == 0, done.stderr
        found[folder], _ = read_labels(tmp_path / f"{folder} out" / f"field 1{ending}")
    assert found["grey"].dtype == np.uint16 and found["grey"].max() > 5
    assert (found["grey"] == found["colour"]).all() and (found["grey"] == found["tif"]).all()


def test_labels_never_replace_the_images(tmp_path: Path) -> None:
    shutil.copy(ROOT / "sample_data/microscopy/imagesTr/nuclei_0000.png", tmp_path / "a.png")
    done = predicted(tmp_path, tmp_path, "--run", "bundled:nuclei")
    assert done.returncode == 1 and "name another folder for the labels" in done.stderr


def test_an_unknown_model_is_one_line_on_the_command_line(tmp_path: Path) -> None:
    done = predicted(ROOT / "sample_data/microscopy/imagesTr", tmp_path, "--run", "bundled:hearts")
    assert done.returncode == 1
    assert done.stderr == "trainer.predict: no model 'hearts' is bundled; there is nuclei, skin\n"


def test_instances_want_a_run_that_tells_them_apart(tmp_path: Path) -> None:
    done = predicted(ROOT / "sample_data/endoscopy/imagesTr", tmp_path, "--run", "bundled:skin", "--instances")
    assert done.returncode == 1 and "background, interior" in done.stderr.replace("'", "")


@pytest.mark.skipif(not (DATA / "microscopy").is_dir(), reason=f"no microscopy in {DATA}")
@pytest.mark.parametrize(("image", "least"), [("dsb18_fluo_d256b32add", 0.5), ("dsb18_histo_ef3ef194e5", 0.4)])
def test_real_nuclei_of_the_reporting_half(image: str, least: float) -> None:
    content = np.load(DATA / f"microscopy/{image}.npz")
    picture = content["image"].astype(np.float32)
    channels = np.moveaxis(picture, -1, 0) if picture.ndim == 3 else picture[None]
    P = Model.load("bundled:nuclei", "cpu").probabilities(channels)["ensemble"]
    assert f1(objects(P), content["label"]) > least


# ---- how they are made


def test_generated_images_have_what_their_truth_says() -> None:
    generated = pytest.importorskip("benchmarks.generated")
    image, ids = generated.nuclei(np.random.default_rng(3), side=96)
    again, _ = generated.nuclei(np.random.default_rng(3), side=96)
    assert image.shape == ids.shape == (96, 96) and (image == again).all() and ids.max() > 0
    inside, outside = image[ids > 0].mean(), image[ids == 0].mean()
    assert abs(inside - outside) > 0.1
    picture, mask = generated.lesion(np.random.default_rng(3), side=96)
    assert picture.shape == (3, 96, 96) and mask.any() and not mask.all()
    assert 0 <= picture.min() and picture.max() <= 1


def test_large_nuclei_have_thicker_rims() -> None:
    bundle = pytest.importorskip("benchmarks.bundle")
    ids = np.zeros((80, 80), np.uint16)
    ids[5:65, 5:65], ids[70:76, 70:76] = 1, 2  # sides of 60 and 6: rims of 60 * .08 = 4.8 and of 1
    target = bundle.with_rims(ids)
    assert (target[35, 5:65] == 2).sum() == 10 and (target[73, 70:76] == 2).sum() == 2
    assert ((target > 0) == (ids > 0)).all()
