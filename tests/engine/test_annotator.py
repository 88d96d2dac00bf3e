"""The simulated annotator: strokes lie in their class, budgets are kept, errors are found."""

import numpy as np
import pytest
from scipy import ndimage as ndi
from toys import disc

from trainer import annotator
from trainer.annotator import REACH, SPEED, Stroke, at, correct, painted, scribble, scribble_slices, seconds, spread
from trainer.sample import IGNORE


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def rings(size: int = 60) -> np.ndarray:
    """A disc (2) in a ring (1) on the ground (0), and beside them three dots of one, two and four pixels."""
    y, x = np.indices((size, size))
    away = np.hypot(y - 30, x - 26)
    label = ((away < 20).astype(np.uint8) + (away < 12)).astype(np.uint8)
    label[5, 55] = label[10, 54:56] = 1
    label[15:17, 54:56] = 2
    return label


def stack() -> np.ndarray:
    """Five slices, of which the first and the last show nothing."""
    return np.stack([np.zeros_like(rings()), rings(), rings(), rings(), np.zeros_like(rings())])


@pytest.mark.parametrize("seed", range(20))
def test_strokes_lie_in_their_class_and_in_one_piece(seed: int) -> None:
    label = rings()
    for stroke in scribble(label, 3, np.random.default_rng(seed)):
        assert len(stroke.pixels) and (label[tuple(stroke.pixels.T)] == stroke.label).all()
        drawn = painted([stroke], label.shape) != IGNORE
        assert ndi.label(drawn, np.ones((3, 3)))[1] == 1  # it does not leap over another class


def test_a_budget_is_so_many_strokes_for_each_class_and_a_smaller_one_is_its_beginning() -> None:
    one, three, ten = (scribble(rings(), n, np.random.default_rng(1)) for n in (1, 3, 10))
    assert [stroke.label for stroke in one] == [0, 1, 2]
    assert np.bincount([stroke.label for stroke in ten]).tolist() == [10, 10, 10]
    for fewer, more in ((one, three), (three, ten)):
        for a, b in zip(fewer, more, strict=False):
            np.testing.assert_array_equal(a.pixels, b.pixels)


def test_a_stroke_is_a_line_and_not_the_region(rng: np.random.Generator) -> None:
    _, truth = disc(size=200, radius=80)
    for stroke in scribble(truth, 5, rng):
        assert stroke.pixels.shape[0] <= 3 * 1.5 * annotator.LENGTH[1]  # the widest brush along the longest way


def test_the_same_seed_draws_the_same_and_another_something_else() -> None:
    first, again, other = (painted(scribble(rings(), 2, np.random.default_rng(s)), (60, 60)) for s in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_all_classes_on_evenly_spread_slices(rng: np.random.Generator) -> None:
    label = stack()
    assert spread(label, 1) == [2] and spread(label, 3) == [1, 2, 3] == spread(label, 99)
    assert len(set(spread(label, 2))) == 2
    strokes = scribble_slices(label, [1, 3], 1, rng)
    assert [(s.slice, s.label) for s in strokes] == [(z, c) for z in (1, 3) for c in (0, 1, 2)]
    target = painted(strokes, label.shape)
    assert (target[target != IGNORE] == label[target != IGNORE]).all() and (target[[0, 2, 4]] == IGNORE).all()


def test_a_volume_can_have_so_many_strokes_a_class_wherever_they_fall(rng: np.random.Generator) -> None:
    strokes = scribble(stack(), 4, rng)
    assert len(strokes) == 12 and len({stroke.slice for stroke in strokes if stroke.label == 1}) > 1
    assert all((stack()[s.slice][tuple(s.pixels.T)] == s.label).all() for s in strokes)


def test_an_image_of_one_class_and_a_region_of_one_pixel(rng: np.random.Generator) -> None:
    (stroke,) = scribble(np.zeros((16, 16), np.uint8), 1, rng)
    assert len(stroke.pixels) and stroke.label == 0
    dot = np.zeros((9, 9), np.uint8)
    dot[4, 6] = 1
    assert scribble(dot, 1, rng)[1].pixels.tolist() == [[4, 6]]


def test_what_is_not_known_is_not_drawn(rng: np.random.Generator) -> None:
    label = rings()
    label[:, 30:] = IGNORE
    strokes = scribble(label, 5, rng)
    assert {stroke.label for stroke in strokes} == {0, 1, 2} and all((s.pixels[:, 1] < 30).all() for s in strokes)


def test_seconds_are_a_reach_and_the_way(rng: np.random.Generator) -> None:
    dot = np.zeros((9, 9), np.uint8)
    dot[4, 6] = 1
    assert scribble(dot, 1, rng)[1].seconds == REACH  # a click
    longest = REACH + annotator.LENGTH[1] / SPEED
    strokes = scribble(disc(size=200, radius=80)[1], 5, rng)
    assert all(REACH < stroke.seconds <= longest for stroke in strokes)
    assert seconds(strokes) == pytest.approx(sum(stroke.seconds for stroke in strokes))


def test_a_correction_falls_into_the_largest_error(rng: np.random.Generator) -> None:
    label = rings()
    prediction = label.copy()
    prediction[label == 2] = 1  # the disc is missing,
    prediction[2:6, 2:6] = 1  # and there is something small on the ground
    stroke = correct(label, prediction, [], rng)
    assert stroke.label == 2 and (np.hypot(*(stroke.pixels - [30, 26]).T) < 12).all()


def test_corrections_come_to_an_end_when_everything_is_right_or_marked(rng: np.random.Generator) -> None:
    label = rings()
    assert correct(label, label, [], rng) is None
    prediction = label.copy()
    prediction[15, 54:56] = 0
    marked = Stroke(0, np.array([[15, 54], [15, 55]]), 2, 3.0)
    assert correct(label, prediction, [], rng).label == 2 and correct(label, prediction, [marked], rng) is None


def test_a_correction_of_a_volume_lies_in_the_worst_slice(rng: np.random.Generator) -> None:
    label = stack()
    prediction = label.copy()
    prediction[3][label[3] == 1] = 0
    prediction[1, 28:30, 24:26] = 0
    stroke = correct(label, prediction, [], rng)
    assert (stroke.slice, stroke.label) == (3, 1) and (label[3][tuple(stroke.pixels.T)] == 1).all()


def test_repeated_corrections_repair_an_image_that_learns_only_what_is_drawn(rng: np.random.Generator) -> None:
    label, prediction, strokes = rings(), np.zeros((60, 60), np.uint8), []
    errors = [(label != prediction).sum()]
    for _ in range(8):
        strokes.append(correct(label, prediction, strokes, rng))
        target = painted(strokes, label.shape)
        prediction = np.where(target == IGNORE, prediction, target)
        errors.append((label != prediction).sum())
    assert all(np.diff(errors) < 0)


def test_suggested_places_are_followed(rng: np.random.Generator) -> None:
    label = rings()
    places = [(30, 26), (30, 42), (55, 5), (15, 54)]
    strokes = at(label, places, rng)
    assert [stroke.label for stroke in strokes] == [2, 1, 0, 2]
    for place, stroke in zip(places, strokes, strict=True):
        assert (np.abs(stroke.pixels - place) <= annotator.LENGTH[0] / 2).all()
        assert (label[tuple(stroke.pixels.T)] == label[place]).all()
    (stroke,) = at(stack(), [(2, 30, 26)], rng)
    assert (stroke.slice, stroke.label) == (2, 2)


def test_places_of_an_unknown_class_are_passed_over(rng: np.random.Generator) -> None:
    label = np.full((20, 20), IGNORE, np.uint8)
    label[:, :10] = 1
    assert [s.label for s in at(label, [(5, 15), (5, 5)], rng)] == [1]
