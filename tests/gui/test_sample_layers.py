"""File > Open Sample: the layers have the image's shape and scale, and the strokes napari's values."""

from pathlib import Path

import numpy as np
import pytest
from napari.layers import Image, Labels, Layer

from napari_scribblemamba import _sample_data
from trainer.dataset import load_dataset
from trainer.sample import IGNORE

SAMPLES = {  # name -> title, shape, spacing, classes
    "cardiac": ("cardiac MRI", (10, 176, 176), (10.0, 1.5, 1.5), ["background", "RV", "MYO", "LV"]),
    "microscopy": ("fluorescent nuclei", (480, 480), (1.0, 1.0), ["background", "nucleus"]),
    "endoscopy": ("endoscopy", (320, 384), (1.0, 1.0), ["background", "polyp", "instrument"]),
}


def open_sample(name: str) -> tuple[Image, Labels]:
    image, strokes = (Layer.create(*layer) for layer in getattr(_sample_data, name)())
    return image, strokes


@pytest.mark.parametrize("name", SAMPLES)
def test_image_and_strokes_lie_on_each_other(name: str) -> None:
    title, shape, spacing, classes = SAMPLES[name]
    image, strokes = open_sample(name)
    assert isinstance(image, Image)
    assert isinstance(strokes, Labels)
    assert (image.name, strokes.name) == (title, "scribbles")
    assert image.rgb == (name == "endoscopy")
    assert image.data.shape == ((*shape, 3) if image.rgb else shape)
    assert strokes.data.shape == shape
    assert tuple(image.scale) == tuple(strokes.scale) == spacing
    assert image.units == strokes.units
    assert strokes.metadata["scribblemamba"]["classes"] == classes


def test_only_the_stack_has_a_size_in_millimetres() -> None:
    units = {name: {str(unit) for unit in open_sample(name)[0].units} for name in SAMPLES}
    assert units == {"cardiac": {"millimeter"}, "microscopy": {"pixel"}, "endoscopy": {"pixel"}}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_class_is_painted_one_above_its_id_and_nothing_is_zero(name: str) -> None:
    [sample] = load_dataset(_sample_data.sample_folder(name)).samples
    strokes = open_sample(name)[1].data
    assert np.array_equal(strokes == 0, sample.target == IGNORE)
    assert np.array_equal(strokes[strokes > 0] - 1, sample.target[sample.target != IGNORE])


def test_an_installed_wheel_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "napari_scribblemamba"
    (package / "sample_data" / "cardiac").mkdir(parents=True)
    (package / "sample_data" / "cardiac" / "dataset.json").write_text("{}")
    monkeypatch.setattr(_sample_data, "__file__", str(package / "_sample_data.py"))
    assert _sample_data.sample_folder("cardiac") == package / "sample_data" / "cardiac"
    with pytest.raises(FileNotFoundError, match=r"'endoscopy'.*generate\.py"):
        _sample_data.sample_folder("endoscopy")
