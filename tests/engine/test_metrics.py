"""Scores that can be worked out on paper, and surface distances against all pairs of voxels."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from trainer.metrics import METRICS, diagonal, mean_dice, scores, summarise, surface_distances

CLASSES = ("background", "object")


def score(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float = 2.0) -> dict:
    return scores(prediction.astype(np.uint8), reference.astype(np.uint8), spacing, CLASSES, tolerance)["object"]


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return field > np.quantile(field, 0.8)


def surface_by_hand(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Positions in mm (N, dims) of the voxels with a face neighbour outside the mask, or at the border of the array."""
    padded = np.pad(mask, 1)
    points = []
    for point in np.argwhere(padded):
        steps = np.concatenate([np.eye(mask.ndim, dtype=int), -np.eye(mask.ndim, dtype=int)])
        if not all(padded[tuple(point + step)] for step in steps):
            points.append((point - 1) * spacing)
    return np.array(points)


def test_two_cubes_one_voxel_apart() -> None:
    p, r = np.zeros((6, 5, 5)), np.zeros((6, 5, 5))
    p[1:4, 1:4, 1:4] = 1  # 27 voxels, 26 on the surface
    r[2:5, 1:4, 1:4] = 1  # one slice of 2 mm further: 18 voxels shared
    result = score(p, r, (2.0, 1.0, 1.0), tolerance=1.0)
    assert result["dice"] == pytest.approx(36 / 54)
    assert result["iou"] == pytest.approx(18 / 36)
    assert result["accuracy"] == pytest.approx(1 - 18 / 150)
    assert result["precision"] == result["sensitivity"] == pytest.approx(18 / 27)
    assert result["specificity"] == pytest.approx(1 - 9 / 123)
    # each side: 9 voxels are 2 mm away, one (the middle of the third slice) 1 mm, 16 lie on the other surface
    assert result["hd95"] == 2.0
    assert result["asd"] == pytest.approx(19 / 26)
    assert result["nsd"] == pytest.approx(17 / 26)
    assert score(p, r, (2.0, 1.0, 1.0), tolerance=2.0)["nsd"] == 1.0


def test_hd95_pools_both_directions_and_asd_averages_them() -> None:
    p, r = np.zeros((1, 4)), np.zeros((1, 4))
    p[0, 0] = r[0, 0] = r[0, 3] = 1  # d(P, R) = [0], d(R, P) = [0, 3]
    result = score(p, r, (1.0, 1.0))
    assert result["hd95"] == pytest.approx(2.7)  # of 0, 0, 3; the larger of the two percentiles would be 2.85
    assert result["asd"] == pytest.approx(0.75)  # of 0 and 1.5
    assert result["nsd"] == pytest.approx(2 / 3)
    assert score(p, r, (1.0, 10.0))["hd95"] == pytest.approx(27)  # mm, not pixels


@pytest.mark.parametrize(("shape", "spacing"), [((9, 17, 15), (3.0, 0.7, 1.1)), ((30, 25), (0.5, 2.0))])
def test_distances_equal_those_of_all_pairs(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    p, r = blobs(1, shape), blobs(2, shape)
    pairs = cdist(surface_by_hand(p, spacing), surface_by_hand(r, spacing))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    ours = surface_distances(p, r, spacing)
    np.testing.assert_allclose(np.sort(ours[0]), np.sort(there))
    np.testing.assert_allclose(np.sort(ours[1]), np.sort(back))
    result = score(p, r, spacing)
    assert result["hd95"] == pytest.approx(np.percentile([*there, *back], 95))
    assert result["asd"] == pytest.approx((there.mean() + back.mean()) / 2)


def test_nsd_is_monais() -> None:
    import torch
    from monai.metrics import compute_surface_dice
    from monai.networks.utils import one_hot

    p, r = blobs(3, (8, 20, 18)), blobs(4, (8, 20, 18))
    y, y_true = (one_hot(torch.tensor(m)[None, None].long(), 2) for m in (p, r))
    theirs = compute_surface_dice(y, y_true, [1.5], spacing=(2.0, 0.8, 0.9)).item()
    assert 0 < theirs < 1
    assert score(p, r, (2.0, 0.8, 0.9), tolerance=1.5)["nsd"] == pytest.approx(theirs)


def test_one_side_empty_is_the_worst_score() -> None:
    nothing, something = np.zeros((3, 4, 4)), np.zeros((3, 4, 4))
    something[1, 1:3, 1:3] = 1
    far = diagonal((3, 4, 4), (4.0, 1.0, 3.0))
    assert far == pytest.approx(np.sqrt(12**2 + 4**2 + 12**2))
    for p, r, specificity in ((nothing, something, 1.0), (something, nothing, 1 - 4 / 48)):
        result = score(p, r, (4.0, 1.0, 3.0))
        assert [result[m] for m in ("dice", "iou", "nsd", "precision", "sensitivity")] == [0] * 5
        assert result["hd95"] == result["asd"] == far
        assert result["accuracy"] == pytest.approx(1 - 4 / 48)
        assert result["specificity"] == pytest.approx(specificity)


def test_both_empty_is_left_out_and_counted() -> None:
    nothing, full = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    empty = scores(nothing, nothing, (1.0, 1.0), CLASSES)
    assert empty["object"] == dict.fromkeys(METRICS)
    assert empty["background"]["dice"] == 1.0
    assert empty["background"]["specificity"] is None  # no voxel that is not background
    summary = summarise([empty, scores(full, full, (1.0, 1.0), CLASSES)])
    assert summary["left_out"] == {"background": 1, "object": 1}
    assert summary["classes"]["object"]["dice"] == 1.0


def test_mean_dice_is_over_the_classes_that_either_has() -> None:
    truth = np.array([0, 1, 1, 0], np.uint8)
    assert mean_dice(truth, truth, (1, 2)) == 1.0  # class 2 is nowhere
    assert mean_dice(np.array([0, 1, 0, 2], np.uint8), truth, (1, 2)) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_dice(truth, truth, (2,)) is None


def test_a_perfect_prediction() -> None:
    mask = blobs(5, (6, 12, 12))
    result = score(mask, mask, (2.0, 1.0, 1.0), tolerance=0.0)
    assert result["hd95"] == result["asd"] == 0.0
    assert {result[m] for m in METRICS} == {0.0, 1.0}


def test_means_with_and_without_the_background() -> None:
    def case(**dice: float | None) -> dict:
        return {name: dict.fromkeys(METRICS, value) for name, value in dice.items()}

    summary = summarise([case(background=1.0, a=0.5, b=None), case(background=0.8, a=0.7, b=0.2)])
    assert summary["classes"]["a"]["dice"] == pytest.approx(0.6)
    assert summary["classes"]["b"]["dice"] == pytest.approx(0.2)
    assert summary["mean_foreground"]["dice"] == pytest.approx(0.4)  # of .6 and .2
    assert summary["mean_all"]["dice"] == pytest.approx((0.9 + 0.6 + 0.2) / 3)
    assert summary["left_out"] == {"background": 0, "a": 0, "b": 1}
    assert summarise([case(background=1.0, a=None)])["mean_foreground"]["dice"] is None


def test_classes_are_scored_one_by_one() -> None:
    reference = np.array([[0, 1, 1, 2, 2, 2]])
    prediction = np.array([[0, 1, 2, 2, 2, 0]])
    result = scores(prediction, reference, (1.0, 1.0), ("background", "a", "b"))
    assert [result[name]["dice"] for name in result] == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    assert result["a"]["precision"] == 1.0 and result["a"]["sensitivity"] == 0.5
    assert result["b"]["precision"] == result["b"]["sensitivity"] == pytest.approx(2 / 3)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"prediction \(2, 2\), reference \(2, 3\)"):
        scores(np.zeros((2, 2)), np.zeros((2, 3)), (1.0, 1.0), CLASSES)
    with pytest.raises(ValueError, match=r"spacing \(1.0,\) do not fit"):
        scores(np.zeros((2, 2)), np.zeros((2, 2)), (1.0,), CLASSES)
