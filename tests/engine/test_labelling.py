"""Labels for a folder of images: geometry kept, errors told at the end, the images themselves left alone."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from toys import CLASSES

from trainer.config import Config
from trainer.dataset import find_cases
from trainer.formats import read_labels, write_array
from trainer.labelling import label_images
from trainer.model import Model
from trainer.predict import report

TINY = Config(networks=("unet",), objective="supervised", patch=(32, 32), iterations=1, device="cpu", dtype="float32")


def model() -> Model:
    return Model.new(TINY, CLASSES, channels=1)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape, np.uint8)


def test_an_image_that_cannot_be_read_leaves_the_others_alone(tmp_path: Path) -> None:
    folder, out, ours = tmp_path / "images", tmp_path / "labels", model()
    folder.mkdir()
    for name in ("a", "c"):
        Image.fromarray(noise(40, 48)).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"no picture")
    Image.fromarray(noise(40, 48, 3)).save(folder / "d.png")
    cases = find_cases(folder, plain=True)
    steps = list(label_images(ours, cases, out))
    assert {step.case: step.file for step in steps if step.file} == {"a": out / "a.png", "c": out / "c.png"}
    errors = {step.case: step.error for step in steps if step.error}
    assert "b.png" in errors["b"] and "3 channels" in errors["d"]
    fractions = [step.fraction for step in steps]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    image = np.asarray(Image.open(folder / "a.png"))[None].astype(np.float32)
    np.testing.assert_array_equal(read_labels(out / "a.png")[0], ours.predict(image))
    with pytest.raises(ValueError, match=r"2 could not be labelled\nb: .*\nd: "):
        report(iter(steps), out)


def test_a_stack_goes_slice_by_slice_and_keeps_its_geometry(tmp_path: Path) -> None:
    affine = np.array([[-2, 0, 0, 7], [0, 1.5, 0, -3], [0, 0, 8, 5], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(noise(48, 40, 4), affine), tmp_path / "heart.nii.gz")
    ours = model()
    steps = list(label_images(ours, find_cases(tmp_path, plain=True), tmp_path / "out"))
    assert [step.file for step in steps] == [None] * 4 + [tmp_path / "out/heart.nii.gz"]
    labels = nib.load(steps[-1].file)
    np.testing.assert_array_equal(labels.affine, affine)
    image = np.asarray(nib.load(tmp_path / "heart.nii.gz").dataobj, np.float32).T[None]
    np.testing.assert_array_equal(np.asarray(labels.dataobj).T, ours.predict(image, (8, 1.5, 2)))


def test_a_tiff_of_any_name_hands_its_spacing_on(tmp_path: Path) -> None:
    write_array(tmp_path / "cells_0000.tif", noise(3, 40, 48), (2.0, 0.5, 0.5))
    (tmp_path / "cells_0000.tif").rename(tmp_path / "cells.tif")
    list(label_images(model(), find_cases(tmp_path, plain=True), tmp_path / "out"))
    labels, spacing = read_labels(tmp_path / "out/cells.tif")
    assert (labels.shape, spacing) == ((3, 40, 48), (2.0, 0.5, 0.5))


def test_images_are_never_written_over(tmp_path: Path) -> None:
    Image.fromarray(noise(40, 48)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(ValueError, match="holds the images"):
        next(label_images(model(), find_cases(tmp_path, plain=True), tmp_path))
    assert (tmp_path / "a.png").read_bytes() == before
