"""What the places of strokes say of how many pieces a class has, on discs that are counted by hand."""

import numpy as np
import pytest
from scipy import ndimage as ndi

from trainer.pieces import accident, stroke_counts, without_others
from trainer.propagation import propagate
from trainer.sample import IGNORE, Sample

SURE = 0.9  # probability of the object on a disc, and of the ground beside


def discs(*places: tuple[int, int, float]) -> np.ndarray:
    """(60, 90) bool: each of a row, a column and a radius."""
    y, x = np.indices((60, 90))
    return np.any([np.hypot(y - row, x - column) <= radius for row, column, radius in places], 0)


def believed(mask: np.ndarray) -> np.ndarray:
    object_ = np.where(mask, SURE, 1 - SURE)
    return np.stack([1 - object_, object_])


def drawn_at(*places: tuple[int, int]) -> np.ndarray:
    """Strokes of five pixels of the object, from there to the right, and one of the ground."""
    strokes = np.full((60, 90), IGNORE, np.uint8)
    strokes[1, 2:80] = 0
    for row, column in places:
        strokes[row, column : column + 5] = 1
    return strokes


def told(mask: np.ndarray, strokes: np.ndarray) -> np.ndarray:
    return without_others(believed(mask), strokes, stroke_counts(strokes, (0, 1)))


SPLEEN, LIVER = (30, 15, 9.0), (30, 60, 24.0)


def test_three_strokes_in_one_organ_leave_a_larger_one_of_the_same_grey_to_the_ground() -> None:
    mask, strokes = discs(SPLEEN, LIVER), drawn_at((25, 13), (30, 13), (35, 13))
    P = told(mask, strokes)
    spleen, liver = discs(SPLEEN), discs(LIVER)
    assert (P[1, spleen] > 0.85).all() and (P[1, liver] < 0.3).all()
    np.testing.assert_allclose(P.sum(0), 1)
    sizes = [ndi.binary_erosion(organ).sum() for organ in (spleen, liver)]
    share = sizes[0] / sum(sizes)
    odds = SURE / (1 - SURE) * share**2
    np.testing.assert_allclose(P[1, 30, 60], odds / (1 + odds), rtol=1e-6)


@pytest.mark.parametrize("places", [[(30, 13)], [(30, 13), (30, 58)], [(25, 13), (30, 13), (30, 58)]])
def test_one_stroke_or_strokes_in_two_pieces_say_nothing(places: list[tuple[int, int]]) -> None:
    mask = discs(SPLEEN, LIVER)
    np.testing.assert_allclose(told(mask, drawn_at(*places)), believed(mask))


def test_two_dabs_in_one_of_a_crowd_leave_the_crowd() -> None:
    crowd = [(row, column, 6.0) for row in (12, 30, 48) for column in (10, 28, 46, 64, 82)]
    mask, strokes = discs(*crowd), drawn_at((28, 26), (32, 26))
    assert (told(mask, strokes).argmax(0) == mask).all()


def test_a_bridge_of_two_pixels_does_not_make_one_piece_of_two() -> None:
    mask, strokes = discs(SPLEEN, LIVER), drawn_at((25, 13), (30, 13), (35, 13))
    mask[30:32, 20:40] = True
    P = told(mask, strokes)
    assert (P[1, discs(LIVER)] < 0.3).all() and P[1, 30, 15] > 0.85


def test_the_order_of_the_classes_does_not_matter() -> None:
    mask, strokes = discs(SPLEEN, LIVER), drawn_at((25, 13), (30, 13))
    swapped = np.where(strokes == IGNORE, IGNORE, 1 - strokes)
    P = without_others(believed(mask)[::-1], swapped, stroke_counts(swapped, (0, 1)))
    np.testing.assert_allclose(P[::-1], told(mask, strokes))


def test_an_accident_is_as_likely_as_the_piece_is_large_or_has_its_like() -> None:
    assert accident(np.array([10]), 0) == 1
    assert accident(np.array([10, 90]), 0) == pytest.approx(0.1)  # nine times as large
    assert accident(np.array([10, 30]), 0) == 1  # all others are as large
    assert accident(np.array([10, 20, 70]), 0) == pytest.approx(2 / 9 + 7 / 9 * 0.1)


def test_what_is_spread_keeps_to_the_organ_that_was_drawn_on() -> None:
    mask = discs(SPLEEN, LIVER)
    image = (0.3 + 0.4 * mask + np.random.default_rng(0).normal(0, 0.02, mask.shape)).astype(np.float32)
    strokes = drawn_at((25, 13), (30, 13), (35, 13))
    strokes[20:40, 30] = 0
    labels = propagate(Sample(image[None], strokes, (1.0, 1.0), "abdomen"), 2).labels
    assert labels[discs(SPLEEN)].mean() > 0.9 and labels[discs(LIVER)].mean() < 0.1
