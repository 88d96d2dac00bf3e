"""Strokes become masks: on images whose answer one can see."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trainer.annotator import at, painted, scribble_slices, spread
from trainer.dataset import load_dataset
from trainer.formats import read_labels
from trainer.propagation import (
    Places,
    coarse_random_walk,
    crowding,
    judged,
    propagate,
    propagating,
    random_walk,
    shrunken_strokes,
    sources,
    with_strokes,
)
from trainer.sample import IGNORE, Sample


def disc(shape: tuple[int, int], centre: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.indices(shape)
    return np.hypot(y - centre[0], x - centre[1]) < radius


def strokes_on(mask: np.ndarray) -> np.ndarray:
    """A dab inside the disc, and a frame along the border of the image."""
    target = np.full(mask.shape, IGNORE, np.uint8)
    target[2, 2:-2] = target[-3, 2:-2] = target[2:-2, 2] = target[2:-2, -3] = 0
    y, x = np.argwhere(mask).mean(0).astype(int)
    target[y - 1 : y + 2, x - 1 : x + 2] = 1
    return target


def stack(depth: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc that drifts and shrinks from slice to slice, with a little noise."""
    truth = np.stack([disc((48, 56), (22 + z, 26 + z), 12 - z) for z in range(depth)])
    noise = np.random.default_rng(0).normal(0, 3, truth.shape)
    return (100 * truth + 20 + noise).astype(np.float32), truth


def sample(image: np.ndarray, target: np.ndarray) -> Sample:
    return Sample(image[None].astype(np.float32), target, (1.0,) * target.ndim, "disc")


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_a_dab_fills_its_disc() -> None:
    truth = disc((40, 40), (20, 20), 9)
    teacher = propagate(sample(truth * 50.0 + 1, strokes_on(truth)), 2)
    assert (teacher.labels == truth).mean() > 0.99
    assert teacher.confidence[20, 20] > 0.95


def test_strokes_keep_their_class_and_probabilities_sum_to_one() -> None:
    image, truth = stack(1)
    target = strokes_on(truth[0])
    teacher = propagate(sample(image[0], target), 2)
    drawn = target != IGNORE
    assert (teacher.labels[drawn] == target[drawn]).all()
    np.testing.assert_allclose(teacher.probabilities.astype(float).sum(0), 1, atol=2e-3)  # float16


def test_labels_travel_along_a_stack_and_trust_fades() -> None:
    image, truth = stack()
    target = np.full(truth.shape, IGNORE, np.uint8)
    target[0] = strokes_on(truth[0])
    teacher = propagate(sample(image, target), 2)
    assert all(overlap(teacher.labels[z] == 1, truth[z]) > 0.85 for z in range(7))
    trust = teacher.confidence.max((1, 2))
    assert trust[0] > 0.9 and (np.diff(trust[:4]) < 0).all()


def test_a_slice_that_is_drawn_poorly_hears_the_one_that_is_drawn_well() -> None:
    """Slice 0 is known, slice 3 only where it is drawn on: by the flow between them it is known, too."""
    image, truth = stack(4)
    target = np.full(truth.shape, IGNORE, np.uint8)
    target[0], target[3] = strokes_on(truth[0]), strokes_on(truth[3])
    P, weight = np.full((2, *truth.shape), 0.5, np.float32), np.zeros(truth.shape, np.float32)
    P[:, 0] = ~truth[0], truth[0]
    P[:, 3] = with_strokes(P[:, 3], target[3])
    P, weight = Places(image[None], target, 2).others(P, weight, lambda: False, [range(4)])
    assert all(overlap(P[1, z] > P[0, z], truth[z]) > 0.9 for z in range(4))
    assert (P[1, 3][target[3] == 1] == 1).all() and weight[3].mean() > 0.2


def test_an_object_that_the_box_of_all_strokes_cuts_ends_outside_of_it() -> None:
    """Nobody drew below the ball: on other slices, too, it does not run on to the border of the image."""
    truth = np.stack([disc((140, 64), (40, 32), 25)] * 3)
    image = 100 * truth + np.random.default_rng(0).normal(20, 3, truth.shape)
    target = np.full(truth.shape, IGNORE, np.uint8)
    target[0, 2:45, [2, -3]] = target[0, 2, 2:-2] = 0
    target[0, 38:42, 30:34] = 1
    P, weight = np.full((2, *truth.shape), 0.5, np.float32), np.zeros(truth.shape, np.float32)
    P[:, 0] = ~truth[0], truth[0]
    P, weight = Places(image[None], target, 2).others(P, weight, lambda: False, [range(3)])
    assert all(overlap(P[1, z] > P[0, z], truth[z]) > 0.9 for z in range(3))
    assert (weight[1, 40:60].mean() > weight[1, 120:].mean()) and not (P[1] > P[0])[:, 80:].any()


def test_a_slice_with_one_class_is_no_source_but_its_strokes_count() -> None:
    image, truth = stack(3)
    target = np.full(truth.shape, IGNORE, np.uint8)
    target[0] = strokes_on(truth[0])
    target[2, 10:12, 10:12] = 0
    teacher = propagate(sample(image, target), 2)
    assert (teacher.labels[2, 10:12, 10:12] == 0).all()
    assert overlap(teacher.labels[2] == 1, truth[2]) > 0.8


def test_a_correction_outside_the_box_of_the_sources_counts() -> None:
    """Far from all other strokes, on a slice on which one class only is drawn: a faint thing that is there alone."""
    image, truth = stack(3)
    below = np.random.default_rng(1).normal(20, 3, (3, 80, 56))
    below[2, 55:75, 10:50] += 15
    image = np.concatenate([image, below], 1)
    target = np.full(image.shape, IGNORE, np.uint8)
    target[0, :48] = strokes_on(truth[0])
    target[2, 110:115, 20:40] = 1
    teacher = propagate(sample(image, target), 2)
    assert (teacher.labels[2, 110:115, 20:40] == 1).all()
    assert not (teacher.labels[:2, 60:] == 1).any()


def test_the_walk_has_no_say_in_a_crowd() -> None:
    """Forest and network agree on many things of which one was drawn on; or with the walk, on that one."""
    assert crowding(0.95, 0.0) == 1 and crowding(0.6, 0.0) == 0
    assert crowding(0.95, 0.9) < 0.1 and crowding(0.8, 0.9) == 0
    assert crowding(0.8, 0.0) == pytest.approx(0.5)


def test_network_walk_and_forest_answer_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a crowd network and forest; else network and walk."""
    crowd, one = np.zeros((2, 8, 8)), np.zeros((2, 8, 8))
    crowd[1, ::2], one[1, 0] = 0.9, 0.9
    crowd[0], one[0] = 1 - crowd[1], 1 - one[1]
    nobody = np.full((8, 8), IGNORE, np.uint8)
    for says, walked, expected in ((crowd, 1 - crowd, crowd), (one, one, one)):
        monkeypatch.setattr("trainer.strokenet.refine", lambda *_, says=says: says)
        P, agreements = judged(np.zeros((1, 8, 8)), nobody, walked, crowd)
        assert agreements[0] == (1.0 if says is crowd else pytest.approx(0.4))
        np.testing.assert_allclose(P, expected)


def test_without_usable_strokes_there_is_no_confidence() -> None:
    target = np.full((20, 20), IGNORE, np.uint8)
    target[5, 5:9] = 1
    teacher = propagate(sample(np.random.default_rng(0).normal(size=(20, 20)), target), 3)
    assert teacher.confidence.max() == 0
    np.testing.assert_allclose(teacher.probabilities.astype(float), 1 / 3, atol=1e-3)


def test_a_random_walk_on_a_line_is_linear() -> None:
    """Between two strokes on an even image, the probability falls evenly (Grady 2005: Dirichlet on a path)."""
    strokes = np.full((1, 5), IGNORE, np.uint8)
    strokes[0, 0], strokes[0, 4] = 0, 1
    P = random_walk(np.zeros((1, 1, 5)), strokes, 2)
    np.testing.assert_allclose(P[1, 0], [0, 0.25, 0.5, 0.75, 1], atol=1e-9)


def test_a_prior_alone_is_returned_where_the_image_is_even() -> None:
    prior = np.full((2, 4, 4), 0.5)
    P = random_walk(np.zeros((1, 4, 4)), np.full((4, 4), IGNORE, np.uint8), 2, prior, 0.1)
    np.testing.assert_allclose(P, prior, atol=1e-9)


def test_a_large_image_is_walked_at_a_lower_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth = stack(1)
    unit, strokes = (image / image.max()).astype(np.float32), strokes_on(truth[0])
    monkeypatch.setattr("trainer.propagation.PIXELS", 1200)
    P = coarse_random_walk(unit, strokes, 2, None, 0.0)
    assert overlap(P.argmax(0) == 1, truth[0]) > 0.93
    drawn = strokes != IGNORE
    assert (P.argmax(0)[drawn] == strokes[drawn]).all()


def test_a_thin_stroke_survives_shrinking() -> None:
    strokes = np.full((100, 100), IGNORE, np.uint8)
    strokes[50, 10:90] = 3
    small = shrunken_strokes(strokes, (20, 20))
    assert (small[10, 2:18] == 3).all() and (small != IGNORE).sum() == 16


def test_a_dot_in_a_ring_survives_shrinking() -> None:
    strokes = np.full((100, 100), IGNORE, np.uint8)
    strokes[50:56, 50:56] = 1
    strokes[52:54, 52:54] = 2
    assert (shrunken_strokes(strokes, (10, 10))[5, 5], (strokes == 2).sum()) == (2, 4)


def test_propagation_can_be_stopped() -> None:
    image, truth = stack()
    target = np.stack([strokes_on(plane) for plane in truth])
    teacher = propagate(sample(image, target), 2, stopped=lambda: True)
    assert teacher.confidence.max() == 0


def test_what_was_drawn_on_is_known_before_the_rest() -> None:
    image, truth = stack()
    target = np.full(truth.shape, IGNORE, np.uint8)
    drawn = [1, 4]
    target[drawn] = [strokes_on(truth[z]) for z in drawn]
    one, first, last = propagating(sample(image, target), 2)
    assert one.confidence[4].max() > 0.9 and one.confidence[1].max() == 0
    rest = [z for z in range(len(truth)) if z not in drawn]
    assert (first.labels[drawn] == last.labels[drawn]).mean() > 0.99
    assert first.confidence[drawn].max() > 0.9 and first.confidence[rest].max() == 0
    assert np.array_equal(one.labels[0], one.labels[4]) and np.array_equal(first.labels[0], first.labels[1])  # lent
    assert last.confidence[rest].max() > 0
    [only] = propagating(sample(image[:1], target[1:2]), 2)  # there is no rest
    assert only.confidence.max() > 0.9


def test_rgb_and_two_dimensional_shapes() -> None:
    truth = disc((40, 50), (20, 20), 9)
    colour = np.stack([truth * 80.0 + 10, 90 - truth * 60.0, np.full(truth.shape, 40.0) + truth])
    teacher = propagate(Sample(colour.astype(np.float32), strokes_on(truth), (1.0, 1.0)), 2)
    assert teacher.probabilities.shape == (2, 40, 50)
    assert overlap(teacher.labels == 1, truth) > 0.95


def test_a_slice_with_some_of_the_classes_only_is_corrected_and_not_carried_on() -> None:
    target = np.full((4, 6, 6), IGNORE, np.uint8)
    target[1, 0], target[1, 2], target[1, 4] = 0, 1, 2
    target[3, 0], target[3, 2] = 0, 1
    assert sources(target) == [1]
    target[3, 4] = 2
    assert sources(target) == [1, 3]


def test_corrections_do_not_undo_what_was_found() -> None:
    """One slice of the heart with a stroke of each class, then short strokes anywhere in the stack, mostly ground."""
    folder = Path(__file__).parents[2] / "sample_data" / "cardiac"
    heart = load_dataset(folder).samples[0]
    truth = read_labels(folder / "denseTr" / "heart.nii.gz")[0].astype(np.uint8)
    rng = np.random.default_rng(2)
    strokes, scores = scribble_slices(truth, spread(truth, 1), 1, rng), []
    for corrections in (0, 1, 3, 4):
        for _ in range(corrections):
            strokes += at(truth, [np.unravel_index(rng.integers(truth.size), truth.shape)], rng)
        found = propagate(replace(heart, target=painted(strokes, truth.shape)), 4).labels
        scores.append(np.mean([overlap(found == c, truth == c) for c in (1, 2, 3)]))
    assert scores[0] > 0.4 and max(np.maximum.accumulate(scores) - scores) < 0.05
