"""Datasets on disk: what is saved comes back, and bad input is refused in words that help."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from trainer.dataset import find_cases, load_dataset, save_dataset
from trainer.formats import read_image, read_labels, strip_ending, write_labels
from trainer.sample import IGNORE, Sample, check_image, check_strokes

CLASSES = ("background", "RV", "LV")
DATA = Path(os.environ.get("SCRIBBLEMAMBA_DATA", Path(__file__).parents[3] / "shared/data"))


def strokes(space: tuple[int, ...]) -> np.ndarray:
    """One short stroke of each of the three classes, nothing elsewhere."""
    target = np.full(space, IGNORE, np.uint8)
    for i in range(3):
        target[..., 1 + i, 1 : 3 + i] = i
    return target


def sample(channels=1, space=(8, 9), spacing=None, top=256, name="case", noise=False) -> Sample:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(channels, *space)) if noise else rng.integers(0, top, (channels, *space))
    return Sample(image.astype(np.float32), strokes(space), spacing or (1.0,) * len(space), name)


def dataset_on_disk(folder: Path, **kwargs) -> Path:
    save_dataset(folder, [sample(name="a"), sample(name="b")], CLASSES, **kwargs)
    return folder


def edit_header(folder: Path, **changes) -> None:
    file = folder / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refuses(folder: Path, *words: str, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error) as caught:
        load_dataset(folder)
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------------------------------------------------- round trips

VOLUME = (3, 8, 9)
ROUND_TRIPS = {  # name: sample, arguments of save_dataset, ending, first case's image files
    "grey PNG": (sample(), {}, ".png", 1),
    "16-bit PNG": (sample(top=65536), {}, ".png", 1),
    "RGB PNG": (sample(channels=3), {}, ".png", 1),
    "RGB PNG of 16 bits": (sample(channels=3, top=65536), {}, ".png", 3),
    "three stains, not RGB": (sample(channels=3), {"channels": ("DAPI", "GFP", "RFP")}, ".png", 3),
    "two-channel PNG": (sample(channels=2), {}, ".png", 2),
    "float picture": (sample(noise=True), {}, ".tif", 1),
    "picture with spacing": (sample(spacing=(0.5, 0.25)), {}, ".tif", 1),
    "RGB TIFF": (sample(channels=3), {"ending": ".tif"}, ".tif", 3),
    "2-D NIfTI": (sample(spacing=(0.7, 0.3), noise=True), {"ending": ".nii.gz"}, ".nii.gz", 1),
    "volume": (sample(space=VOLUME, spacing=(8.0, 1.5, 1.25), noise=True), {}, ".nii.gz", 1),
    "volume of one slice": (sample(space=(1, 8, 9), noise=True), {}, ".nii.gz", 1),
    "two-channel volume": (sample(2, VOLUME, (8.0, 0.7, 0.7)), {"channels": ("T1", "T2")}, ".nii.gz", 2),
    "TIFF volume": (sample(space=VOLUME, spacing=(8.0, 1.5, 1.25)), {"ending": ".tif"}, ".tif", 1),
    "TIFF volume of one slice": (sample(space=(1, 8, 9)), {"ending": ".tif"}, ".tif", 1),
    "TIFF volume, 3 columns": (sample(space=(4, 8, 3)), {"ending": ".tif"}, ".tif", 1),
    "two-channel TIFF volume": (sample(channels=2, space=VOLUME), {"ending": ".tif"}, ".tif", 2),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_is_saved_comes_back(name: str, tmp_path: Path) -> None:
    saved, kwargs, ending, files = ROUND_TRIPS[name]
    save_dataset(tmp_path / "D", [saved], CLASSES, **kwargs)
    loaded = load_dataset(tmp_path / "D")
    assert (loaded.ending, loaded.sparse, loaded.classes) == (ending, True, CLASSES)
    assert len(loaded.channels) == len(saved.image)
    assert len(find_cases(tmp_path / "D/imagesTr")["case"]) == files
    [back] = loaded.samples
    assert back.image.dtype == np.float32 and back.target.dtype == np.uint8
    np.testing.assert_array_equal(back.image, saved.image)
    np.testing.assert_array_equal(back.target, saved.target)
    assert back.spacing == saved.spacing and back.name == "case"


def test_dataset_json_is_what_nnunet_expects(tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(channels=3, name="a"), sample(channels=3, name="b")], CLASSES)
    assert json.loads((tmp_path / "dataset.json").read_text()) == {
        "channel_names": {"0": "R", "1": "G", "2": "B"},
        "labels": {"background": 0, "RV": 1, "LV": 2, "ignore": 3},
        "numTraining": 2,
        "file_ending": ".png",
    }
    labels, _ = read_labels(tmp_path / "labelsTr/a.png")
    assert labels[0, 0] == 3 and labels[2, 1] == 1  # ignore is the highest id
    assert (tmp_path / "imagesTr/a_0000.png").is_file()


def test_the_order_of_the_table_is_that_of_the_ids(tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    edit_header(folder, labels={"ignore": 3, "LV": 1, "background": 0, "RV": 2})
    assert load_dataset(folder).classes == ("background", "LV", "RV")


def test_a_dense_dataset_has_no_ignore(tmp_path: Path) -> None:
    dense = Sample(sample().image, np.arange(72, dtype=np.uint8).reshape(8, 9) % 3, (1.0, 1.0), "a")
    save_dataset(tmp_path / "D", [dense], CLASSES, sparse=False)
    loaded = load_dataset(tmp_path / "D")
    assert not loaded.sparse
    np.testing.assert_array_equal(loaded.samples[0].target, dense.target)
    with pytest.raises(ValueError, match="sparse=True"):
        save_dataset(tmp_path / "E", [sample()], CLASSES, sparse=False)


def test_nifti_axes_are_transposed_and_the_affine_kept(tmp_path: Path) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(np.int16)  # (x, y, z)
    affine = np.array([[0.0, 2, 0, 5], [-1.5, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])  # rotated: never reoriented
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a_0000.nii.gz")
    image, spacing = read_image([tmp_path / "a_0000.nii.gz"])
    assert image.shape == (1, 4, 3, 2) and spacing == (3.0, 2.0, 1.5)
    assert image[0, 3, 2, 1] == array[1, 2, 3]
    write_labels(tmp_path / "a.nii.gz", np.ones((4, 3, 2), np.int64), tmp_path / "a_0000.nii.gz")
    written = nibabel.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(written.affine, affine)
    assert written.get_data_dtype() == np.uint8 and written.shape == (2, 3, 4)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\)"):
        write_labels(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.uint8), tmp_path / "a_0000.nii.gz")


@pytest.mark.parametrize("name", ["grey PNG", "RGB PNG", "picture with spacing", "2-D NIfTI", "volume", "TIFF volume"])
def test_labels_are_written_on_the_grid_of_the_image(name: str, tmp_path: Path) -> None:
    saved, kwargs, ending, _ = ROUND_TRIPS[name]
    save_dataset(tmp_path / "D", [saved], CLASSES, **kwargs)
    like = find_cases(tmp_path / "D/imagesTr")["case"][0]
    ids = saved.target % 3
    write_labels(tmp_path / f"case{ending}", ids, like)
    labels, spacing = read_labels(tmp_path / f"case{ending}")
    np.testing.assert_array_equal(labels, ids)
    assert labels.dtype == np.uint8 and spacing == saved.spacing
    with pytest.raises(ValueError, match=r"0\.\.255"):
        write_labels(tmp_path / f"b{ending}", ids.astype(int) + 300, like)


def test_labels_that_cannot_be_written_leave_the_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_dataset(tmp_path / "D", [sample()], CLASSES)
    like, file = tmp_path / "D/imagesTr/case_0000.png", tmp_path / "case.png"
    write_labels(file, np.ones((8, 9), np.uint8), like)

    def full_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as stream:
            stream.write(content[:20])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_labels(file, np.zeros((8, 9), np.uint8), like)
    assert (read_labels(file)[0] == 1).all()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["D", "case.png"]


def test_labels_may_lie_beside_their_tiff(tmp_path: Path) -> None:
    save_dataset(tmp_path / "D", [sample(spacing=(0.5, 0.25))], CLASSES)
    like = tmp_path / "D/imagesTr/case_0000.tif"
    write_labels(like.with_name("case.tif"), np.ones((8, 9), np.uint8), like)  # the two share case.json
    assert read_labels(like.with_name("case.tif"))[1] == read_image([like])[1] == (0.5, 0.25)


def test_a_samples_last_tiff_is_rgb_and_a_constant_alpha_is_dropped(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 4), np.uint8)
    picture[..., 3] = 255
    tifffile.imwrite(tmp_path / "a_0000.tif", picture[..., :3], photometric="rgb")
    tifffile.imwrite(tmp_path / "b_0000.tif", picture, photometric="rgb", extrasamples=["unassalpha"])
    Image.fromarray(picture).save(tmp_path / "c_0000.png")
    for name in ("a_0000.tif", "b_0000.tif", "c_0000.png"):
        image, spacing = read_image([tmp_path / name])
        np.testing.assert_array_equal(image, np.moveaxis(picture[..., :3], -1, 0))
        assert spacing == (1.0, 1.0)
    picture[0, 0, 3] = 7
    Image.fromarray(picture).save(tmp_path / "d_0000.png")
    with pytest.raises(ValueError, match=r"d_0000\.png has transparency that varies \(7 to 255\); flatten"):
        read_image([tmp_path / "d_0000.png"])


def test_the_palette_of_a_label_file_is_only_its_colours(tmp_path: Path) -> None:
    ids = np.arange(6, dtype=np.uint8).reshape(2, 3) % 3
    picture = Image.fromarray(ids).convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    picture.putdata(ids.ravel().tolist())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png")[0], ids)
    assert read_image([tmp_path / "a.png"])[0][:, 0, 1].tolist() == [200, 0, 0]


def test_names_are_split_at_the_known_endings() -> None:
    assert strip_ending(Path("x/patient030.nii.gz")) == ("patient030", ".nii.gz")
    assert strip_ending(Path("v1.2.tif")) == ("v1.2", ".tif")
    with pytest.raises(ValueError, match=r"a\.jpg: unknown file ending; use \.nii\.gz"):
        strip_ending(Path("a.jpg"))


def test_real_strokes_load(tmp_path: Path) -> None:
    tool, volumes = DATA.parent / "tools/make_dataset.py", sorted(DATA.glob("acdc/**/patient*.npz"))
    if not tool.is_file() or not volumes:
        pytest.skip(f"no real images: {DATA} or {tool} is absent (set SCRIBBLEMAMBA_DATA)")
    subprocess.run([sys.executable, tool, tmp_path / "D", volumes[0], "--slices", "3"], check=True)
    loaded = load_dataset(tmp_path / "D")
    truth = np.load(volumes[0])
    assert loaded.classes == ("background", "RV", "MYO", "LV") and loaded.sparse
    np.testing.assert_array_equal(loaded.samples[0].image[0], truth["image"])
    assert loaded.samples[0].spacing == pytest.approx(truth["spacing_zyx_mm"].tolist())
    drawn = (loaded.samples[0].target != IGNORE).any(axis=(1, 2))
    assert drawn.sum() == 3


# ------------------------------------------------------------------------------------------------------ saving, refused


def test_nothing_is_overwritten_and_nothing_half_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    with pytest.raises(ValueError, match="D exists and is not empty; choose a new folder"):
        dataset_on_disk(folder)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer.dataset.write_header", full_disk)
    with pytest.raises(OSError, match="No space left"):
        dataset_on_disk(tmp_path / "E")
    assert [f.name for f in tmp_path.iterdir()] == ["D"]


@pytest.mark.parametrize(
    ("change", "kwargs", "words"),
    [
        ({"noise": True}, {"ending": ".png"}, "a PNG cannot hold 'case'"),
        ({"space": VOLUME}, {"ending": ".png"}, "a PNG cannot hold 'case' (3-D"),
        ({}, {"ending": ".jpg"}, "cannot write '.jpg' files"),
        ({}, {"channels": ("a", "b")}, "2 channel names"),
        ({"spacing": (1.0,)}, {}, "do not fit"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(change: dict, kwargs: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        save_dataset(tmp_path / "D", [sample(**change)], CLASSES, **kwargs)
    assert not (tmp_path / "D").exists()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("background",), "2 to 255 classes"),
        (("tissue", "RV", "LV"), "class 0 must be called 'background'"),
        (("background", "RV", "RV"), "class names must differ"),
        (("background", "RV", "ignore"), "'ignore' is reserved"),
        (("background", "RV"), "ids [2], but there are 2 classes"),
    ],
)
def test_a_bad_table_of_classes_is_refused(classes: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        save_dataset(tmp_path / "D", [sample()], classes)


def test_names_become_safe_file_names(tmp_path: Path) -> None:
    save_dataset(tmp_path / "D", [sample(name="../heart [1]"), sample(name="")], CLASSES)
    assert [s.name for s in load_dataset(tmp_path / "D").samples] == ["_heart__1_", "case001"]
    with pytest.raises(ValueError, match="several samples would be called A, a"):
        save_dataset(tmp_path / "E", [sample(name="a"), sample(name="A")], CLASSES)
    with pytest.raises(ValueError, match="no samples"):
        save_dataset(tmp_path / "E", [], CLASSES)


def test_a_spacing_that_png_loses_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_dataset(tmp_path / "D", [sample(spacing=(0.5, 0.5))], CLASSES, ending=".png")
    assert "PNG has no spacing" in caplog.text


# ----------------------------------------------------------------------------------------------------- loading, refused


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    refuses(tmp_path / "nowhere", "nowhere is not a folder", error=FileNotFoundError)
    (folder / "labelsTr/b.png").rename(tmp_path / "b.png")
    refuses(folder, "labelsTr/b.png is missing", "label the image or remove it", error=FileNotFoundError)
    (tmp_path / "b.png").rename(folder / "labelsTr/c.png")
    (folder / "imagesTr/b_0000.png").unlink()
    refuses(folder, "labelsTr/c.png has no image", error=FileNotFoundError)
    (folder / "imagesTr/a_0000.png").unlink()
    refuses(folder, "no images in", "CASE_0000.png", error=FileNotFoundError)
    (folder / "imagesTr").rmdir()
    refuses(folder, "imagesTr is not a folder", error=FileNotFoundError)
    (folder / "dataset.json").unlink()
    refuses(folder, "dataset.json is missing", error=FileNotFoundError)


def test_missing_channels_are_named(tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(channels=2, name="a")], CLASSES)
    (tmp_path / "imagesTr/a_0001.png").rename(tmp_path / "imagesTr/a_0002.png")
    refuses(tmp_path, "a_0001.png is missing, but there is a_0002.png", error=FileNotFoundError)
    (tmp_path / "imagesTr/a_0002.png").unlink()
    refuses(tmp_path, "a_0001.png is missing: dataset.json names 2 channels", error=FileNotFoundError)
    (tmp_path / "imagesTr/a_0000.png").rename(tmp_path / "imagesTr/a.png")
    refuses(tmp_path, "a.png does not say its channel; rename it to a_0000.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "RV": [1, 2], "LV": 2}}, "'RV' is a list; region-based labels are not supported"),
        ({"labels": {"0": "background", "1": "RV"}}, "labels maps name to id in nnU-Net v2"),
        ({"labels": {"background": 0, "RV": 1, "LV": 3, "ignore": 4}}, "without gaps"),
        ({"labels": {"background": 0, "RV": 1, "LV": 1, "ignore": 2}}, "without gaps"),
        ({"labels": {"background": 0, "ignore": 1, "RV": 2, "LV": 3}}, "'ignore' must have the highest id"),
        ({"labels": {"background": 0, "ignore": 1}}, "has only one class"),
        ({"labels": ["background", "RV"]}, "labels is ['background', 'RV']; write"),
        ({"channel_names": {"1": "MRI"}}, "channel_names is {'1': 'MRI'}"),
        ({"channel_names": ["MRI"]}, "channel_names is ['MRI']"),
        ({"channel_names": {"0": "R", "1": "G", "2": "B"}}, "a_0001.png is missing"),
        ({"file_ending": ".mha"}, "file_ending '.mha' is not supported"),
    ],
)
def test_a_bad_dataset_json_is_refused(changes: dict, words: str, tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    edit_header(folder, **changes)
    refuses(folder, words, error=(ValueError, FileNotFoundError))


def test_a_dataset_json_that_is_no_table_is_refused(tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    (folder / "dataset.json").write_text("{'labels': ")
    refuses(folder, "dataset.json is not valid JSON")
    (folder / "dataset.json").write_text("[]")
    refuses(folder, "dataset.json holds a list")
    (folder / "dataset.json").write_text('{"modality": {"0": "MRI"}, "labels": {}}')
    refuses(folder, "lacks channel_names, file_ending")


def test_a_wrong_numtraining_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    edit_header(folder, numTraining=3)
    assert len(load_dataset(folder).samples) == 2
    assert "numTraining is 3, but imagesTr has 2 cases" in caplog.text


def test_image_and_label_must_share_a_grid(tmp_path: Path) -> None:
    volume = sample(space=VOLUME, spacing=(8.0, 1.5, 1.5), name="a")
    save_dataset(tmp_path, [volume], CLASSES)
    label = tmp_path / "labelsTr/a.nii.gz"
    ids = read_labels(label)[0].astype(np.uint8).transpose()
    nibabel.save(nibabel.Nifti1Image(ids, np.diag([1.5005, 1.5, 8, 1])), label)  # rounded header: fine
    assert load_dataset(tmp_path).samples[0].spacing == (8.0, 1.5, 1.5)
    nibabel.save(nibabel.Nifti1Image(ids, np.diag([1.6, 1.5, 8, 1])), label)
    refuses(tmp_path, "a.nii.gz has spacing (8.0, 1.5, 1.6)", "a_0000.nii.gz has (8.0, 1.5, 1.5)")
    nibabel.save(nibabel.Nifti1Image(ids[:-1], np.diag([1.5, 1.5, 8, 1])), label)
    refuses(tmp_path, "a.nii.gz has shape (3, 8, 8)", "has (3, 8, 9)")


def test_a_flipped_label_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_dataset(tmp_path, [sample(space=VOLUME, name="a")], CLASSES)
    load_dataset(tmp_path)
    assert caplog.text == ""
    ids = read_labels(tmp_path / "labelsTr/a.nii.gz")[0].transpose()
    nibabel.save(nibabel.Nifti1Image(ids, np.diag([-1.0, 1, 1, 1])), tmp_path / "labelsTr/a.nii.gz")
    load_dataset(tmp_path)
    assert "differ in origin or direction" in caplog.text


def test_shapes_must_agree_to_the_pixel(tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(space=(8, 3000))], CLASSES)
    Image.fromarray(np.zeros((8, 3001), np.uint8)).save(tmp_path / "labelsTr/case.png")
    refuses(tmp_path, "case.png has shape (8, 3001)")


def test_channel_files_must_share_a_grid(tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(channels=2)], CLASSES)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "imagesTr/case_0001.png")
    refuses(tmp_path, "case_0001.png has shape (5, 5)", "case_0000.png has (8, 9)")


def test_the_spacing_of_a_tiff_is_checked(tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(space=VOLUME, spacing=(8.0, 1.5, 1.5), name="a")], CLASSES, ending=".tif")
    (tmp_path / "labelsTr/a.json").unlink()
    refuses(tmp_path, "labelsTr/a.tif has spacing (1.0, 1.0, 1.0)")
    (tmp_path / "imagesTr/a.json").write_text('{"spacing": [8, 1.5]}')
    refuses(tmp_path, "spacing (8.0, 1.5) for shape (3, 8, 9)")
    (tmp_path / "imagesTr/a.json").write_text('{"spacing": [8, 1.5, 0]}')
    refuses(tmp_path, "give one positive number an axis")
    (tmp_path / "imagesTr/a.json").write_text('{"spacing": "8"}')
    refuses(tmp_path, "a.json has \"spacing\" '8'")
    (tmp_path / "imagesTr/a.json").unlink()
    assert load_dataset(tmp_path).samples[0].spacing == (1.0, 1.0, 1.0)


def test_label_values_must_be_in_the_table(tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    ids = np.full((8, 9), 3, np.uint8)
    ids[0, :4] = 0, 1, 2, 7
    Image.fromarray(ids).save(folder / "labelsTr/a.png")
    refuses(folder, "a.png has label values [7]", "only 0 background, 1 RV, 2 LV, 3 ignore")
    edit_header(folder, labels={"background": 0, "RV": 1, "LV": 2})
    refuses(folder, "a.png has label values [3, 7]", "only 0 background, 1 RV, 2 LV;")
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(folder / "labelsTr/a.png")
    refuses(folder, "a.png has 3 channels")


def test_label_values_must_be_integers(tmp_path: Path) -> None:
    for value, fine in ((1.0, True), (0.5, False), (np.nan, False)):
        tifffile.imwrite(tmp_path / "a.tif", np.full((4, 5), value, np.float32))
        if fine:
            assert (read_labels(tmp_path / "a.tif")[0] == 1).all()
        else:
            with pytest.raises(ValueError, match=r"a\.tif has values that are no integers"):
                read_labels(tmp_path / "a.tif")


def test_every_class_needs_a_stroke_somewhere(tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    nothing, no_rv = np.full((8, 9), 3, np.uint8), read_labels(folder / "labelsTr/a.png")[0].copy()
    no_rv[no_rv == 1] = 3
    Image.fromarray(nothing).save(folder / "labelsTr/b.png")
    assert (load_dataset(folder).samples[1].target == IGNORE).all()  # one case without strokes is fine
    Image.fromarray(no_rv).save(folder / "labelsTr/a.png")
    refuses(folder, "no scribbles for class 1 (RV) in any image; paint a stroke or remove the class")
    Image.fromarray(nothing).save(folder / "labelsTr/a.png")
    refuses(folder, "no scribbles on any of 2 images")


def test_strokes_of_samples_in_memory_are_checked() -> None:
    check_strokes([sample()], CLASSES)
    with pytest.raises(ValueError, match=r"only one class \(background\)"):
        check_strokes([sample()], ("background",))
    with pytest.raises(ValueError, match=r"'case' has strokes of class \[2\], but there are 2 classes"):
        check_strokes([sample()], CLASSES[:2])
    with pytest.raises(ValueError, match=r"no scribbles for class 3 \(MYO\) in any image"):
        check_strokes([sample()], (*CLASSES, "MYO"))


def test_nan_and_constant_images_are_refused(tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(noise=True)], CLASSES)
    file = tmp_path / "imagesTr/case_0000.tif"
    image = read_image([file])[0][0]
    image[2, 3] = np.nan
    tifffile.imwrite(file, image)
    refuses(tmp_path, "case_0000.tif has NaN or infinity in 1 of 72 values")
    tifffile.imwrite(file, np.full((8, 9), 1e300))  # infinity in float32
    refuses(tmp_path, "case_0000.tif has NaN or infinity in 72 of 72 values")
    tifffile.imwrite(file, np.full((8, 9), 7, np.uint8))
    refuses(tmp_path, "case_0000.tif is constant, every pixel is 7")
    check_image(np.stack([image[:2], np.zeros_like(image[:2])]), "one channel is empty, the other not")
    with pytest.raises(ValueError, match="x is empty"):
        check_image(np.zeros((1, 0, 4)), "x")
    with pytest.raises(ValueError, match="x is a line of pixels"):
        check_image(np.arange(300.0)[None, None], "x")


@pytest.mark.parametrize("ending", [".nii.gz", ".png", ".tif"])
@pytest.mark.parametrize("part", ["imagesTr/case_0000", "labelsTr/case"])
def test_broken_files_are_named(ending: str, part: str, tmp_path: Path) -> None:
    save_dataset(tmp_path, [sample(space=(40, 50))], CLASSES, ending=ending)
    file = tmp_path / f"{part}{ending}"
    content = file.read_bytes()
    for broken in (content[: len(content) // 2], content[:20], b"", b"this is not an image at all"):
        file.write_bytes(broken)
        refuses(tmp_path, str(file), "truncated or corrupt")


@pytest.mark.parametrize("kind", [{"compression": "zlib"}, {"imagej": True}, {"ome": True}], ids=str)
def test_a_truncated_tiff_stack_does_not_pass_for_its_first_slice(kind: dict, tmp_path: Path) -> None:
    file = tmp_path / "a_0000.tif"
    stack = np.random.default_rng(0).integers(0, 256, (9, 40, 50), np.uint8)
    tifffile.imwrite(file, stack, metadata={"axes": "ZYX"}, photometric="minisblack", **kind)
    np.testing.assert_array_equal(read_image([file])[0][0], stack)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match=r"a_0000\.tif cannot be read"):
        read_image([file])


def test_the_channels_of_a_microscope_come_first(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (5, 2, 8, 9), np.uint8)  # z, channel, y, x
    tifffile.imwrite(tmp_path / "a_0000.tif", stack, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read_image([tmp_path / "a_0000.tif"])[0], stack.transpose(1, 0, 2, 3))


def test_kinds_that_cannot_be_read_in_full_are_refused(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match=r"a\.nii\.gz has 4 axes \(2, 6, 5, 4\); save 2-D or 3-D, a file a channel"):
        read_labels(tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.complex64), np.eye(4)), tmp_path / "b_0000.nii.gz")
    with pytest.raises(ValueError, match=r"b_0000\.nii\.gz holds values of type complex64"):
        read_image([tmp_path / "b_0000.nii.gz"])
    with tifffile.TiffWriter(tmp_path / "c_0000.tif") as tiff:
        tiff.write(np.zeros((4, 5), np.uint8), metadata=None)
        tiff.write(np.zeros((9, 9), np.uint16), metadata=None)
    with pytest.raises(ValueError, match=r"c_0000\.tif holds 2 images of different kinds"):
        read_image([tmp_path / "c_0000.tif"])
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).convert("P").save(tmp_path / "e_0000.tif")
    with pytest.raises(ValueError, match=r"e_0000\.tif is a palette TIFF"):
        read_image([tmp_path / "e_0000.tif"])
    (tmp_path / "d_0000.png").write_bytes(PNG_OF_16_BIT_COLOUR)
    with pytest.raises(ValueError, match=r"d_0000\.png is a 16-bit colour PNG"):
        read_image([tmp_path / "d_0000.png"])


def png_of_16_bit_colour() -> bytes:
    """One pixel, (1, 2, 3) of 65535: Pillow cannot write such a file."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(struct.pack(">B3H", 0, 1, 2, 3))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


PNG_OF_16_BIT_COLOUR = png_of_16_bit_colour()


def test_images_of_different_kinds_are_refused(tmp_path: Path) -> None:
    folder = dataset_on_disk(tmp_path / "D")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)).save(folder / "imagesTr/b_0000.png")
    refuses(folder, "b_0000.png", "have 3 channels", "has 1: ('image',)")
    with pytest.raises(ValueError, match=r"mixes 2-D \('case'\) and 3-D \('v'\) images"):
        save_dataset(tmp_path / "E", [sample(), sample(space=VOLUME, name="v")], CLASSES)
    with pytest.raises(ValueError, match=r"mixes 1 channels \('case'\) and 2 \('c'\)"):
        save_dataset(tmp_path / "E", [sample(), sample(channels=2, name="c")], CLASSES)
    save_dataset(tmp_path / "E", [sample(noise=True, name="a"), sample(noise=True, name="b")], CLASSES)
    volume = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
    for part in ("imagesTr/b_0000.tif", "labelsTr/b.tif"):
        tifffile.imwrite(tmp_path / "E" / part, volume, photometric="minisblack")
        (tmp_path / "E" / part).with_name("b.json").unlink()
    refuses(tmp_path / "E", "mixes 2-D ('a') and 3-D ('b') images")


def test_a_folder_of_mixed_files_is_refused(tmp_path: Path) -> None:
    for name in ("a_0000.png", "b_0000.tif", ".hidden_0000.png", "a.json", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"mixes \.png and \.tif files"):
        find_cases(tmp_path)
    assert find_cases(tmp_path, ".png") == {"a": [tmp_path / "a_0000.png"]}


def test_a_stack_of_three_slices_tagged_as_colour_is_a_stack_where_a_spacing_says_so(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 200, (3, 20, 30)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "case_0000.tif", stack, photometric="rgb", planarconfig="separate")
    assert read_image([tmp_path / "case_0000.tif"])[0].shape == (3, 20, 30)
    (tmp_path / "case.json").write_text('{"spacing": [8, 1.5, 1.25]}')
    image, spacing = read_image([tmp_path / "case_0000.tif"])
    assert image.shape == (1, 3, 20, 30) and spacing == (8, 1.5, 1.25)
