"""Objects and their table: numbers that one can count."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from napari.layers import Labels

from napari_scribblemamba._results import label_objects, object_table, write_table

CLASSES = np.array(
    [
        [1, 1, 0, 2],
        [0, 0, 0, 2],
        [2, 0, 1, 2],
    ]
)


def test_an_object_is_of_one_class_and_hangs_together_by_edges() -> None:
    assert label_objects(CLASSES).tolist() == [[1, 1, 0, 2], [0, 0, 0, 2], [3, 0, 4, 2]]


def test_small_objects_are_left_out_and_the_others_numbered_anew() -> None:
    assert label_objects(CLASSES[:, ::-1], minimum=2).tolist() == [[1, 0, 2, 2], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert label_objects(np.ones((2, 2), int), minimum=2).tolist() == [[1, 1], [1, 1]]


def test_an_area_is_in_square_millimetres_and_a_centroid_in_millimetres() -> None:
    table = object_table(label_objects(CLASSES), (2.0, 0.5), classes=CLASSES, names=("background", "cell", "nerve"))
    assert table["index"].tolist() == [1, 2, 3, 4]
    assert table["class"].tolist() == ["cell", "nerve", "nerve", "cell"]
    assert table["area (mm²)"].tolist() == [2, 3, 1, 1]  # 2 * .5 mm² a pixel
    assert table["centroid y (mm)"].tolist() == [0, 2, 4, 4]
    assert table["centroid x (mm)"].tolist() == [0.25, 1.5, 0, 1]


def test_a_volume_is_in_cubic_millimetres() -> None:
    objects = np.zeros((3, 4, 4), int)
    objects[1:, :2, :2] = 7  # 8 voxels
    table = object_table(objects, (5.0, 1.0, 0.5))
    assert table["index"].tolist() == [7]
    assert table["volume (mm³)"].tolist() == [20]
    assert [table[f"centroid {axis} (mm)"].tolist() for axis in "zyx"] == [[7.5], [0.5], [0.25]]


def test_pixels_are_called_pixels() -> None:
    assert list(object_table(np.ones((2, 2), int), (1, 1), unit="pixel"))[1:] == [
        "area (pixel²)",
        "centroid y (pixel)",
        "centroid x (pixel)",
    ]


def test_each_channel_has_its_mean_least_and_greatest_intensity() -> None:
    objects = np.array([[1, 1, 0, 2]])
    image = np.array([[[10, 20, 99, 5]], [[1, 1, 1, 8]]], np.float32)  # (2, 1, 4)
    table = object_table(objects, (1, 1), image, ("DAPI", "actin"))
    assert [table[f"{kind} DAPI"].tolist() for kind in ("mean", "min", "max")] == [[15, 5], [10, 5], [20, 5]]
    assert table["mean actin"].tolist() == [1, 8]
    assert object_table(objects, (1, 1), image[:1])["mean"].tolist() == [15, 5]
    assert object_table(objects, (1, 1), image)["mean channel 1"].tolist() == [1, 8]


def test_no_objects_are_an_empty_table() -> None:
    table = object_table(np.zeros((2, 2), int), (1, 1), np.zeros((1, 2, 2)), classes=np.zeros((2, 2), int))
    assert {len(column) for column in table.values()} == {0}


def test_napari_shows_the_row_of_the_object_under_the_cursor() -> None:
    layer = Labels(np.array([[7, 7, 0, 9]]))
    layer.features = object_table(layer.data, (1, 1))
    assert "area (mm²): 2" in layer.get_status((0, 0))["value"]
    assert "area (mm²): 1" in layer.get_status((0, 3))["value"]


def test_the_table_is_a_csv_for_spreadsheets(tmp_path: Path) -> None:
    write_table(tmp_path / "a.csv", object_table(np.array([[1, 0, 2]]), (2.0, 2.0)))
    lines = (tmp_path / "a.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines == ["index,area (mm²),centroid y (mm),centroid x (mm)", "1,4.0,0.0,0.0", "2,4.0,0.0,4.0"]


def test_what_does_not_fit_is_said() -> None:
    objects = np.ones((2, 3), int)
    with pytest.raises(ValueError, match=r"the image has shape \(3, 2\), the objects \(2, 3\)"):
        object_table(objects, (1, 1), np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match=r"spacing \(1,\); expected 2 or 3 axes, one for each"):
        object_table(objects, (1,))
    with pytest.raises(ValueError, match=r"1 channel names .* for 2 channels"):
        object_table(objects, (1, 1), np.zeros((2, 2, 3)), ("DAPI",))


def test_results_need_no_window() -> None:
    code = "import napari_scribblemamba._results, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"qtpy", "napari", "torch", "pandas"} & set(modules)
