"""Disagreement is 0 where networks agree, 1 where they differ as much as they can; places are where most of it is."""

import numpy as np
import pytest

from benchmarks.annotation import NEXT, drawn_until, gain, summary
from benchmarks.images import Case
from trainer.disagreement import DRAWN, Place, around, divergence, entropy, places, undrawn
from trainer.sample import IGNORE, Sample

SURE = np.eye(3, dtype=np.float32)  # of class 0, 1, 2


def pixel(*values: float) -> np.ndarray:
    """P (K, 1, 1)."""
    return np.array(values, np.float32)[:, None, None]


def blank(*space: int) -> np.ndarray:
    return np.full(space, IGNORE, np.uint8)


def test_those_who_agree_do_not_disagree_however_unsure() -> None:
    same = pixel(0.2, 0.5, 0.3)
    assert divergence({"a": same, "b": same, "c": same}) == pytest.approx(0, abs=1e-6)
    assert divergence({"a": pixel(0.5, 0.5), "b": pixel(0.5, 0.5)}) == pytest.approx(0, abs=1e-6)


def test_three_who_are_sure_of_three_classes_disagree_fully() -> None:
    assert divergence({n: pixel(*SURE[i]) for i, n in enumerate("abc")}) == pytest.approx(1)


def test_numbers_worked_out_on_paper() -> None:
    """Two of two classes, one sure and one in doubt: H(3/4, 1/4) - (0 + 1) / 2 = 0.811 - 0.5 bit; two against one of
    three classes: H(2/3, 1/3) = 0.918 bit, of log2(3) = 1.585."""
    assert divergence({"a": pixel(1, 0), "b": pixel(0.5, 0.5)}) == pytest.approx(0.3113, abs=1e-4)
    two = {"a": pixel(*SURE[0]), "b": pixel(*SURE[0]), "c": pixel(*SURE[1])}
    assert divergence(two) == pytest.approx(0.9183 / 1.58496, abs=1e-4)


def test_one_network_is_no_committee() -> None:
    with pytest.raises(ValueError, match=r"two networks or more, got \['unet'\]"):
        divergence({"unet": pixel(1, 0)})


def test_entropy() -> None:
    assert entropy(pixel(0.25, 0.25, 0.25, 0.25)) == pytest.approx(1)
    assert entropy(pixel(1, 0)) == 0
    assert entropy(pixel(0.75, 0.25)) == pytest.approx(0.8113, abs=1e-4)


def doubt(space: tuple[int, ...], *blobs: tuple[tuple[int, ...], int]) -> np.ndarray:
    """A map of 0 with squares of 1: (middle, half a side)."""
    values = np.zeros(space, np.float32)
    for (*z, row, column), half in blobs:
        values[(*z, slice(row - half, row + half + 1), slice(column - half, column + half + 1))] = 1
    return values


def found(maps: dict[str, np.ndarray], count: int, labels: dict[str, np.ndarray] | None = None) -> list[Place]:
    """Where nothing is drawn; of one class where no labels are given."""
    classes = {name: np.zeros(values.shape, np.uint8) for name, values in maps.items()} | (labels or {})
    return places(maps, {name: blank(*values.shape) for name, values in maps.items()}, classes, count)


def spots(found: list[Place]) -> list[tuple[int, int, int]]:
    return [(place.slice, place.row, place.column) for place in found]


def test_the_larger_doubt_comes_first_over_slices_and_images() -> None:
    maps = {
        "stack": doubt((5, 80, 80), ((1, 20, 20), 3), ((3, 50, 60), 5)),
        "picture": doubt((80, 80), ((40, 30), 4)),
    }
    best = found(maps, 10)
    at = [(place.image, place.slice, place.row, place.column) for place in best]
    assert at == [("stack", 3, 50, 60), ("picture", 0, 40, 30), ("stack", 1, 20, 20)]
    assert [place.doubt for place in best] == [121, 81, 49]
    assert 25 < best[2].score < 49  # of 49 pixels, those at the edge of the disc count less
    assert found(maps, 1) == best[:1]


def test_a_slice_in_the_midst_of_doubt_comes_before_one_that_has_more_itself() -> None:
    values = doubt(
        (9, 60, 60), ((1, 30, 30), 5), ((5, 30, 30), 4), ((6, 30, 30), 4), ((7, 30, 30), 4), ((8, 30, 30), 2)
    )
    assert [place.slice for place in found({"a": values}, 5)] == [6, 7, 5, 8, 1]


def test_doubt_counts_for_other_slices_of_its_stack_the_less_the_farther() -> None:
    doubts = {("a", 2): 8.0, ("a", 3): 4.0, ("a", 5): 2.0, ("b", 3): 1.0}
    assert around(doubts) == {("a", 2): 8 + 2, ("a", 3): 4 + 4, ("a", 5): 2, ("b", 3): 1}


def test_a_slice_that_cannot_be_carried_on_comes_later() -> None:
    """Most doubt is on slice 7, where one class is seen."""
    values = doubt((8, 60, 60), ((7, 30, 30), 6), ((3, 30, 30), 5), ((5, 30, 30), 3))
    labels = np.zeros((8, 60, 60), np.uint8)
    labels[:7, :, 45:] = 1
    assert [place.slice for place in found({"a": values}, 5, {"a": labels})] == [3, 5, 7]


def test_of_pictures_those_that_were_drawn_on_do_not_wait() -> None:
    maps = {"drawn": doubt((60, 60), ((30, 30), 5)), "new": doubt((60, 60), ((30, 30), 3))}
    strokes = {name: blank(60, 60) for name in maps}
    strokes["drawn"][5], strokes["drawn"][50] = 0, 1
    best = places(maps, strokes, {name: np.zeros((60, 60), np.uint8) for name in maps}, 5)
    assert [place.image for place in best] == ["drawn", "new"]


def test_every_class_of_a_slice_has_its_turn_before_the_next_slice() -> None:
    """In slice 0 class 0 has two large doubts and class 1 a small one, in slice 2 class 0 one of middle size."""
    values = doubt((3, 90, 90), ((0, 15, 15), 6), ((0, 75, 20), 5), ((0, 70, 70), 3), ((2, 15, 35), 5))
    labels = np.zeros((3, 90, 90), np.uint8)
    labels[:, :, 50:] = 1
    assert spots(found({"a": values}, 5, {"a": labels})) == [(0, 15, 15), (0, 70, 70), (2, 15, 35), (0, 75, 20)]


def test_a_place_that_was_drawn_on_is_left_alone() -> None:
    maps, strokes = {"a": doubt((80, 80), ((20, 20), 5), ((60, 60), 4))}, blank(80, 80)
    labels = {"a": np.zeros((80, 80), np.uint8)}
    first, second = places(maps, {"a": strokes}, labels, 5)
    strokes[20, 15:25] = 1
    assert undrawn([first, second], {"a": strokes}) == [second]
    left = places(maps, {"a": strokes}, labels, 5)
    assert spots(left)[0] == spots([second])[0]
    assert all(abs(place.row - 20) > DRAWN or not 15 - DRAWN <= place.column <= 24 + DRAWN for place in left)


@pytest.mark.parametrize("side", [60, 600])
def test_of_a_picture_what_looks_like_nothing_drawn_has_the_second_turn(side: int) -> None:
    """The networks are sure that a bright spot is ground, as they have not seen its like; another was drawn on."""
    y, x = np.indices((side, side))
    image = np.random.default_rng(0).normal(0, 1, (1, side, side)).astype(np.float32)
    for row, column, bright in ((side - 15, side - 15, 90), (side - 15, 15, 30)):
        image[0, np.hypot(y - row, x - column) < 8] += bright
    maps, labels = {"a": doubt((side, side), ((20, 20), 5), ((20, 45), 4))}, {"a": np.zeros((side, side), np.uint8)}
    strokes = blank(side, side)
    strokes[5], strokes[side - 17 : side - 12, 13:18] = 0, 1
    *doubtful, strange = places(maps, {"a": strokes}, labels, 3, {"a": image})
    assert doubtful == places(maps, {"a": strokes}, labels, 2) and strange.score == 0
    assert np.hypot(strange.row - (side - 15), strange.column - (side - 15)) < 8 + side / 100


def test_everything_drawn_and_nothing_in_doubt() -> None:
    class_0 = {"a": np.zeros((30, 30), np.uint8)}
    assert places({"a": np.ones((30, 30), np.float32)}, {"a": np.zeros((30, 30), np.uint8)}, class_0, 5) == []
    assert places({"a": np.zeros((30, 30), np.float32)}, {"a": blank(30, 30)}, class_0, 5) == []


# ---- the simulated annotator who follows it (benchmarks/annotation.py) ----


def halves() -> Case:
    """Class 0 above, class 1 below."""
    truth = np.repeat(np.array([0, 1], np.uint8), 40)[:, None].repeat(80, 1)
    return Case(Sample(np.zeros((1, 80, 80), np.float32), truth, (1.0, 1.0), "halves"), ("background", "object"))


def test_the_annotator_draws_where_the_networks_disagree_until_the_time_is_up() -> None:
    """They agree on class 0 but in two squares, where they are sure of different things."""
    case, rng = halves(), np.random.default_rng(0)
    other = doubt((80, 80), ((20, 20), 6), ((60, 60), 4))
    P = {"unet": np.stack([1 - other, other]), "mambaunet": np.stack([np.ones((80, 80)), np.zeros((80, 80))])}
    first, second, *_ = drawn_until(1000, [], NEXT["disagreement"], P, other, case, rng)
    assert (first.label, second.label) == (0, 1)
    assert np.abs(first.pixels - (20, 20)).max() < 25 and np.abs(second.pixels - (60, 60)).max() < 25
    assert len(drawn_until(1.0, [], NEXT["disagreement"], P, other, case, rng)) == 1


def test_the_annotator_finishes_a_slice_before_the_next() -> None:
    """The doubt is all in class 0 of slice 1, then of slice 3; class 1 is drawn there, too."""
    truth = np.repeat(np.array([0, 1], np.uint8), 40)[None, :, None].repeat(5, 0).repeat(80, 2)
    case = Case(Sample(np.zeros((1, 5, 80, 80), np.float32), truth, (1.0,) * 3, "stack"), ("background", "object"))
    other = doubt((5, 80, 80), ((1, 20, 20), 6), ((3, 20, 20), 4))
    sure = np.stack([np.ones(truth.shape), np.zeros(truth.shape)])
    P = {"unet": np.stack([1 - other, other]), "mambaunet": sure}
    strokes = drawn_until(1000, [], NEXT["disagreement"], P, truth, case, np.random.default_rng(0))
    assert [(stroke.slice, stroke.label) for stroke in strokes] == [(1, 0), (1, 1), (3, 0), (3, 1)]


def test_by_entropy_alone_only_the_least_known_places_are_drawn() -> None:
    """The same stack: the network knows least on slice 1, then on slice 3, and nobody draws the other class there."""
    truth = np.repeat(np.array([0, 1], np.uint8), 40)[None, :, None].repeat(5, 0).repeat(80, 2)
    case = Case(Sample(np.zeros((1, 5, 80, 80), np.float32), truth, (1.0,) * 3, "stack"), ("background", "object"))
    half = 0.5 * doubt((5, 80, 80), ((1, 20, 20), 6), ((3, 20, 20), 4))
    P = {"unet": np.stack([1 - half, half])}
    strokes = drawn_until(1000, [], NEXT["entropy"], P, truth, case, np.random.default_rng(0))
    assert [(stroke.slice, stroke.label) for stroke in strokes] == [(1, 0), (3, 0)]


def test_who_draws_anywhere_draws_everywhere() -> None:
    """On a stack of four slices, the same with the same generator."""
    truth = np.zeros((4, 90, 90), np.uint8)
    case = Case(Sample(np.zeros((1, 4, 90, 90), np.float32), truth, (1.0,) * 3, "stack"), ("background", "object"))
    P = {"unet": np.full((2, 4, 90, 90), 0.5, np.float32)}

    def drawn(seed: int) -> list[tuple[int, int, int]]:
        strokes = drawn_until(150, [], NEXT["random"], P, truth, case, np.random.default_rng(seed))
        return [(stroke.slice, *stroke.pixels[0]) for stroke in strokes]

    some = drawn(0)
    assert some == drawn(0) != drawn(1)
    assert {z for z, *_ in some} == {0, 1, 2, 3}


def test_gains_are_paired_by_image() -> None:
    """Of two images .1 and .3 more than the rival after the first round, which does not count."""

    def entry(case: str, policy: str, *shown: float) -> dict:
        return {"modality": "em", "case": case, "policy": policy, "seed": 0, "points": [[9, d, 0] for d in shown]}

    ours = [entry("a", "disagreement", 0.0, 0.6, 0.8), entry("b", "disagreement", 0.9, 0.8, 0.8)]
    rivals = [entry("b", "random", 0.9, 0.4, 0.6), entry("a", "random", 0.0, 0.6, 0.6)]
    assert gain(ours, rivals, "shown") == pytest.approx([0.1, 0.3])
    (row,) = (r for r in summary(ours + rivals) if (r["policy"], r["answer"]) == ("disagreement", "shown"))
    assert (row["above_random"][0], row["after_drawing"], row["images"]) == (0.2, 0.75, 2)
    assert 0.1 <= row["above_random"][1] <= 0.2 <= row["above_random"][2] <= 0.3 and "above_entropy" not in row


def test_images_of_nuclei_are_also_summed_up_together() -> None:
    entries = [
        {"modality": kind, "case": kind, "policy": "random", "seed": 0, "points": [[9, 0, 0], [9, d, 0]]}
        for kind, d in (("histology", 0.2), ("brightfield", 0.4), ("cardiac", 0.9))
    ]
    means = {r["modality"]: r["after_drawing"] for r in summary(entries) if r["answer"] == "shown"}
    assert means == pytest.approx({"histology": 0.2, "brightfield": 0.4, "cardiac": 0.9, "nuclei": 0.3})
