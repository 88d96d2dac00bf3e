"""Strokes of other programs: what was painted there is painted here, the background first."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from napari.layers import Image
from PIL import Image as Picture

from napari_scribblemamba import _foreign
from napari_scribblemamba._notes import KEY

RED, GREEN, NOTHING = (255, 0, 0, 180), (0, 255, 0, 180), (0, 0, 0, 0)


def ilp(file: Path, axes: str, shape: tuple[int, ...], blocks: dict[str, np.ndarray], names: list[str]) -> Path:
    """An ilastik project of one image with these blocks of strokes, by their place."""
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(file, "w") as project:
        lane = project.create_group("Input Data/infos/lane0000/Raw Data")
        lane["shape"], lane["nickname"] = shape, "cells"
        lane["axistags"] = json.dumps({"axes": [{"key": axis} for axis in axes]})
        project["PixelClassification/LabelNames"] = [name.encode() for name in names]
        group = project.create_group("PixelClassification/LabelSets/labels000")
        for i, (place, block) in enumerate(blocks.items()):
            group[f"block{i:04}"] = block
            group[f"block{i:04}"].attrs["blockSlice"] = place
    return file


def rootpainter(file: Path, *colours: tuple[int, ...]) -> Path:
    Picture.fromarray(np.array([colours], np.uint8)).save(file)  # one row
    return file


# ilastik ------------------------------------------------------------------------------------------------------------


def test_blocks_of_an_rgb_picture_are_put_in_their_places(tmp_path: Path) -> None:
    blocks = {"[0:1,0:2,0:1]": np.uint8([[[1], [2]]]), "[2:3,3:4,0:1]": np.uint8([[[2]]])}
    [strokes] = _foreign.read_ilastik(ilp(tmp_path / "a.ilp", "yxc", (3, 4, 3), blocks, ["background", "cell"]))
    assert strokes.labels.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]]
    assert (strokes.name, strokes.classes) == ("cells", ("background", "cell"))


def test_a_stack_in_another_order_of_axes_is_turned(tmp_path: Path) -> None:
    block = np.zeros((4, 3, 2), np.uint8)  # (x, y, z), without a channel
    block[3, 1, 0] = 1
    file = ilp(tmp_path / "a.ilp", "xyz", (4, 3, 2), {"[0:4,0:3,0:2,0:1]": block[..., None]}, ["Background", "x"])
    [strokes] = _foreign.read_ilastik(file)
    assert strokes.labels.shape == (2, 3, 4)
    assert np.argwhere(strokes.labels).tolist() == [[0, 1, 3]]


def test_the_background_comes_first_wherever_it_stands(tmp_path: Path) -> None:
    block = {"[0:1,0:3,0:1]": np.uint8([[[1], [2], [3]]])}
    [strokes] = _foreign.read_ilastik(ilp(tmp_path / "a.ilp", "yxc", (1, 4, 1), block, ["nerve", "BG", "vessel"]))
    assert strokes.classes == ("background", "nerve", "vessel")
    assert strokes.labels.tolist() == [[2, 1, 3, 0]]


def test_where_no_class_is_the_background_none_is_taken_for_it(tmp_path: Path) -> None:
    block = {"[0:1,0:2,0:1]": np.uint8([[[1], [2]]])}
    [strokes] = _foreign.read_ilastik(ilp(tmp_path / "a.ilp", "yxc", (1, 4, 1), block, ["nerve", "vessel"]))
    assert strokes.classes == ("background", "nerve", "vessel")
    assert strokes.labels.tolist() == [[2, 3, 0, 0]]


def test_other_projects_and_damaged_blocks_say_so(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="needs h5py")
    with h5py.File(tmp_path / "tracking.ilp", "w") as project:
        project.create_group("ManualTracking")
    with pytest.raises(ValueError, match=r"has \['ManualTracking'\], no PixelClassification"):
        _foreign.read_ilastik(tmp_path / "tracking.ilp")
    with pytest.raises(ValueError, match="1 images and no strokes on them; draw in ilastik"):
        _foreign.read_ilastik(ilp(tmp_path / "empty.ilp", "yxc", (3, 4, 1), {}, []))
    outside = {"[0:1,3:5,0:1]": np.uint8([[[1], [1]]])}  # the picture is 4 wide
    with pytest.raises(ValueError, match=r"a block \(1, 2, 1\) of strokes does not fit on \(3, 4, 1\)"):
        _foreign.read_ilastik(ilp(tmp_path / "bad.ilp", "yxc", (3, 4, 1), outside, []))


# Convpaint, RootPainter ---------------------------------------------------------------------------------------------


def test_convpaint_begins_with_the_background_too(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "nuclei_annotations.tif", np.uint8([[0, 1, 3]]))
    [strokes] = _foreign.read_convpaint(tmp_path / "nuclei_annotations.tif")
    assert (strokes.name, strokes.labels.tolist()) == ("nuclei", [[0, 1, 3]])
    assert strokes.classes == ("background", "class 2", "class 3")
    tifffile.imwrite(tmp_path / "empty_annotations.tif", np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="no strokes, every pixel is 0"):
        _foreign.read_convpaint(tmp_path / "empty_annotations.tif")


def test_rootpainter_is_red_on_green(tmp_path: Path) -> None:
    [strokes] = _foreign.read_rootpainter(rootpainter(tmp_path / "field1.png", NOTHING, RED, GREEN, (255, 0, 0, 0)))
    assert strokes.labels.tolist() == [[0, 2, 1, 0]]  # the last one was erased
    assert strokes.classes == ("background", "foreground")


def test_a_picture_is_no_annotation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 pixels of other colours, as \(0, 0, 255, 255\)"):
        _foreign.read_rootpainter(rootpainter(tmp_path / "a.png", RED, (0, 0, 255, 255)))
    with pytest.raises(ValueError, match="is a RGB picture; RootPainter's annotations are RGBA"):
        _foreign.read_rootpainter(rootpainter(tmp_path / "b.png", (1, 2, 3)))
    with pytest.raises(ValueError, match="has no strokes"):
        _foreign.read_rootpainter(rootpainter(tmp_path / "c.png", NOTHING))
    (tmp_path / "d.png").write_bytes(b"PNG?")
    with pytest.raises(ValueError, match=r"d\.png cannot be read"):
        _foreign.read_rootpainter(tmp_path / "d.png")


# over an image ------------------------------------------------------------------------------------------------------


def test_imported_strokes_lie_on_their_image(tmp_path: Path) -> None:
    image = Image(np.zeros((1, 3)), name="field1", scale=(2, 0.5), translate=(7, 8), units="um")
    file = rootpainter(tmp_path / "field1.png", RED, GREEN, NOTHING)
    labels, settings, kind = _foreign.import_strokes(image, file, "RootPainter")
    assert (labels.tolist(), kind) == ([[2, 1, 0]], "labels")
    assert (tuple(settings["scale"]), tuple(settings["translate"])) == ((2, 0.5), (7, 8))
    assert settings["metadata"][KEY]["classes"] == ["background", "foreground"]
    other = Image(np.zeros((3, 3)), name="field2")
    with pytest.raises(ValueError, match=r"strokes on field1 \(1, 3\), but 'field2' is \(3, 3\)"):
        _foreign.import_strokes(other, file, "RootPainter")


def test_the_menu_opens_a_form_that_adds_the_strokes(make_napari_viewer: Callable, tmp_path: Path) -> None:
    viewer = make_napari_viewer()
    viewer.add_image(np.zeros((1, 3)), name="field1", scale=(2, 0.5))
    _, form = viewer.window.add_plugin_dock_widget("napari-scribblemamba", "Import strokes")
    form.file.value = rootpainter(tmp_path / "field1.png", RED, GREEN, NOTHING)
    form.program.value = "RootPainter"
    form()
    strokes = viewer.layers["strokes · field1"]
    assert strokes.data.tolist() == [[2, 1, 0]]
    assert tuple(strokes.scale) == (2, 0.5)
