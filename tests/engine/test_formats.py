"""Single files: what is written is read again with its geometry, and damaged ones are named with what to do."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from trainer import dicom, formats, omezarr

STACK = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)  # (z, y, x)
SPACING = (5.0, 1.5, 0.5)
OBLIQUE = np.array([[0, 1.5, 0, 7], [-0.5, 0, 0, 8], [0, 0, 5, 9], [0, 0, 0, 1.0]])  # voxels of x .5, y 1.5, z 5 mm


# NIfTI --------------------------------------------------------------------------------------------------------------


def test_a_nifti_keeps_the_affine_it_was_given(tmp_path: Path) -> None:
    formats.write_nifti(tmp_path / "a.nii.gz", STACK, SPACING, OBLIQUE)
    array, spacing, affine = formats.read_nifti(tmp_path / "a.nii.gz")
    assert array.dtype == np.uint8
    assert np.array_equal(array, STACK)
    assert spacing == SPACING
    assert np.allclose(affine, OBLIQUE)
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (4, 3, 2)


def test_a_nifti_in_micrometres_comes_in_millimetres(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(STACK.transpose(), np.diag([2.0, 2.0, 10.0, 1.0]))
    image.header.set_xyzt_units("micron")
    image.to_filename(tmp_path / "cell.nii")
    _, spacing, affine = formats.read_nifti(tmp_path / "cell.nii")
    assert spacing == pytest.approx((0.01, 0.002, 0.002))
    assert np.allclose(np.diag(affine), [0.002, 0.002, 0.01, 1])
    assert formats.read_image([tmp_path / "cell.nii"])[1] == pytest.approx(spacing)


def test_a_film_without_seconds_has_frames_one_second_apart(tmp_path: Path) -> None:
    film = nibabel.Nifti1Image(np.zeros((4, 3, 2, 5), np.float32), np.eye(4))
    film.header["pixdim"][4] = 0
    film.to_filename(tmp_path / "film.nii")
    array, spacing, _ = formats.read_nifti(tmp_path / "film.nii")
    assert array.shape == (5, 2, 3, 4)
    assert spacing == (1, 1, 1, 1)


def test_half_a_nifti_is_named(tmp_path: Path) -> None:
    formats.write_nifti(tmp_path / "a.nii.gz", STACK, SPACING)
    (tmp_path / "a.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"a\.nii\.gz cannot be read .*copy it again"):
        formats.read_nifti(tmp_path / "a.nii.gz")


# TIFF ---------------------------------------------------------------------------------------------------------------


def test_imagej_finds_the_spacing_of_a_tiff(tmp_path: Path) -> None:
    formats.write_tiff(tmp_path / "a.tif", STACK, SPACING)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert np.array_equal(tiff.asarray(), STACK)
        assert tiff.series[0].axes == "ZYX"
        assert (tiff.imagej_metadata["spacing"], tiff.imagej_metadata["unit"]) == (5.0, "mm")
        x, y = (tiff.pages[0].tags[tag].value for tag in ("XResolution", "YResolution"))
    assert (x[1] / x[0], y[1] / y[0]) == pytest.approx((0.5, 1.5))


def test_an_ome_tiff_holds_many_objects_and_the_spacing(tmp_path: Path) -> None:
    objects = STACK.astype(np.uint32) + 70000
    formats.write_tiff(tmp_path / "a.ome.tif", objects, SPACING)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert np.array_equal(tiff.asarray(), objects)
        for axis, size in zip("ZYX", SPACING, strict=True):
            assert f'PhysicalSize{axis}="{size}"' in tiff.ome_metadata
    with pytest.raises(ValueError, match=r"70000 to 70023; name it \.ome\.tif"):
        formats.write_tiff(tmp_path / "a.tif", objects, SPACING)


# DICOM --------------------------------------------------------------------------------------------------------------


def write_slice(folder: Path, number: int, z: float, value: int, uid: str = "1.2.3", **tags: object) -> Path:
    """A CT slice of 3 x 4 pixels, all `value` as stored, at z mm; Hounsfield units are 2 * value - 1000."""
    pydicom = pytest.importorskip("pydicom", reason="needs pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{uid}.{number}"
    content = pydicom.dataset.Dataset()
    content.file_meta = meta
    content.SOPClassUID, content.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    content.SeriesInstanceUID, content.SeriesDescription, content.InstanceNumber = uid, f"chest {uid}", number
    content.Rows, content.Columns, content.SamplesPerPixel = 3, 4, 1
    content.PhotometricInterpretation, content.PixelRepresentation = "MONOCHROME2", 0
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 16, 15
    content.PixelSpacing, content.SliceThickness = [1.5, 0.5], 1
    content.ImageOrientationPatient, content.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [10, 20, z]
    content.RescaleSlope, content.RescaleIntercept = 2, -1000
    for name, tag in tags.items():
        setattr(content, name, tag)
    content.PixelData = np.full((3, 4), value, np.uint16).tobytes()
    folder.mkdir(exist_ok=True)
    content.save_as(folder / f"{uid}_{number:03}.dcm", enforce_file_format=True)
    return folder / f"{uid}_{number:03}.dcm"


def test_slices_are_sorted_by_place_and_rescaled(tmp_path: Path) -> None:
    for number, z in ((1, 8.0), (2, 3.0), (3, 5.5)):  # the file names say another order
        write_slice(tmp_path, number, z, value=100 * number)
    [series] = dicom.read_dicom(tmp_path)
    assert series.image.shape == (3, 3, 4)
    assert series.image[:, 0, 0].tolist() == [-600, -400, -800]  # z 3, 5.5, 8
    assert series.spacing == (2.5, 1.5, 0.5)
    # the first pixel is 10 mm to the left, 20 mm to the back: negative in RAS+
    assert np.allclose(series.affine, [[-0.5, 0, 0, -10], [0, -1.5, 0, -20], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def test_a_folder_may_hold_several_series_and_a_file_opens_its_own(tmp_path: Path) -> None:
    first = write_slice(tmp_path, 1, 0, 1, uid="1.2.3")
    write_slice(tmp_path, 1, 0, 1, uid="1.2.4")
    assert sorted(series.name for series in dicom.read_dicom(tmp_path)) == ["chest 1.2.3", "chest 1.2.4"]
    assert [series.name for series in dicom.read_dicom(first)] == ["chest 1.2.3"]


def test_several_slices_at_each_place_are_a_film(tmp_path: Path) -> None:
    for number, (z, value) in enumerate([(0, 1), (0, 2), (6, 3), (6, 4)]):
        write_slice(tmp_path, number, z, value, RescaleSlope=1, RescaleIntercept=0)
    [series] = dicom.read_dicom(tmp_path)
    assert series.image.dtype == np.uint16
    assert series.image[:, :, 0, 0].tolist() == [[1, 3], [2, 4]]  # (t, z)
    assert series.spacing == (6, 1.5, 0.5)


def test_a_missing_slice_a_doublet_and_half_a_file_are_named(tmp_path: Path) -> None:
    for z in (0, 2, 4, 8, 10):
        write_slice(tmp_path / "gap", z, z, 1)
    with pytest.raises(ValueError, match=r"2 mm apart, but 4 mm after 4 mm; a slice is missing"):
        dicom.read_dicom(tmp_path / "gap")
    for number, z in enumerate((0, 2, 2, 4)):
        write_slice(tmp_path / "double", number, z, 1)
    with pytest.raises(ValueError, match="another number at 2 mm; remove doublets"):
        dicom.read_dicom(tmp_path / "double")
    file = write_slice(tmp_path / "half", 1, 0, 1)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"1\.2\.3_001\.dcm cannot be read"):
        dicom.read_dicom(tmp_path / "half")


def test_a_series_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for z in (0, 2, 4):
        good = write_slice(tmp_path, z, z, 1)
    for z in (0, 2, 4, 8):
        bad = write_slice(tmp_path, z, z, 1, uid="1.2.9")
    film = write_slice(tmp_path, 1, 0, 1, uid="1.2.7", NumberOfFrames=5)
    assert [series.name for series in dicom.read_dicom(tmp_path)] == ["chest 1.2.3"]
    assert "5 frames in one file" in caplog.text and "a slice is missing" in caplog.text
    assert [series.name for series in dicom.read_dicom(good)] == ["chest 1.2.3"]
    with pytest.raises(ValueError, match="a slice is missing"):
        dicom.read_dicom(bad)
    with pytest.raises(ValueError, match="5 frames in one file"):
        dicom.read_dicom(film)


def test_empty_tags_are_as_none(tmp_path: Path) -> None:
    empty = dict.fromkeys(("ImageOrientationPatient", "NumberOfFrames", "RescaleSlope", "RescaleIntercept"))
    write_slice(tmp_path, 1, 0, 7, ImagePositionPatient=None, **empty)
    [series] = dicom.read_dicom(tmp_path)
    assert (series.image == 7).all()


def test_a_picture_without_a_size_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_slice(tmp_path, 1, 0, 1, PixelSpacing=None)
    [series] = dicom.read_dicom(tmp_path)
    assert series.spacing == (1, 1, 1)
    assert "has no PixelSpacing; a pixel is taken to be 1 mm" in caplog.text


def test_multi_frame_files_and_folders_without_dicom_say_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="needs pydicom")
    with pytest.raises(ValueError, match="holds no DICOM image"):
        dicom.read_dicom(tmp_path)
    write_slice(tmp_path, 1, 0, 1, NumberOfFrames=5)
    with pytest.raises(ValueError, match="5 frames in one file; convert it"):
        dicom.read_dicom(tmp_path)


# ACDC ---------------------------------------------------------------------------------------------------------------


def write_acdc(file: Path, **arrays: np.ndarray) -> Path:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(file, "w") as content:
        for key, array in arrays.items():
            content[key] = array
    return file


def test_an_acdc_scribble_of_4_is_not_labelled(tmp_path: Path) -> None:
    image = np.linspace(0, 1, 5, dtype=np.float32)[None]
    scribble = np.array([[0, 1, 2, 3, 4]], np.uint8)
    file = write_acdc(tmp_path / "a.h5", image=image, scribble=scribble, label=scribble % 4)
    found, targets = formats.read_acdc(file)
    assert np.array_equal(found, image)
    assert targets["scribble"].tolist() == [[0, 1, 2, 3, 255]]
    assert targets["label"].tolist() == [[0, 1, 2, 3, 0]]


def test_other_h5_files_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keys \['raw'\]; ACDC's files hold an image"):
        formats.read_acdc(write_acdc(tmp_path / "a.h5", raw=np.zeros((2, 2))))
    with pytest.raises(ValueError, match=r"'scribble' holds \[5\]; expected ids 0 to 4"):
        formats.read_acdc(write_acdc(tmp_path / "b.h5", image=np.zeros((2, 2)), scribble=np.full((2, 2), 5)))
    (tmp_path / "c.h5").write_bytes(b"no h5")
    with pytest.raises(ValueError, match=r"c\.h5 cannot be read"):
        formats.read_acdc(tmp_path / "c.h5")


# OME-Zarr -----------------------------------------------------------------------------------------------------------


def test_an_ome_zarr_says_where_its_pixels_are(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="needs zarr 3")
    omezarr.write_ome_zarr(tmp_path / "a.ome.zarr", STACK, SPACING, (10.0, 0.0, 2.0))
    [image] = json.loads((tmp_path / "a.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    assert [(axis["name"], axis["unit"]) for axis in image["axes"]] == [(axis, "millimeter") for axis in "zyx"]
    scale, translation = image["datasets"][0]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [5.0, 1.5, 0.5]}
    assert translation == {"type": "translation", "translation": [10.0, 0.0, 2.0]}
    assert np.array_equal(zarr.open_group(tmp_path / "a.ome.zarr", mode="r")["0"][...], STACK)
    with pytest.raises(FileExistsError, match="choose another name"):
        omezarr.write_ome_zarr(tmp_path / "a.ome.zarr", STACK, SPACING)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ome.zarr"]  # no draft left


def test_a_large_plane_is_halved_until_it_fits_a_screen(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="needs zarr 3")
    plane = np.zeros((10, 3000), np.uint8)
    plane[4, 2048] = 9
    omezarr.write_ome_zarr(tmp_path / "a.ome.zarr", plane, (1.0, 1.0))
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r")
    assert [group[str(i)].shape for i in range(3)] == [(10, 3000), (5, 1500), (3, 750)]
    assert group["2"][1, 512] == 9  # 4 / 4, 2048 / 4
    third = group.attrs["ome"]["multiscales"][0]["datasets"][2]["coordinateTransformations"][0]
    assert third["scale"] == [4, 4]


def test_a_missing_library_is_named_with_how_to_get_it() -> None:
    message = 'DICOM needs no_such_library, which is not installed: pip install "no_such_library"'
    with pytest.raises(ImportError, match=re.escape(message)):
        formats.optional("no_such_library", "DICOM")
    with pytest.raises(ImportError, match=r"needs nibabel>=99, found"):
        formats.optional("nibabel", "it", at_least="99")
