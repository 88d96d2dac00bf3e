"""The coach says what is wrong with strokes, and where."""

from dataclasses import replace

import numpy as np

from trainer.coach import Advice, advice
from trainer.sample import IGNORE, Sample

CLASSES = ("background", "nucleus", "fibre")


def drawn(*strokes: tuple[int, int, slice], shape: tuple[int, int] = (100, 100), name: str = "cells") -> Sample:
    """Strokes one pixel high: (class, row, columns)."""
    target = np.full(shape, IGNORE, np.uint8)
    for c, row, columns in strokes:
        target[row, columns] = c
    return Sample(np.zeros((1, *shape), np.float32), target, (1.0, 1.0), name)


GOOD = ((0, 10, slice(5, 45)), (1, 14, slice(5, 45)), (2, 18, slice(5, 45)))


def kinds(found: list[Advice]) -> list[str]:
    return [each.kind for each in found]


def test_good_strokes_need_no_advice() -> None:
    assert advice([drawn(*GOOD)], CLASSES) == []


def test_nothing_drawn() -> None:
    (only,) = advice([drawn()], CLASSES)
    assert only.kind == "missing" and "every class, the background too" in only.text


def test_a_class_without_strokes_in_all_images() -> None:
    (only,) = advice([drawn(*GOOD[:2])], CLASSES)
    assert only.text == "Paint a stroke of fibre, or remove the class." and only.kind == "missing"


def test_a_class_that_only_some_images_have() -> None:
    """Without a stroke it is taken to be absent; a mark of absence says that this is meant."""
    without, full = drawn(*GOOD[:2], name="one"), drawn(*GOOD)
    (only,) = advice([full, without], CLASSES)
    assert (only.kind, only.image) == ("left out", "one") and only.text.startswith("Paint fibre on 'one' if it is")
    (only,) = advice([full, without, drawn(*GOOD[:2], name="two")], CLASSES)
    assert only.text.startswith("Paint fibre on 'one' and 1 more if")
    assert advice([full, replace(without, absent=((0, 2),))], CLASSES) == []
    assert advice([full, drawn(name="bare")], CLASSES) == []
    (only,) = advice([full, drawn(*GOOD[1:], name="one")], CLASSES)
    assert only.text.startswith("Paint background on 'one'")


def test_a_forgotten_background() -> None:
    (only,) = advice([drawn(*GOOD[1:])], CLASSES)
    assert only.kind == "background" and only.text.startswith("Paint a stroke of background where")


def test_a_stroke_that_every_network_contradicts() -> None:
    """The second nucleus lies where both networks see fibre; one network alone is not enough."""
    sample = drawn(*GOOD, (1, 60, slice(10, 21)))
    right = np.zeros((100, 100), np.uint8)
    right[14, 5:45], right[18, 5:45] = 1, 2
    other = right.copy()
    right[60] = other[60] = 2
    other[60, 10] = 1  # one of eleven pixels as it was drawn
    (slip,) = advice([sample], CLASSES, {"cells": {"unet": right, "mambaunet": other}})
    assert slip.text == "Check this stroke of nucleus: every network sees fibre there."
    assert (slip.kind, slip.image, slip.slice, slip.place) == ("slip", "cells", 0, (60, 15))
    other[60] = 1
    assert advice([sample], CLASSES, {"cells": {"unet": right, "mambaunet": other}}) == []


def test_where_a_slip_is_in_a_stack() -> None:
    plane = drawn(*GOOD)
    target = np.stack([np.full((100, 100), IGNORE, np.uint8), plane.target])
    stack = Sample(np.zeros((1, 2, 100, 100), np.float32), target, (1.0, 1.0, 1.0), "stack")
    labels = np.where(target == IGNORE, 0, target)
    labels[1, 14] = 0
    (slip,) = advice([stack], CLASSES, {"stack": {"unet": labels}})
    assert (slip.slice, slip.place) == (1, (14, 24)) and "sees background there" in slip.text


def test_a_rare_class() -> None:
    """Forty pixels each of two classes; one of the third is more than twenty times fewer."""
    (only,) = advice([drawn(*GOOD[:2], (2, 18, slice(5, 6)))], CLASSES)
    assert only.kind == "rare"
    assert only.text == "Paint more of fibre: its strokes have 1 px, those of the other classes about 40."


def test_strokes_far_from_any_border() -> None:
    """The fibre is 30 pixels below the nucleus, more than the ten that are near; the place is half way."""
    far = drawn(*GOOD[:2], (2, 44, slice(5, 45)))
    (only,) = advice([far], CLASSES)
    assert (only.kind, only.image, only.slice) == ("border", "cells", 0)
    assert only.place == (29, 5) and only.text.startswith("Paint fibre and its surroundings close to the border")
    near = drawn(*GOOD, name="near")  # once shown is enough
    assert advice([far, near], CLASSES) == []


def test_the_most_urgent_comes_first() -> None:
    sample = drawn((1, 14, slice(5, 85)), (2, 60, slice(5, 6)))
    labels = {"unet": np.full((100, 100), 2, np.uint8)}
    assert kinds(advice([sample], CLASSES, {"cells": labels})) == ["background", "slip", "rare", "border", "border"]
