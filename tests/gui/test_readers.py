"""Files open as layers with scale in mm, named axes and, where there are strokes, napari's values for them."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from napari.layers import Labels, Layer
from PIL import Image as Picture

from napari_scribblemamba import _readers
from napari_scribblemamba._layers import spacing_of
from napari_scribblemamba._notes import KEY
from napari_scribblemamba._readers import AFFINE
from trainer.dataset import save_dataset
from trainer.formats import ACDC_CLASSES, write_nifti
from trainer.sample import IGNORE, Sample

SPACING = (5.0, 1.5, 0.5)
OBLIQUE = np.array([[0, 1.5, 0, 7], [-0.5, 0, 0, 8], [0, 0, 5, 9], [0, 0, 0, 1.0]])
STACK = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)  # (z, y, x)
TARGET = np.full(STACK.shape, IGNORE, np.uint8)
TARGET[0, 0, :2] = 0, 1


def read(path: Path) -> list[Layer]:
    """The layers of a path, through the function that napari calls."""
    reader = _readers.folder_reader(str(path)) if path.is_dir() else _readers.file_reader(str(path))
    assert reader is not None
    return [Layer.create(*layer) for layer in reader(str(path))]


# files of each format, written here ---------------------------------------------------------------------------------


def nifti(folder: Path) -> Path:
    write_nifti(folder / "patient.nii.gz", STACK, SPACING, OBLIQUE)
    return folder / "patient.nii.gz"


def dicom(folder: Path, step: float = 5) -> Path:
    """Two slices, `step` mm from each other."""
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
    (folder / "series").mkdir()
    for z in range(2):
        content = pydicom.dataset.Dataset()
        content.file_meta = pydicom.dataset.FileMetaDataset()
        content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID = pydicom.uid.MRImageStorage
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID = f"1.2.{z + 1}"
        content.SeriesInstanceUID, content.SeriesDescription = "1.2", "cine"
        content.Rows, content.Columns, content.SamplesPerPixel = 3, 4, 1
        content.PhotometricInterpretation, content.PixelRepresentation = "MONOCHROME2", 0
        content.BitsAllocated, content.BitsStored, content.HighBit = 8, 8, 7
        content.PixelSpacing, content.ImageOrientationPatient = [1.5, 0.5], [1, 0, 0, 0, 1, 0]
        content.ImagePositionPatient = [0, 0, step * z]
        content.PixelData = STACK[z].tobytes()
        content.save_as(folder / "series" / f"{9 - z}.dcm", enforce_file_format=True)
    return folder / "series"


def acdc(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(folder / "patient001.h5", "w") as content:
        content["image"] = STACK / np.float32(255)
        content["scribble"] = np.where(TARGET == IGNORE, 4, TARGET)
        content["label"] = np.where(TARGET == IGNORE, 3, TARGET)
    return folder / "patient001.h5"


def dataset(folder: Path) -> Path:
    sample = Sample(STACK[None].astype(np.float32), TARGET, SPACING, "patient")
    save_dataset(folder / "Dataset001_heart", [sample], ["background", "heart"])
    return folder / "Dataset001_heart"


def convpaint(folder: Path) -> Path:
    import tifffile

    tifffile.imwrite(folder / "cells_annotations.tif", STACK[0] % 3, compression="zlib")
    return folder / "cells_annotations.tif"


def ilastik(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    tags = json.dumps({"axes": [{"key": key, "typeFlags": 2} for key in "yxc"]})
    with h5py.File(folder / "cells.ilp", "w") as project:
        lane = project.create_group("Input Data/infos/lane0000/Raw Data")
        lane["shape"], lane["axistags"], lane["nickname"] = (3, 4, 1), tags, "cells"
        project["PixelClassification/LabelNames"] = [b"cell", b"Background"]
        block = project.create_dataset("PixelClassification/LabelSets/labels000/block0000", data=[[[1], [2]]])
        block.attrs["blockSlice"] = b"[1:2,2:4,0:1]"
    return folder / "cells.ilp"


def project(folder: Path) -> Path:
    from napari_scribblemamba._project import Project

    opened = Project.create(folder / "study", [("background", "#7d8590"), ("heart", "#e69f00")])
    image = opened.add(nifti(folder), "patient 1", STACK.shape, np.uint8)
    strokes = np.where(TARGET == IGNORE, 0, TARGET + 1).astype(np.uint8)
    opened.journal(image.key).record(strokes, (0,))
    opened.close()
    return folder / "study"


FORMATS: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "NIfTI": (nifti, ["patient"]),
    "DICOM": (dicom, ["cine"]),
    "ACDC": (acdc, ["patient001", "scribble · patient001", "label · patient001"]),
    "nnU-Net": (dataset, ["patient", "strokes · patient"]),
    "Convpaint": (convpaint, ["strokes · cells"]),
    "ilastik": (ilastik, ["strokes · cells"]),
    "project": (project, ["patient 1", "strokes · patient 1"]),
}


def test_napari_opens_each_format_through_the_manifest(make_napari_viewer: Callable, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="needs pydicom")
    viewer = make_napari_viewer()
    for name, (write, titles) in FORMATS.items():
        (tmp_path / name).mkdir()
        viewer.open(write(tmp_path / name), plugin="napari-scribblemamba")
        assert [layer.name for layer in viewer.layers] == titles, name
        viewer.layers.clear()


# one by one ---------------------------------------------------------------------------------------------------------


def test_a_nifti_lies_straight_and_keeps_its_affine(tmp_path: Path) -> None:
    [image] = read(nifti(tmp_path))
    assert np.array_equal(image.data, STACK)
    assert spacing_of(image) == SPACING
    assert image.axis_labels == ("z", "y", "x")
    assert np.array_equal(image.affine.affine_matrix, np.eye(4))  # strokes are drawn on the slices as they were taken
    assert np.allclose(image.metadata[AFFINE], OBLIQUE)


@pytest.mark.parametrize(
    "name, kind", [("patient_gt", "labels"), ("labelsTr/patient", "labels"), ("segment3", "image")]
)
def test_a_nifti_is_labels_where_its_name_says_so(tmp_path: Path, name: str, kind: str) -> None:
    file = tmp_path / f"{name}.nii.gz"
    file.parent.mkdir(exist_ok=True)
    write_nifti(file, STACK, SPACING)
    [(_, _, found)] = _readers.read_nifti_file(str(file))
    assert found == kind


def test_a_film_is_four_axes_with_seconds(tmp_path: Path) -> None:
    film = nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), np.float32), np.diag([0.5, 1.5, 5, 1]))
    film.header.set_zooms((0.5, 1.5, 5, 0.04))
    film.header.set_xyzt_units("mm", "sec")
    film.to_filename(tmp_path / "cine.nii")
    [image] = read(tmp_path / "cine.nii")
    assert image.data.shape == (5, 2, 3, 4)
    assert tuple(image.scale) == pytest.approx((0.04, *SPACING))
    assert [str(unit) for unit in image.units] == ["second", "millimeter", "millimeter", "millimeter"]


def test_a_dicom_series_is_one_layer_in_order_of_place(tmp_path: Path) -> None:
    [image] = read(dicom(tmp_path))
    assert np.array_equal(image.data, STACK)
    assert spacing_of(image) == SPACING
    [same] = read(tmp_path / "series" / "9.dcm")
    assert np.array_equal(same.data, STACK)


def test_a_film_of_one_slice_is_a_stack_of_moments(tmp_path: Path) -> None:
    [film] = read(dicom(tmp_path, step=0))
    assert film.data.shape == (2, 3, 4)
    assert film.axis_labels == ("t", "y", "x")
    assert [str(unit) for unit in film.units] == ["second", "millimeter", "millimeter"]
    (tmp_path / "series" / "9.dcm").unlink()
    [slice_] = read(tmp_path / "series")
    assert np.array_equal(slice_.data, STACK[1])
    assert slice_.axis_labels == ("y", "x")


@pytest.mark.parametrize("write", [acdc, dataset])
def test_strokes_are_one_above_their_class_and_zero_where_nobody_drew(write: Callable, tmp_path: Path) -> None:
    image, strokes, *_ = read(write(tmp_path))
    assert isinstance(strokes, Labels)
    assert strokes.data[0, 0].tolist() == [1, 2, 0, 0]
    assert np.count_nonzero(strokes.data) == 2
    assert np.array_equal(strokes.scale, image.scale)
    expected = list(ACDC_CLASSES) if write is acdc else ["background", "heart"]
    assert strokes.metadata[KEY]["classes"] == expected


def test_acdc_dense_labels_are_painted_alike_and_hidden(tmp_path: Path) -> None:
    _, _, labels = read(acdc(tmp_path))
    assert not labels.visible
    assert labels.data[0, 0].tolist() == [1, 2, 4, 4]


def test_colours_of_a_dataset_are_one_layer_and_other_channels_one_each(tmp_path: Path) -> None:
    image = np.zeros((3, 4, 5), np.float32)
    image[0], image[1, 0] = 255, 7
    save_dataset(tmp_path / "rgb", [Sample(image, np.zeros((4, 5), np.uint8), (1, 1), "a")], ["background", "b"])
    colour, _ = read(tmp_path / "rgb")
    assert colour.rgb
    assert colour.data[0, 0].tolist() == [255, 7, 0]
    two = Sample(image[:2], np.zeros((4, 5), np.uint8), (1, 1), "a")
    save_dataset(tmp_path / "two", [two], ["background", "b"], channels=["DAPI", "actin"])
    assert [layer.name for layer in read(tmp_path / "two")][:2] == ["a · DAPI", "a · actin"]


def test_a_dataset_without_a_label_file_opens_to_be_drawn_on(tmp_path: Path) -> None:
    folder = dataset(tmp_path)
    (folder / "labelsTr" / "patient.nii.gz").unlink()
    assert [layer.name for layer in read(folder)] == ["patient"]


def test_numbered_objects_open_with_their_numbers(tmp_path: Path) -> None:
    for name, row in (("imagesTr/a_0000.png", [3, 90, 200, 7]), ("labelsTr/a.png", [0, 7, 7, 60])):
        (tmp_path / name).parent.mkdir()
        Picture.fromarray(np.array([row], np.uint8)).save(tmp_path / name)
    header = {"task": "instances", "channel_names": {"0": "DAPI"}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(header))
    image, objects = read(tmp_path)
    assert isinstance(objects, Labels) and objects.name == "objects · a" and KEY not in objects.metadata
    assert objects.data.tolist() == [[0, 7, 7, 60]] and image.scale.tolist() == objects.scale.tolist()


def test_a_dataset_of_hundreds_says_what_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_readers, "AT_ONCE", 0)
    with pytest.raises(ValueError, match=r"1 cases, more than the 0 .* open images of .*imagesTr"):
        read(dataset(tmp_path))


def test_a_project_opens_with_its_strokes_and_says_which_it_is(tmp_path: Path) -> None:
    folder = project(tmp_path)
    image, strokes = read(folder)
    assert strokes.data[0, 0].tolist() == [1, 2, 0, 0]
    assert spacing_of(strokes) == spacing_of(image) == SPACING
    assert strokes.metadata[KEY]["project"] == str(folder)
    assert strokes.metadata[KEY]["classes"] == ["background", "heart"]
    assert len(read(folder / "project.json")) == 2  # and it is not locked


def test_an_image_of_a_project_may_be_a_picture(tmp_path: Path) -> None:
    from napari_scribblemamba._project import Project

    Picture.fromarray(STACK[0]).save(tmp_path / "cells.png")
    opened = Project.create(tmp_path / "study", [("background", "#7d8590"), ("cell", "#e69f00")])
    opened.add(tmp_path / "cells.png", "cells", STACK[0].shape, np.uint8)
    opened.close()
    image, strokes = read(tmp_path / "study")
    assert np.array_equal(image.data, STACK[0])
    assert strokes.data.shape == (3, 4)
    (tmp_path / "cells.png").unlink()
    assert read(tmp_path / "study") == []


def test_what_is_not_ours_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    assert _readers.folder_reader(str(tmp_path / "pictures")) is None
    assert _readers.file_reader(str(tmp_path / "pictures" / "a.png")) is None
    assert _readers.file_reader([str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]) is None
    assert _readers.plugin_for(tmp_path / "pictures") == "napari"
    assert _readers.plugin_for(nifti(tmp_path)) == "napari-scribblemamba"


@pytest.mark.parametrize("name", ["a.nii.gz", "a.h5", "a.ilp", "a_annotations.tif", "project.json", "a.dcm"])
def test_a_corrupt_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    module = {".h5": "h5py", ".ilp": "h5py", ".dcm": "pydicom"}.get(Path(name).suffix, "numpy")
    pytest.importorskip(module, reason=f"needs {module}")
    (tmp_path / name).write_bytes(b"\x00" * 128 + b"DICM" + b"rubbish")
    with pytest.raises(ValueError, match=rf"{name}.*(again|backup|choose another)"):
        read(tmp_path / name)
