"""A forest of looks, and what becomes of a crowd of which a few were drawn on."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage as ndi
from toys import disc, scribbled_disc

from trainer.annotator import painted, scribble_slices, spread
from trainer.appearance import Forest, drawn_pixels, features
from trainer.propagation import first_looks, propagate
from trainer.sample import IGNORE, Sample


def crowd(seed: int = 0) -> tuple[Sample, np.ndarray]:
    """Twenty-five bright discs in noise, and strokes in three of them and between them."""
    y, x = np.indices((100, 100))
    truth = (np.hypot(y % 20 - 10, x % 20 - 10) < 6).astype(np.uint8)
    target = np.full(truth.shape, IGNORE, np.uint8)
    for row, column in ((10, 10), (50, 50), (90, 30)):
        target[row, column - 3 : column + 4] = 1
    target[20, 5:40] = target[60, 40:75] = target[79, 60:95] = 0
    image = 100.0 * truth + np.random.default_rng(seed).normal(0, 10, truth.shape)
    return Sample(image[None].astype(np.float32), target, (1.0, 1.0), "crowd"), truth


def test_in_a_crowd_all_its_members_are_found() -> None:
    sample, truth = crowd()
    found = propagate(sample, 2).labels
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_one_stroke_in_a_crowd_and_several_around_it_are_enough() -> None:
    sample, truth = crowd()
    pieces, _ = ndi.label(sample.target == 1)
    few = dataclasses.replace(sample, target=np.where(pieces > 1, IGNORE, sample.target).astype(np.uint8))
    found = propagate(few, 2).labels
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_what_looks_alike_and_is_drawn_as_another_class_is_left_out() -> None:
    image, truth = disc(80, 12)
    image[5:12, 60:75] += 100  # a bright bar
    target = np.full(truth.shape, IGNORE, np.uint8)
    target[40, 34:46] = target[36, 36:44] = 1
    target[22, 20:60] = target[60, 20:60] = target[8, 62:73] = 0
    sample = Sample(image[None], target, (1.0, 1.0), "one")
    assert propagate(sample, 2).labels[5:12, 60:75].sum() == 0


def test_a_class_without_strokes_has_no_probability() -> None:
    image, strokes = disc()[0][None], scribbled_disc().target
    P = Forest([drawn_pixels(image, strokes)], 3)(image)
    assert P.shape == (3, 40, 40) and (P[2] == 0).all()
    np.testing.assert_allclose(P.sum(0), 1, rtol=1e-5)


def test_of_all_that_is_drawn_some_pixels_of_each_class_are_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a whole prediction was accepted; a short stroke is kept as it is."""
    monkeypatch.setattr("trainer.appearance.MOST", 50)
    image, truth = disc()
    strokes = np.where(truth, 1, 0).astype(np.uint8)
    strokes[0, :7] = 2
    looks, labels = drawn_pixels(image[None], strokes)
    assert np.bincount(labels).tolist() == [50, 50, 7] and len(looks) == 107
    rows = np.flatnonzero(np.isin(features(image[None]).reshape(1600, -1), looks[labels == 0]).all(1)) // 40
    assert rows.min() < 3 and rows.max() > 36  # from all over
    forest = Forest([(looks, labels)] * 3, 3)
    assert forest.trees.estimators_[0].tree_.n_node_samples[0] == 50 + 50 + 21
    assert (forest(image[None])[1] > 0.5).sum() == pytest.approx(truth.sum(), rel=0.05)


def test_large_images_keep_their_small_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.propagation.PIXELS", 2_000)  # a walk on so coarse a grid sees no disc of 6 pixels
    sample, truth = crowd()
    found = propagate(dataclasses.replace(sample), 2).labels
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9


def test_an_image_too_large_for_the_forest_is_seen_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.propagation.LOOKED_AT", 4_000)  # of 10000 pixels
    sample, truth = crowd()
    P, L = first_looks(sample.image[:, None], sample.target[None], 2)
    found = L[1, 0] > 0.5
    assert P.shape == L.shape and 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def spheres() -> np.ndarray:
    """Many small balls in a stack of flat slices, bool (7, 120, 120): few reach farther than three slices."""
    rng, grid = np.random.default_rng(0), np.indices((7, 120, 120))
    truth = np.zeros((7, 120, 120), bool)
    for _ in range(35):
        centre, radius = rng.uniform(0, (7, 120, 120)), rng.uniform(5, 9)
        truth |= (
            sum((scale * (axis - c)) ** 2 for axis, c, scale in zip(grid, centre, (3, 1, 1), strict=True)) < radius**2
        )
    return truth


@pytest.mark.parametrize("annotated", [1, 3])
def test_a_crowd_is_found_on_slices_that_nobody_drew_on(annotated: int) -> None:
    truth, rng = spheres(), np.random.default_rng(0)
    image = ndi.gaussian_filter(0.5 * truth + 0.2, (0.3, 1, 1)) + rng.normal(0, 0.05, truth.shape)
    strokes = scribble_slices(truth.astype(np.uint8), spread(truth, annotated), 3, rng)
    sample = Sample(image[None].astype(np.float32), painted(strokes, truth.shape), (1.0,) * 3, "balls")
    found = propagate(sample, 2).labels
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.75


def test_one_thing_is_followed_however_much_its_slices_look_alike() -> None:
    """Bright bars beside the disc are as bright as it is: by looks they would be of its class."""
    y, x = np.indices((60, 80))
    truth = np.stack([np.hypot(y - 25 - 2 * z, x - 30 - 2 * z) < 11 - z for z in range(5)])
    bright = truth | (x > 65)
    image = 100.0 * bright + np.random.default_rng(0).normal(0, 5, truth.shape)
    target = np.full(truth.shape, IGNORE, np.uint8)
    for z in (0, 4):
        target[z, 24 + 2 * z, 26 + 2 * z : 35 + 2 * z] = 1
        target[z, 5, 10:75] = target[z, 50, 10:75] = target[z, 10:50, 70] = 0
    found = propagate(Sample(image[None].astype(np.float32), target, (1.0,) * 3, "disc"), 2).labels
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
