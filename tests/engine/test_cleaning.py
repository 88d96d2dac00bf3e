"""Post-processing on label images small enough to read."""

import numpy as np
import pytest

from trainer.cleaning import Cleaning, clean

PICTURE = np.array(
    [
        [1, 1, 1, 0, 0, 2],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 2, 2],
        [0, 0, 0, 0, 2, 2],
        [1, 0, 0, 0, 0, 0],
    ],
    np.uint8,
)


def test_nothing_is_done_unless_asked():
    cleaned = clean(PICTURE, Cleaning())
    assert (cleaned == PICTURE).all()
    assert cleaned is not PICTURE


def test_the_largest_piece_of_each_class_stays():
    expected = PICTURE.copy()
    expected[4, 0] = expected[0, 5] = 0
    assert (clean(PICTURE, Cleaning(largest=True)) == expected).all()


def test_of_equal_pieces_the_first_stays():
    assert clean(np.array([[1, 0, 1]], np.uint8), Cleaning(largest=True)).tolist() == [[1, 0, 0]]


def test_pieces_hold_together_across_corners():
    diagonal = np.eye(4, dtype=np.uint8)
    assert (clean(diagonal, Cleaning(largest=True, minimum=4)) == diagonal).all()


def test_holes_get_the_class_around_them():
    expected = PICTURE.copy()
    expected[1, 1] = 1
    assert (clean(PICTURE, Cleaning(holes=True)) == expected).all()


def test_another_class_inside_is_no_hole():
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 2
    assert (clean(ring, Cleaning(holes=True)) == ring).all()


def test_what_was_removed_is_filled_as_a_hole():
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = 2
    assert (clean(ring, Cleaning(minimum=2, holes=True)) == 1).all()


def test_a_hole_between_two_classes_is_shared_by_distance():
    row = np.array([[1, 1, 1, 2, 2], [1, 0, 0, 0, 2], [1, 1, 1, 2, 2]], np.uint8)
    assert clean(row, Cleaning(holes=True), spacing=(10.0, 1.0))[1].tolist() in ([1, 1, 1, 2, 2], [1, 1, 2, 2, 2])


def test_the_minimum_is_in_pixels_or_in_mm():
    """The square of class 2 has four pixels; at 0.5 mm x 2 mm these are four mm², at 0.5 x 0.5 mm one."""
    for cleaning, spacing, stays in [
        (Cleaning(minimum=4), None, True),
        (Cleaning(minimum=5), None, False),
        (Cleaning(minimum=4), (0.5, 2.0), True),
        (Cleaning(minimum=1.5), (0.5, 0.5), False),
    ]:
        assert (clean(PICTURE, cleaning, spacing)[3, 4] == 2) == stays


def test_volumes():
    volume = np.zeros((6, 5, 5), np.uint8)
    volume[1:4, 1:4, 1:4] = 1
    volume[2, 2, 2] = 0  # enclosed along all axes
    volume[5, 0, 0] = 1  # a speck
    cleaned = clean(volume, Cleaning(largest=True, holes=True), (3.0, 1.0, 1.0))
    assert cleaned.dtype == np.uint8
    assert cleaned.sum() == 27 and cleaned[2, 2, 2] == 1 and cleaned[5, 0, 0] == 0


@pytest.mark.parametrize("labels", [np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8)])
def test_images_of_one_class_stay(labels):
    assert (clean(labels, Cleaning(minimum=2, largest=True, holes=True)) == labels).all()


def test_errors():
    with pytest.raises(ValueError, match="3 axes"):
        clean(PICTURE, Cleaning(largest=True), (1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="minimum must be 0 or more, got -1"):
        Cleaning(minimum=-1)
