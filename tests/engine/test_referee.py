"""The referee holds out whole strokes, the same ones whatever is drawn later, and counts right and wrong pixels."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from trainer.referee import (
    SHARE,
    Answers,
    answers,
    chosen,
    joined,
    score,
    split,
    strokes_of,
    verdict,
)
from trainer.sample import IGNORE, Sample
from trainer.stack import Part


def lines(count: int, classes: int = 2, slices: int = 1) -> np.ndarray:
    """Target (slices, 6 * count, 20 * classes): `count` strokes of 10 pixels for each class on each slice."""
    target = np.full((slices, 6 * count, 20 * classes), IGNORE, np.uint8)
    for c in range(classes):
        target[:, 3::6, 20 * c + 2 : 20 * c + 12] = c
    return target


def sample(target: np.ndarray) -> Sample:
    return Sample(np.zeros((1, *target.shape), np.float32), target, (1.0,) * target.ndim, "a")


def test_strokes_are_connected_pieces_of_a_class_in_a_slice() -> None:
    target = np.full((2, 8, 8), IGNORE, np.uint8)
    target[0, [1, 2, 3], [1, 2, 3]] = 1  # touching at their corners: one stroke
    target[0, 3, 4] = 0
    target[1, 3, 3] = 1
    found = [(stroke.slice, stroke.label, len(stroke.pixels)) for stroke in strokes_of(target)]
    assert found == [(0, 0, 1), (0, 1, 3), (1, 1, 1)]


def test_what_is_held_out_is_whole_and_gone_from_the_rest() -> None:
    target = lines(12, classes=3, slices=3)
    left, held = split(sample(target), seed=3)
    assert ((left.target == IGNORE) | (held == IGNORE)).all()
    assert np.array_equal(np.where(held == IGNORE, left.target, held), target)
    assert all(len(stroke.pixels) == 10 for stroke in strokes_of(held) + strokes_of(left.target))
    share = (held != IGNORE).sum() / (target != IGNORE).sum()
    assert share == pytest.approx(SHARE, abs=0.08)  # 108 strokes: two deviations of the binomial are .07
    assert np.array_equal(split(sample(target), 3)[1], held)
    assert not np.array_equal(split(sample(target), 4)[1], held)


@pytest.mark.parametrize("seed", range(40))
def test_a_class_keeps_a_stroke_and_gives_one_of_four(seed: int) -> None:
    target = np.full((40, 60), IGNORE, np.uint8)
    for c, strokes in enumerate((1, 2, 4)):
        target[3 : 3 + 6 * strokes : 6, 20 * c : 20 * c + 9] = c
    left, held = split(sample(target), seed)
    assert set(np.unique(left.target)) == {0, 1, 2, IGNORE}
    assert 0 not in held and 2 in held


@pytest.mark.parametrize("seed", range(20))
def test_nothing_that_was_learnt_from_is_held_out_later(seed: int) -> None:
    """From ENOUGH strokes on: drawn one after another in any order, each new set is within the old one and the new."""
    strokes = strokes_of(lines(20))
    order = np.random.default_rng(seed).permutation(len(strokes))
    both = [strokes[i] for i in order if strokes[i].label == 1]
    sets = [{id(stroke) for stroke in chosen(both[:n], seed)} for n in range(4, len(both) + 1)]
    for n, (before, now) in enumerate(pairwise(sets), 4):
        assert now <= before | {id(both[n])}


def test_the_lot_of_a_stroke_stays_when_its_part_of_a_stack_grows() -> None:
    """A slice in front and a wider box: the same strokes judge."""
    whole = lines(12, slices=6)
    parts = [
        Part((4, 5), ((6, 66), (2, 40)), 6, whole.shape[1:]),
        Part(tuple(range(1, 6)), ((0, 72), (0, 40)), 6, whole.shape[1:]),
    ]
    judges = []
    for part in parts:
        target = np.stack([whole[(z, *part.index)] for z in part.slices])
        _, held = split(replace(sample(target), part=part), seed=1)
        full = np.full_like(whole, IGNORE)
        full[(list(part.slices), *part.index)] = held
        judges.append(full[4:])
    common = parts[0].index
    first, second = (each[(slice(None), *common)] != IGNORE for each in judges)
    assert first.any() and (first <= second).all()


def one_hot(labels: np.ndarray, classes: int = 2) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[labels].transpose(2, 0, 1)


def test_accuracy_and_f1_worked_out_by_hand() -> None:
    """Ten pixels of each class. A network that calls everything 1: accuracy 0 and 1, F1 0 and 2 * 10 / 30."""
    held = lines(1)[0]
    right = np.where(held == 1, 1, 0)
    found = score({"ones": one_hot(np.ones_like(right)), "right": one_hot(right)}, held)
    background, thing = found.classes["ones"]
    assert (background.accuracy, background.f1) == (0, 0)
    assert (thing.accuracy, thing.f1) == pytest.approx((1, 2 / 3))
    assert found.mean["ones"].f1 == pytest.approx(1 / 3)
    assert found.mean["right"].f1 == 1 and found.best == "right"
    assert (thing.low, thing.high) == (0, 1)  # of one stroke nobody knows the spread


def test_a_class_that_is_not_held_out_has_no_score() -> None:
    held = lines(2)[0]
    held[held == 0] = IGNORE
    found = score({"net": one_hot(np.ones(held.shape, int))}, held)
    assert found.classes["net"][0] is None and found.mean["net"].f1 == 1
    nothing = score({"net": one_hot(np.ones(held.shape, int))}, np.full_like(held, IGNORE))
    assert nothing.best is None and nothing.classes["net"] == (None, None)


def test_the_interval_spans_what_strokes_differ_by() -> None:
    """Half of the strokes of both classes wholly wrong: the F1 is one half, and narrower with more strokes."""

    def spread(n: int) -> tuple[float, float, float]:
        counts = np.array([[10, 0], [0, 10]] * (2 * n))
        found = verdict(Answers(np.repeat([0, 1], 2 * n), {"net": counts})).mean["net"]
        return found.low, found.f1, found.high

    low, f1, high = spread(4)
    assert f1 == pytest.approx(0.5) and low < 0.35 and high > 0.65
    assert spread(40)[0] > low and spread(40)[2] < high
    sure = verdict(Answers(np.array([0, 0, 1, 1]), {"net": np.array([[9, 0], [9, 0], [0, 9], [0, 9]])})).mean["net"]
    assert (sure.low, sure.f1, sure.high) == (1, 1, 1)


def test_images_together_are_all_their_strokes() -> None:
    held = lines(1)[0]
    ones, right = (one_hot(labels) for labels in (np.ones(held.shape, int), np.where(held == 1, 1, 0)))
    found = verdict(joined([answers({"net": ones}, held), answers({"net": right}, held)]))
    assert found.classes["net"][0].accuracy == 0.5 and found.mean["net"].strokes == 4
    stack = answers({"net": np.stack([ones, right], 1)}, np.stack([held, held]))
    assert verdict(stack) == found
    later = answers({"net": right, "late": right}, held)  # another network has begun to learn meanwhile
    for images in ([answers({"net": ones}, held), later], [later, answers({"net": ones}, held)]):
        assert verdict(joined(images)).mean == {"net": found.mean["net"]}
