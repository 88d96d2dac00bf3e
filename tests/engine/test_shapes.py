"""Generated images are what they promise: every class drawn, objects small and large, one seed one image."""

import numpy as np
import pytest
from scipy import ndimage as ndi

from trainer.sample import IGNORE
from trainer.shapes import MOST, consecutive, crowd, generate, polar, smooth_noise, strokes_on


@pytest.mark.parametrize("seed", range(12))
def test_an_image_has_its_range_its_classes_and_strokes_for_each(seed: int) -> None:
    drawn = generate(np.random.default_rng(seed), 64)
    assert drawn.image.shape == drawn.label.shape == drawn.strokes.shape == (64, 64)
    assert drawn.image.dtype == np.float32 and drawn.image.min() == 0 and drawn.image.max() == 1
    classes = np.arange(drawn.label.max() + 1)
    assert 2 <= len(classes) <= MOST + 1
    assert np.unique(drawn.label).tolist() == classes.tolist()
    assert np.unique(drawn.strokes).tolist() == [*classes, IGNORE]


@pytest.mark.parametrize("seed", range(12))
def test_strokes_are_right_and_leave_most_of_the_image_undrawn(seed: int) -> None:
    drawn = generate(np.random.default_rng(seed), 64)
    there = drawn.strokes != IGNORE
    assert (drawn.strokes[there] == drawn.label[there]).all()
    assert there.mean() < 0.5


def test_the_same_seed_gives_the_same_image_and_another_seed_another() -> None:
    first, again, other = (generate(np.random.default_rng(seed), 48) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.strokes, again.strokes)
    assert (first.image != other.image).any()


def test_of_a_crowd_only_some_members_carry_a_stroke() -> None:
    rng = np.random.default_rng(0)
    label = crowd(np.zeros((112, 112), np.uint8), rng)
    pieces, count = ndi.label(label > 0)
    assert count > 4
    strokes = strokes_on(np.minimum(label, 1), rng)
    assert 1 <= len(np.unique(pieces[strokes == 1])) < count


def test_objects_are_small_and_large() -> None:
    """Shares of the image, of the largest class beside the ground."""
    labels = [generate(np.random.default_rng(seed), 64).label for seed in range(30)]
    shares = [np.bincount(label.ravel())[1:].max() / label.size for label in labels]
    assert min(shares) < 0.03 and max(shares) > 0.3


def test_what_nobody_would_draw_is_ground() -> None:
    label = np.zeros((20, 20), np.uint8)
    label[3, :] = 1  # a line
    label[10:16, 4:10] = 4  # a square of 6 x 6
    label[10, 18] = 2  # a dot
    expected = np.zeros_like(label)
    expected[10:16, 4:10] = 1
    np.testing.assert_array_equal(consecutive(label), expected)


def test_a_wobbly_disc_is_about_as_large_as_its_radius_says() -> None:
    areas = [
        (polar(np.indices((80, 80)), np.array([40, 40]), 15, np.random.default_rng(s)) < 15).sum() for s in range(9)
    ]
    assert np.mean(areas) == pytest.approx(np.pi * 15**2, rel=0.2)


def test_smooth_noise_is_standardised_and_smoother_with_a_wider_sigma() -> None:
    fine, coarse = (smooth_noise(64, sigma, np.random.default_rng(0)) for sigma in (1, 6))
    for field in (fine, coarse):
        assert field.mean() == pytest.approx(0, abs=1e-9) and field.std() == pytest.approx(1)
    assert abs(np.diff(coarse)).mean() < 0.4 * abs(np.diff(fine)).mean()
