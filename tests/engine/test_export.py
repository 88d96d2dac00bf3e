"""Exported networks answer as torch's do: a file alone, a folder of them on whole images, and a package of the zoo."""

import dataclasses
import hashlib
import json
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import CLASSES, disc

from trainer import bioimageio, export, tiled
from trainer.config import Config
from trainer.inference import windowed
from trainer.model import Model
from trainer.networks import AXES, NETWORKS, build
from trainer.networks.mamba import Mamba

pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

TINY = {  # two stages each
    "unet": {"widths": (4, 8), "dropout": (0.0, 0.0)},
    "unet_cct": {"widths": (4, 8), "dropout": (0.0, 0.0)},
    "swinunet": {"width": 8, "depths": (2, 1), "heads": (1, 2), "window": 4},
    "mambaunet": {"width": 8, "depths": (1, 1)},
    "umamba_bot": {"strides": (1, 2), "features": 4},
    "umamba_enc": {"strides": (1, 2), "features": 4},
    "vmunet": {"width": 8, "depths": (1, 1), "depths_decoder": (1, 1)},
    "swin_umamba": {"width": 8, "depths": (1, 1)},
    "swin_umamba_d": {"width": 8, "depths": (1, 1), "depths_decoder": (1,)},
    "nnmamba": {"width": 4, "blocks": 2},
}
CASES = [(name, axes) for name in NETWORKS for axes in AXES.get(name, (2,))]
PLAIN = Config(
    networks=("unet",), objective="supervised", iterations=1, patch=(16, 16), device="cpu", dtype="float32", threads=1
)


def tiny(name: str, axes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    dim = {"dim": axes} if name.startswith("umamba") else {}
    return build(name, 1, 3, "small", **TINY.get(name, {}), **dim).eval()


@pytest.mark.parametrize(("name", "axes"), CASES)
def test_onnx_and_torch_agree(name: str, axes: int, tmp_path: Path):
    network, patch = tiny(name, axes), (16,) * axes
    export.write_onnx(network, (1, *patch), tmp_path / "tiny.onnx")
    exported = tiled.OnnxNetwork(tmp_path / "tiny.onnx", threads=1)
    assert exported.patch == patch
    for batch in (1, 3):
        image = torch.rand(batch, 1, *patch)
        with torch.no_grad():
            torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=0)


def test_shifted_windows_take_any_number_of_images(tmp_path: Path):
    """Where there are several windows in a slice, as in every run that is not a toy."""
    network = tiny("swinunet")
    export.write_onnx(network, (1, 64, 64), tmp_path / "windows.onnx")
    exported, image = tiled.OnnxNetwork(tmp_path / "windows.onnx", threads=1), torch.rand(5, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=0)


def test_a_long_scan_is_one_loop(tmp_path: Path):
    """As many nodes for 3136 positions as for 49, and the state that a Mamba layer carries on is the same."""
    import onnx

    torch.manual_seed(0)
    layer, counts = Sequence(Mamba(4, d_state=3)).eval(), []
    for side in (7, 56):
        file = tmp_path / f"{side}.onnx"
        export.write_onnx(layer, (4, side, side), file)
        graph = onnx.load(file).graph
        counts.append(len(graph.node))
        assert [node.op_type for node in graph.node].count("Scan") == 1
    assert counts[0] == counts[1] < 60


class Sequence(torch.nn.Module):
    """(B, C, H, W) -> the same shape, all pixels as one sequence."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, image.shape[2:])


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = export.trace
    monkeypatch.setattr(
        export, "trace", lambda network, *rest: plain(torch.nn.Sequential(network, Doubled()).eval(), *rest)
    )
    with pytest.raises(ArithmeticError, match=r"logits differ from torch's by .* is not kept"):
        export.write_onnx(tiny("unet"), (1, 16, 16), tmp_path / "tiny.onnx")
    assert not list(tmp_path.iterdir())


class Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


CONFIGS = {
    "two networks, at another spacing": {"networks": ("unet", "unet"), "spacing": (1.25, 1.25)},  # 32: one tile
    "whole slices resized": {"view": "resize", "normalisation": "percentile"},
    "without the zeros around": {"view": "resize", "normalisation": "zscore", "masked": True},
    "volumes": {
        "networks": ("umamba_bot",),
        "patch": (8, 16, 16),
        "strides": ((1, 1, 1), (2, 2, 2)),
        "kernels": ((3, 3, 3), (3, 3, 3)),
    },
}


@pytest.mark.parametrize("story", CONFIGS)
def test_a_folder_predicts_as_the_run(story: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = Model.new(Config.from_dict(PLAIN.to_dict() | CONFIGS[story]), CLASSES, 1)
    image, spacing = an_image(model)
    for _ in export.export_onnx(model, tmp_path):
        pass
    monkeypatch.setattr("trainer.model.build_for", None)  # no torch network is built
    predictor = tiled.OnnxPredictor(tmp_path, threads=1)
    expected, found = model.probabilities(image, spacing), predictor.probabilities(image, spacing)
    assert list(found) == list(expected) == [*model.names, "ensemble"]
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
    labels = predictor.predict(image, spacing)
    sure = np.abs(expected["ensemble"][1] - expected["ensemble"][0]) > 1e-3
    assert sure.mean() > 0.9 and predictor.classes == CLASSES
    assert (labels == model.predict(image, spacing))[sure].all()


def an_image(model: Model) -> tuple[np.ndarray, tuple[float, ...]]:
    if model.volumetric:
        return np.stack([disc(24, seed=z)[0] for z in range(10)])[None], (2.0, 1.0, 1.0)
    size = 40 if model.config.spacing else 32
    image = disc(size)[0][None]
    if model.config.masked:
        image[:, :8] = 0
    return image, (1.0, 1.0)


def test_larger_slices_go_in_tiles(tmp_path: Path):
    """As torch's network does if it is shown the same tiles."""
    network = tiny("unet")
    export.write_onnx(network, (1, 16, 16), tmp_path / "tiny.onnx")
    image = torch.from_numpy(disc(41)[0] / 100)[None, None]
    with torch.no_grad():
        expected = windowed(network, image, (16, 16))
    found = tiled.OnnxNetwork(tmp_path / "tiny.onnx", threads=1)(image)
    assert found.shape == (1, 3, 41, 41)
    torch.testing.assert_close(found.softmax(1), expected, atol=1e-5, rtol=0)


STEPS = {  # the zoo's words for a channel's pixels
    "zero_mean_unit_variance": lambda x, eps, axes: (x - x.mean()) / (x.std() + eps),
    "fixed_zero_mean_unit_variance": lambda x, mean, std: (x - mean) / std,
    "scale_range": lambda x, eps, axes: (x - x.min()) / (x.max() - x.min() + eps),
    "clip": lambda x, min=None, max=None, max_percentile=100, axes=(): (
        x.clip(min, max) if axes == () else x.clip(None, np.percentile(x, max_percentile))
    ),
}


@pytest.fixture(scope="module")
def unet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PLAIN's one network, exported once for all packages."""
    (file,) = export.export_onnx(Model.new(PLAIN, CLASSES, 1), tmp_path_factory.mktemp("onnx"))
    return file


@pytest.mark.parametrize("normalisation", ["zscore", "percentile", "equalised", "planned", "masked"])
def test_a_package_of_the_zoo_holds_what_it_says(
    normalisation: str, unet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever follows rdf.yaml from the test input on arrives at the test output."""
    yaml = pytest.importorskip("yaml")
    monkeypatch.setattr(bioimageio, "write_onnx", lambda network, size, file: shutil.copy(unet_file, file))
    ct = {"intensities": ((100.0, 20.0, 60.0, 180.0),)} if normalisation == "planned" else {}
    how = {"normalisation": "zscore", "masked": True} if normalisation == "masked" else {"normalisation": normalisation}
    model = Model.new(Config.from_dict(PLAIN.to_dict() | how | ct), CLASSES, 1)
    (package,) = bioimageio.export_bioimageio(model, tmp_path, ["Ada"], "CC0-1.0")
    with zipfile.ZipFile(package) as archive:
        archive.extractall(tmp_path / "unpacked")
    folder = tmp_path / "unpacked"
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text())
    assert rdf["format_version"].startswith("0.5") and rdf["license"] == "CC0-1.0"
    assert rdf["authors"] == [{"name": "Ada"}] and "2402.10887" in rdf["cite"][0]["text"]
    weights = rdf["weights"]["onnx"]
    assert weights["sha256"] == hashlib.sha256((folder / weights["source"]).read_bytes()).hexdigest()
    (image,), (answer,) = rdf["inputs"], rdf["outputs"]
    assert [axis.get("size") for axis in image["axes"]] == [None, None, 32, 32]
    assert answer["axes"][1]["channel_names"] == list(CLASSES) and len(image["description"]) <= 128
    assert (image["preprocessing"] == []) == (normalisation in ("equalised", "masked"))
    assert ("zscore, masked" in image["description"]) == (normalisation == "masked")

    x = np.load(folder / image["test_tensor"]["source"])
    for step in image["preprocessing"]:
        x = STEPS[step["id"]](x, **step["kwargs"])
    logits = tiled.OnnxNetwork(folder / weights["source"], threads=1).run(torch.from_numpy(x))
    expected = np.load(folder / answer["test_tensor"]["source"])
    np.testing.assert_allclose(logits.softmax(1).numpy(), expected, atol=1e-5)


def test_the_zoo_takes_the_package(tmp_path: Path):
    spec = pytest.importorskip("bioimageio.spec", reason="bioimageio.spec is not installed")
    (package,) = bioimageio.export_bioimageio(Model.new(PLAIN, CLASSES, 1), tmp_path, ["Ada"], "CC0-1.0")
    assert spec.load_description(package).validation_summary.status in ("valid-format", "passed")


def test_the_zoo_gets_no_network_that_has_not_begun_to_learn(
    unet_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("yaml")
    monkeypatch.setattr(bioimageio, "write_onnx", lambda network, size, file: shutil.copy(unet_file, file))
    both = dataclasses.replace(PLAIN, networks=("unet", "swinunet"), shares=(1.0, 0.0))
    packages = bioimageio.export_bioimageio(Model.new(both, CLASSES, 1), tmp_path, ["Ada"], "CC0-1.0")
    assert [package.name for package in packages] == ["unet.zip"]


def test_class_names_become_identifiers():
    assert [bioimageio.identifier(name) for name in ("left ventricle", "2nd", "é")] == [
        "left_ventricle",
        "class_2nd",
        "class__",
    ]


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Model.new(PLAIN, CLASSES, 1).save(tmp_path / "run")
    command = ["trainer.export", "--run", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--to", "onnx"]
    monkeypatch.setattr(sys, "argv", [*command, "--patch", "16", "24"])
    export.main()
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"unet.onnx", "config.json"}
    assert tiled.OnnxNetwork(tmp_path / "out" / "unet.onnx").patch == (16, 24)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["classes"] == list(CLASSES)
    monkeypatch.setattr(sys, "argv", [*command, "--patch", "16", "16", "16"])
    with pytest.raises(SystemExit, match=r"trainer.export: the networks take 2 axes, got the patch \(16, 16, 16\)"):
        export.main()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FileNotFoundError, match=r"unet\.onnx is missing; write it with trainer\.export"):
        tiled.OnnxNetwork(tmp_path / "unet.onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'onnxruntime .* pip install "napari-scribblemamba\[export\]"'):
        tiled.OnnxNetwork(tmp_path / "unet.onnx")
    with pytest.raises(ModuleNotFoundError, match="onnx, onnxscript, onnxruntime not found"):
        export.write_onnx(tiny("unet"), (1, 16, 16), tmp_path / "unet.onnx")
