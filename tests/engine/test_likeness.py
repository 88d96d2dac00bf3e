"""What looks like the strokes on other images is shown until the networks know better."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from toys import CLASSES, QUICK, dense_disc, disc, scribbled_disc, scribbled_stack

import trainer.likeness
from trainer.likeness import STEPS, Likeness, Settled, with_likeness
from trainer.run import Run
from trainer.sample import IGNORE, Sample


def unsure(shape: tuple[int, ...]) -> np.ndarray:
    return np.full((2, *shape), 0.5, np.float32)


@pytest.mark.parametrize("drawn", [scribbled_disc(), scribbled_stack()])
def test_an_image_without_strokes_is_told_by_the_looks_of_those_on_another(drawn: Sample) -> None:
    image, truth = disc(seed=5)
    other = 3 * image[None] + 700  # exposed otherwise
    likeness = Likeness(Run([drawn], QUICK, CLASSES))
    assert likeness.say == 1 and likeness.settled() == (None, 0)  # nobody has asked yet
    assert likeness.settled(anew=True).forest is likeness.forest
    P = with_likeness(unsure(truth.shape), other, other, likeness)
    assert likeness.settled() == (likeness.forest, 1)
    assert P.shape == (2, 40, 40) and np.allclose(P.sum(0), 1) and (P.argmax(0) == truth).mean() > 0.97
    networks = np.stack([truth, 1 - truth]).astype(np.float32)  # wrong everywhere
    heard = [with_likeness(networks, other, other, Settled(likeness.forest, say)).argmax(0) for say in (0.9, 0.1, 0.0)]
    assert (heard[0] == truth).mean() > 0.95 and (heard[1] == truth).mean() < 0.05
    assert np.array_equal(heard[2], networks.argmax(0))


def test_the_networks_are_heard_the_more_the_longer_they_learn() -> None:
    run = Run([scribbled_disc()], QUICK, CLASSES)
    says = [Likeness(run).say for _ in run]
    assert says == pytest.approx([1 - i / STEPS for i in range(7)])
    assert Likeness(Run([scribbled_disc()], QUICK, CLASSES, start=run.model)).say == 0  # these have learnt before
    assert Likeness(SimpleNamespace(iteration=10 * STEPS, start=None)).settled() == (None, 0)


def test_new_strokes_are_looked_at_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    looked, look = [], trainer.likeness.drawn_on
    monkeypatch.setattr("trainer.likeness.drawn_on", lambda sample: looked.append(sample.name) or look(sample))
    first, second = scribbled_disc("first"), scribbled_disc("second", seed=1)
    nobody = replace(dense_disc("third"), target=np.full((40, 40), IGNORE, np.uint8))
    run = Run([first, second, nobody], QUICK, CLASSES)
    likeness = Likeness(run)
    assert likeness.forest is likeness.forest and looked == ["first", "second"]
    before, drawn = likeness.forest, second.target.copy()
    drawn[30, 5:10] = 0
    run.samples = [replace(first), replace(second, target=drawn), nobody]
    assert likeness.forest is not before and looked == ["first", "second", "second"]


def test_strokes_of_one_class_tell_nothing() -> None:
    sample = scribbled_disc()
    sample.target[sample.target == 1] = IGNORE
    likeness = Likeness(SimpleNamespace(samples=[sample], classes=CLASSES, iteration=0, start=None))
    assert with_likeness(P := unsure((40, 40)), sample.image, sample.image, likeness) is P


def test_a_large_slice_is_looked_at_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.propagation.LOOKED_AT", 900)
    image, truth = disc(size=80, radius=20)
    strokes = np.full(truth.shape, IGNORE, np.uint8)
    strokes[36:44, 30:50], strokes[4:8, 4:-4] = 1, 0
    sample = Sample(image[None], strokes, (1.0, 1.0), "large")
    P = with_likeness(unsure(truth.shape), image[None], image[None], Likeness(Run([sample], QUICK, CLASSES)))
    assert P.shape == (2, 80, 80) and (P.argmax(0) == truth).mean() > 0.93
