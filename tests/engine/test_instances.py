"""Instances there and back, and F1, on images that one can count by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from trainer.dataset import load_dataset
from trainer.instances import CLASSES, f1, objects, to_boundary_classes, to_instances


def two_touching() -> np.ndarray:
    """(7, 10): object 1 on the left half, object 7 on the right, with background rows above and below."""
    ids = np.zeros((7, 10), np.uint16)
    ids[1:6, :5], ids[1:6, 5:] = 1, 7
    return ids


def test_classes_of_two_objects_that_touch():
    assert to_boundary_classes(two_touching()).tolist() == [
        [0] * 10,
        [2] * 10,
        [1, 1, 1, 1, 2, 2, 1, 1, 1, 1],  # no boundary at the border of the image
        [1, 1, 1, 1, 2, 2, 1, 1, 1, 1],
        [1, 1, 1, 1, 2, 2, 1, 1, 1, 1],
        [2] * 10,
        [0] * 10,
    ]


def test_a_thin_object_is_interior_as_a_whole():
    ids = np.zeros((5, 5), np.uint16)
    ids[2, 1:4] = 3
    assert (to_boundary_classes(ids) == (ids > 0)).all()


@pytest.mark.parametrize("as_probabilities", [False, True])
def test_touching_objects_come_back(as_probabilities):
    ids = two_touching()
    prediction = to_boundary_classes(ids)
    if as_probabilities:
        prediction = np.eye(3, dtype=np.float32)[prediction].transpose(2, 0, 1)
    found = to_instances(prediction)
    assert found.dtype == np.uint16
    assert (found == np.where(ids == 7, 2, ids)).all()


def test_volumes_come_back():
    ids = np.zeros((9, 9, 18), np.uint16)
    ids[1:8, 1:8, 1:9], ids[1:8, 1:8, 9:17] = 1, 2
    found = to_instances(to_boundary_classes(ids))
    assert (found == ids).all()
    assert f1(found, ids) == 1.0


def test_objects_at_a_corner_of_each_other_come_back():
    ids = np.zeros((10, 10, 10), np.uint16)
    ids[:5, :5, :5], ids[5:, 5:, 5:] = 1, 2
    assert (to_instances(to_boundary_classes(ids)) == ids).all()


def test_small_objects_and_lonely_boundaries_are_left_out():
    labels = np.zeros((3, 9), np.uint8)
    labels[1, :4], labels[1, 5], labels[1, 7:] = 1, 1, 2
    assert to_instances(labels)[1].tolist() == [1, 1, 1, 1, 0, 2, 0, 0, 0]
    assert to_instances(labels, smallest=2)[1].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_the_ridge_of_the_boundary_divides():
    """One row of two interiors; the boundary between them is surest at the fourth pixel, off the middle."""
    P = np.zeros((3, 1, 7))
    P[1, 0], P[2, 0] = [0.9, 0.4, 0.3, 0.1, 0.3, 0.3, 0.9], [0.1, 0.6, 0.6, 0.9, 0.7, 0.6, 0.1]
    found = to_instances(P)[0].tolist()
    assert found[:3] == [1, 1, 1] and found[4:] == [2, 2, 2]


def test_f1_counts():
    """Three true, three predicted: one exact, one with 3 of 4 pixels, one elsewhere: 2 * 2 / (3 + 3)."""
    true = np.array([[1, 1, 0, 2, 2, 2, 2, 0, 3, 3]])
    predicted = np.array([[5, 5, 0, 6, 6, 6, 0, 9, 0, 0]])
    assert f1(predicted, true) == pytest.approx(4 / 6)
    assert f1(predicted, true, iou=0.75) == pytest.approx(4 / 6)
    assert f1(predicted, true, iou=0.76) == pytest.approx(2 / 6)


def test_f1_pairs_each_object_once():
    """Two predicted halves of one true object, both of IoU 1/2: one is a pair, the other is one too many."""
    true, halves = np.array([[1, 1, 1, 1]]), np.array([[1, 1, 2, 2]])
    assert f1(halves, true) == pytest.approx(2 / 3)


def test_f1_takes_the_best_pairs():
    """At IoU 1/4, object 1 could pair with both true ones, object 2 with the first only: two pairs are possible."""
    true = np.array([[1, 1, 1, 1, 2, 2]])
    predicted = np.array([[2, 2, 1, 1, 1, 0]])
    assert f1(predicted, true, iou=0.25) == 1.0


def test_f1_of_nothing():
    none, one = np.zeros((2, 2), int), np.ones((2, 2), int)
    assert f1(none, none) is None
    assert f1(one, none) == f1(none, one) == 0.0
    assert f1(one, one) == 1.0


def test_errors():
    with pytest.raises(ValueError, match=r"\(3, \*space\), got \(2, 4, 4\)"):
        to_instances(np.zeros((2, 4, 4)))
    with pytest.raises(ValueError, match="labels must be 0, 1 or 2"):
        to_instances(np.full((4, 4), 3))
    with pytest.raises(ValueError, match="not of one shape"):
        f1(np.zeros((2, 2), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match=r"at most 1, got 1\.5"):
        f1(np.zeros((2, 2), int), np.zeros((2, 2), int), iou=1.5)


def test_a_dataset_of_numbered_objects_is_one_of_interiors_and_boundaries(tmp_path):
    numbers = np.zeros((6, 12), np.uint16)
    numbers[1:5, 1:6], numbers[1:5, 6:11] = 300, 7
    image = np.arange(72, dtype=np.uint8).reshape(6, 12)
    for name, array in (("imagesTr/a_0000.png", image), ("labelsTr/a.png", numbers)):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(array).save(tmp_path / name)
    header = {"task": "instances", "channel_names": {"0": "grey"}, "file_ending": ".png"}
    (tmp_path / "dataset.json").write_text(json.dumps(header))
    data = load_dataset(tmp_path)
    assert (data.classes, data.task, data.sparse) == (CLASSES, "segmentation", False)
    np.testing.assert_array_equal(data.samples[0].target, to_boundary_classes(numbers))
    np.testing.assert_array_equal(to_instances(data.samples[0].target) > 0, numbers > 0)


# ---- objects of probabilities


def blobs(*boxes: tuple[slice, slice]) -> np.ndarray:
    """(3, 20, 40) certain interior in the boxes, certain background elsewhere."""
    P = np.zeros((3, 20, 40), np.float32)
    P[0] = 1
    for box in boxes:
        P[(0, *box)], P[(1, *box)] = 0, 1
    return P


def test_a_weak_bridge_joins_no_objects() -> None:
    P = blobs(np.s_[4:14, 4:14], np.s_[4:14, 18:28])
    P[:, 8, 14:18] = [[0.0], [0.55], [0.45]]  # the most likely class is interior, but not surely
    assert to_instances(P).max() == 1 and objects(P).max() == 2


def test_what_is_small_among_large_ones_is_no_object() -> None:
    """Of 100, 100 and 9 voxels the last is less than LEAST; of 225 and 20 the last is less than a tenth."""
    assert objects(blobs(np.s_[4:14, 4:14], np.s_[4:14, 18:28], np.s_[16:19, 34:37])).max() == 2
    assert objects(blobs(np.s_[2:17, 2:17], np.s_[2:6, 30:35])).max() == 1
    assert objects(blobs(np.s_[2:6, 30:35])).max() == 1  # alone it is one


def test_nothing_is_no_object() -> None:
    assert objects(blobs()).max() == 0
