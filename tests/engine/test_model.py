"""A model comes back from its folder as it was; damaged or foreign files are refused in words."""

import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CLASSES, QUICK, disc, scribbled_disc

from trainer.config import PRESETS, Config
from trainer.files import replacing
from trainer.inference import probabilities_of
from trainer.machine import settled
from trainer.model import Model, with_teacher
from trainer.networks.scan import kernel_name
from trainer.run import Run
from trainer.sample import IGNORE


@pytest.fixture
def model() -> Model:
    return Model.new(settled(QUICK), CLASSES, channels=1)


def test_save_and_load_predict_the_same(model: Model, tmp_path: Path) -> None:
    image = disc()[0][None]
    model.save(tmp_path)
    loaded = Model.load(tmp_path, "cpu")
    assert loaded.classes == CLASSES and loaded.names == model.names
    for name, probabilities in model.probabilities(image).items():
        np.testing.assert_array_equal(loaded.probabilities(image)[name], probabilities)


def test_a_run_of_mean_colours_reads_grey_and_colour_alike() -> None:
    sample = scribbled_disc()
    coloured = dataclasses.replace(sample, image=sample.image * np.array([0.5, 1.0, 1.5], np.float32)[:, None, None])
    run = Run([coloured], dataclasses.replace(QUICK, colours="mean", iterations=1), CLASSES)
    for _ in run:
        pass
    assert run.model.channels == 1
    labels = run.model.predict(sample.image)  # the mean of the coloured ones
    assert (run.model.predict(coloured.image) == labels).all()


def test_the_config_says_what_the_run_settled_on(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["format"] == 1 and content["classes"] == list(CLASSES)
    settled_on = content["config"]
    assert settled_on["device"] == "cpu" and settled_on["threads"] == 1
    assert settled_on["kernel"] == kernel_name("cpu")


def test_an_unfinished_run_answers_with_its_last_checkpoint(tmp_path: Path) -> None:
    run = Run([scribbled_disc()], QUICK, CLASSES, folder=tmp_path)
    for progress in run:
        if progress.iteration == 2:
            run.save_checkpoint()
            expected = run.model.predict(disc()[0][None])
            break
    assert (Model.load(tmp_path, "cpu").predict(disc()[0][None]) == expected).all()


def test_prediction_leaves_the_networks_in_training(model: Model) -> None:
    for network in model.networks.values():
        network.train()
    model.predict(disc()[0][None])
    assert all(network.training for network in model.networks.values())


def test_a_slice_of_a_stack_is_what_the_stack_gives(model: Model) -> None:
    stack = np.stack([disc(seed=z)[0] for z in range(3)])[None]
    whole = model.probabilities(stack)
    one = model.item_probabilities(model.prepared(stack), 1)
    for name in one:
        np.testing.assert_allclose(one[name], whole[name][:, 1], atol=1e-6)


def test_a_large_image_goes_through_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that looks at one pixel at a time cannot tell a window from the whole."""
    network, image = torch.nn.Conv2d(1, 3, 1), torch.randn(1, 1, 150, 70)
    whole = probabilities_of(network, image, settled(QUICK))
    monkeypatch.setattr("trainer.inference.PIXELS", 80 * 80)
    torch.testing.assert_close(probabilities_of(network, image, settled(QUICK)), whole)


def test_two_threads_may_look_through_one_network() -> None:
    """The second begins while the first is at it: neither may see, or change, BatchNorm's statistics of a training."""
    first_is_in, first_may_end = threading.Event(), threading.Event()

    class Waiting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not first_is_in.is_set():
                first_is_in.set()
                first_may_end.wait(0.3)  # long enough for the second to come in, where nothing keeps it out
            else:
                first_may_end.set()
                time.sleep(0.1)
            return x

    norm = torch.nn.BatchNorm2d(1)
    network = torch.nn.Sequential(Waiting(), norm, torch.nn.Conv2d(1, 2, 1)).train()
    image = 100 + torch.randn(1, 1, 8, 8)
    threads = [threading.Thread(target=probabilities_of, args=(network, image, settled(QUICK))) for _ in range(2)]
    threads[0].start()
    first_is_in.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert norm.running_mean.item() == 0 and network.training


def test_files_are_synced_through_a_handle_that_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses any other."""
    fcntl = pytest.importorskip("fcntl")
    modes = []
    monkeypatch.setattr("os.fsync", lambda handle: modes.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE))
    with replacing(tmp_path / "a") as draft:
        draft.write_text("a")
    assert modes == [os.O_RDWR]


def test_other_channels_are_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="3 channels"):
        model.predict(np.random.default_rng(0).normal(size=(3, 20, 20)).astype(np.float32))


def test_an_unknown_network_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="unet, swinunet, mambaunet, ensemble"):
        model.predict(disc()[0][None], network="vnet")


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        Model.load(tmp_path)


def test_damaged_weights_name_the_file(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        Model.load(tmp_path, "cpu")


def test_weights_of_another_model_are_refused(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content["classes"].append("third")
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="does not hold the weights of this unet"):
        Model.load(tmp_path, "cpu")


def test_a_config_of_the_future_is_refused(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ValueError, match="99"):
        Model.load(tmp_path, "cpu")


def test_a_failed_write_keeps_what_was_there(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.save(tmp_path)
    before = (tmp_path / "weights.safetensors").read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="what was there before is kept"):
        model.save(tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_sound_and_survive_json(name: str) -> None:
    config = PRESETS[name].checked()
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_paper_preset_is_the_published_recipe() -> None:
    paper = PRESETS["paper"]
    assert (paper.batch, paper.seed, paper.patch, paper.iterations) == (12, 2022, (224, 224), 30_000)
    assert not paper.unet_rate_decays and not paper.ramp_up
    assert paper.squared_dice and paper.dice_background and paper.interpolation == "nearest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": None, "iterations": None}, "either iterations or minutes"),
        ({"networks": ("unet",)}, "two networks or more"),
        ({"batch": 0}, "batch must be 1"),
        ({"spacing": (0.0, 1.0)}, "spacing must be more than 0"),
        ({"spacing": (-1.0, 1.0)}, "spacing must be more than 0"),
        ({"patch": (8, 64)}, "16 pixels"),
        ({"minutes": None, "iterations": 0}, "iterations must be 1"),
        ({"minutes": 0.0}, "minutes must be more than 0"),
        ({"validate_every": 0}, "validate_every"),
        ({"threads": -2}, "threads"),
    ],
)
def test_configs_that_cannot_work(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["interactive"], **change).checked()


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="--device cpu"):
        settled(dataclasses.replace(QUICK, device="cuda:77"))


def test_network_names_of_the_config_are_those_of_the_table() -> None:
    from trainer.config import NETWORK_NAMES
    from trainer.networks import NETWORKS

    assert NETWORK_NAMES == tuple(NETWORKS)


def test_importing_the_engine_is_light() -> None:
    """No Qt and no napari, also after two steps of training; no torch before it is needed."""
    import subprocess
    import sys

    code = """
import sys, trainer
assert "torch" not in sys.modules
from toys import *
import dataclasses
for _ in trainer.Run([scribbled_disc()], dataclasses.replace(QUICK, iterations=2), CLASSES): pass
found = {"qtpy", "PyQt5", "PyQt6", "PySide6", "napari", "psygnal", "magicgui"} & set(sys.modules)
assert not found, found
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_a_long_thin_image_goes_through_a_window(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.inference.PIXELS", 100)
    image = np.random.default_rng(0).normal(size=(1, 5, 300)).astype(np.float32)
    assert model.predict(image).shape == (5, 300)


def test_a_run_in_float32_is_loaded_in_float32(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert Model.load(tmp_path).config.dtype == "float32"


def test_what_was_drawn_stays_and_propagation_helps_untrained_networks() -> None:
    """A fresh network knows nothing: what comes out is what the strokes alone would give."""
    from trainer.propagation import propagate

    model, sample = Model.new(settled(QUICK), CLASSES, 1), scribbled_disc()
    filled, drawn = model.fill_in(sample), sample.target != IGNORE
    assert np.array_equal(filled[drawn], sample.target[drawn])
    truth = disc()[1]
    alone = propagate(sample, 2).labels
    assert (filled == truth).mean() > 0.95 <= (alone == truth).mean()


def test_filling_in_with_one_network_asks_no_other(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a third of the time, and an answer of its own."""
    asked, see = [], Model.item_probabilities
    monkeypatch.setattr(Model, "item_probabilities", lambda *args: asked.append(see(*args)) or asked[-1])
    model.fill_in(scribbled_disc(), model.names[0])
    assert [list(each) for each in asked] == [[model.names[0]]]


def test_who_has_not_begun_to_learn_does_not_answer(model: Model, tmp_path: Path) -> None:
    """After a stop while the first leads: neither by name nor in the ensemble, nor once it was saved and loaded."""
    image = disc()[0][None]
    model.config = dataclasses.replace(model.config, shares=(1.0, 0.0, 0.0))
    model.save(tmp_path)
    for each in (model, Model.load(tmp_path, "cpu")):
        with pytest.raises(ValueError, match="swinunet has not begun to learn; choose unet, ensemble"):
            each.predict(image, network="swinunet")
        assert np.array_equal(each.predict(image), each.predict(image, network="unet"))
    with pytest.raises(ValueError, match="has no network 'resnet'; choose unet, ensemble"):
        model.fill_in(scribbled_disc(), "resnet")


def test_shares_come_with_the_weights_that_they_are_of(model: Model, tmp_path: Path) -> None:
    other = Model.new(model.config, CLASSES, 1)
    model.config = dataclasses.replace(model.config, shares=(0.5, 0.2, 0.3))
    other.load_state(model.state(), tmp_path)
    assert other.shares == {"unet": 0.5, "swinunet": 0.2, "mambaunet": 0.3}


def test_without_strokes_filling_in_is_predicting(model: Model) -> None:
    empty = dataclasses.replace(scribbled_disc(), target=np.full((40, 40), IGNORE, np.uint8))
    assert np.array_equal(model.fill_in(empty), model.predict(empty.image))


def test_a_network_that_finds_nothing_does_not_outvote_the_strokes() -> None:
    teacher = np.zeros((2, 10, 10), np.float32)
    teacher[1, 3:6, 3:6] = 0.6
    teacher[0] = 1 - teacher[1]
    nothing = np.stack([np.full((10, 10), 0.95), np.full((10, 10), 0.05)]).astype(np.float32)
    assert np.array_equal(with_teacher(nothing, teacher).argmax(0), teacher.argmax(0))
    alike = np.where(teacher > 0.5, 1.0, 0.0).astype(np.float32)  # who agrees is heard as much
    np.testing.assert_allclose(with_teacher(alike, teacher), (alike + teacher) / 2, atol=1e-6)
