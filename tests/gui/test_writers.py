"""Labels on disk lie where the image lies, and predictions hold the class ids that trainer.predict writes."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from napari.layers import Labels

from napari_scribblemamba import _writers
from napari_scribblemamba._notes import KEY
from napari_scribblemamba._readers import AFFINE, read_nifti_file

LABELS = np.arange(2 * 3 * 4).reshape(2, 3, 4) % 3  # (z, y, x): 0, 1, 2
OBLIQUE = np.array([[0, 1.5, 0, 7], [-0.5, 0, 0, 8], [0, 0, 5, 9], [0, 0, 0, 1.0]])


def layer(**settings: object) -> tuple[np.ndarray, dict]:
    """Data and settings as napari hands them to a writer."""
    settings = {"name": "heart", "scale": (5, 1.5, 0.5), "units": "mm", **settings}
    data, settings, _ = Labels(settings.pop("data", LABELS), **settings).as_layer_data_tuple()
    return data, settings


def test_napari_saves_by_the_ending_of_the_name(make_napari_viewer: Callable, tmp_path: Path) -> None:
    pytest.importorskip("zarr", minversion="3", reason="needs zarr 3")
    viewer = make_napari_viewer()
    viewer.add_labels(LABELS, scale=(5, 1.5, 0.5), units="mm")
    for ending in (".nii.gz", ".nii", ".tif", ".ome.tif", ".ome.zarr"):
        viewer.layers.save(str(tmp_path / f"heart{ending}"), plugin="napari-scribblemamba")
        assert (tmp_path / f"heart{ending}").exists(), ending
    assert nibabel.load(tmp_path / "heart.nii.gz").header.get_zooms() == (0.5, 1.5, 5)
    assert tifffile.TiffFile(tmp_path / "heart.tif").imagej_metadata["spacing"] == 5


def test_a_nifti_has_scale_and_translation_in_millimetres(tmp_path: Path) -> None:
    file = tmp_path / "heart.nii"
    assert _writers.write_nifti_layer(str(file), *layer(translate=(1000, 0, 2000), units="um")) == [str(file)]
    written = nibabel.load(file)
    assert np.array_equal(np.asanyarray(written.dataobj), LABELS.transpose())
    assert np.allclose(written.affine, [[5e-4, 0, 0, 2], [0, 1.5e-3, 0, 0], [0, 0, 5e-3, 1], [0, 0, 0, 1]])


def test_a_rotated_layer_is_rotated_in_its_nifti(tmp_path: Path) -> None:
    _writers.write_nifti_layer(str(tmp_path / "a.nii"), *layer(data=LABELS[0], scale=(2, 1), rotate=90, units="mm"))
    # napari turns (y, x) = (1, 0) to (0, 1): the file's y axis points along the world's x
    affine = nibabel.load(tmp_path / "a.nii").affine
    assert np.allclose(affine[:2, :2], [[0, 2], [-1, 0]])


def test_labels_of_a_nifti_image_lie_where_it_lies_in_the_patient(tmp_path: Path) -> None:
    from trainer.formats import write_nifti

    write_nifti(tmp_path / "image.nii.gz", LABELS.astype(np.uint8), (5, 1.5, 0.5), OBLIQUE)
    [(_, settings, _)] = read_nifti_file(str(tmp_path / "image.nii.gz"))
    _writers.write_nifti_layer(str(tmp_path / "a.nii.gz"), *layer(metadata=settings["metadata"]))
    assert np.allclose(nibabel.load(tmp_path / "a.nii.gz").affine, OBLIQUE)


def test_the_affine_of_other_voxels_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _writers.write_nifti_layer(str(tmp_path / "a.nii"), *layer(scale=(1, 1, 1), metadata={AFFINE: OBLIQUE}))
    assert "other voxels" in caplog.text
    assert np.allclose(nibabel.load(tmp_path / "a.nii").affine, np.eye(4))


def test_a_prediction_is_written_as_class_ids_and_strokes_as_they_are(tmp_path: Path) -> None:
    shown = np.array([[0, 2, 3]])  # background, class 1, class 2
    metadata = {KEY: {"network": "ensemble", "image": "id"}}
    data, settings = layer(data=shown, scale=(1, 1), metadata=metadata)
    _writers.write_tiff_layer(str(tmp_path / "a.tif"), data, settings)
    assert tifffile.imread(tmp_path / "a.tif").tolist() == [[0, 1, 2]]
    data, settings = layer(data=shown, scale=(1, 1))
    _writers.write_tiff_layer(str(tmp_path / "b.tif"), data, settings)
    assert tifffile.imread(tmp_path / "b.tif").tolist() == [[0, 2, 3]]


def test_the_smallest_integers_hold_the_labels() -> None:
    assert _writers.file_labels(np.array([[0, 255]]), {}).dtype == np.uint8
    assert _writers.file_labels(np.array([[0, 256]]), {}).dtype == np.uint16
    assert _writers.file_labels(np.array([[0, 70000]]), {}).dtype == np.uint32
    with pytest.raises(ValueError, match=r"'heart' has the label -1; labels to write begin at 0"):
        _writers.file_labels(np.array([[0, -1]]), {"name": "heart"})


def test_a_tiff_says_what_it_cannot_keep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        _writers.write_tiff_layer(str(tmp_path / "a.tif"), *layer())
        assert caplog.text == ""
        _writers.write_tiff_layer(str(tmp_path / "b.tif"), *layer(translate=(1, 0, 0)))
    assert "keeps the spacing of 'heart', not its place and rotation" in caplog.text


def test_an_ome_zarr_has_scale_and_translation_but_no_rotation(tmp_path: Path) -> None:
    pytest.importorskip("zarr", minversion="3", reason="needs zarr 3")
    _writers.write_ome_zarr_layer(str(tmp_path / "a.ome.zarr"), *layer(translate=(10, 0, 2)))
    [image] = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    scale, translation = image["datasets"][0]["coordinateTransformations"]
    assert (scale["scale"], translation["translation"]) == ([5, 1.5, 0.5], [10, 0, 2])
    with pytest.raises(ValueError, match=r"'heart' is rotated, flipped or sheared.* write NIfTI"):
        _writers.write_ome_zarr_layer(str(tmp_path / "b.ome.zarr"), *layer(data=LABELS[0], scale=(1, 1), rotate=30))
