"""Stacks that are read slice by slice, and what of them is learnt from."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from trainer import IGNORE, Config, Model, Run, Sample
from trainer.batches import normalise, normalise_like
from trainer.propagation import propagate
from trainer.run import unchanged
from trainer.sample import plane_of, volumes
from trainer.stack import LEARNT, Part, Stack, part_around, roomy

TINY = Config(
    iterations=2, networks=("unet",), objective="supervised", patch=(32, 32), batch=2, device="cpu", dtype="float32"
)


class Counted:
    """A volume of 40 slices of 256 x 256, a disc on each, and which slices were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __call__(self, number: int, rows: slice, columns: slice) -> np.ndarray:
        self.read.append(number)
        y, x = np.ogrid[:256, :256]
        disc = np.hypot(y - 100, x - 120) < 30
        return (40 + 150 * disc + (x + y + number) % 7).astype(np.uint8)[None, rows, columns]


def stack(depth: int = 40) -> tuple[Stack, Counted]:
    reads = Counted()
    return Stack(reads, (1, 40, 256, 256), depth), reads


def drawn(stack: Stack, slices: tuple[int, ...]) -> Sample:
    """A stroke in the disc and one beside it on each of these slices."""
    part = part_around(dict.fromkeys(slices, ((60, 101), (100, 140))), [], stack)
    target = np.full(part.space, IGNORE, np.uint8)
    for z in slices:
        target[part.position(z), 100, 105:135], target[part.position(z), 60, 100:140] = 1, 0
    return Sample(stack.cut(part), target, (1.0, 1.0, 1.0), "huge", part=part)


def test_a_part_has_the_drawn_slices_and_neighbours_of_the_same_volume() -> None:
    box = ((60, 101), (100, 140))
    assert part_around({5: box}, [20], stack()[0]).slices == (2, 3, 4, 5, 6, 7, 8, 17, 18, 19, 20, 21, 22, 23)
    part = part_around({9: box, 30: box}, [], stack(depth=10)[0])
    assert part.slices == (6, 7, 8, 9, 30, 31, 32, 33)  # 10 begins another volume, and so does 30
    assert [list(run) for run in part.runs] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert part.box == ((0, 256), (0, 256))  # no longer than the slice is


def test_neighbours_make_room_where_slices_are_large() -> None:
    large = Stack(Counted(), (1, 200, 2000, 2000), 200)
    everywhere = ((0, 2000), (0, 2000))
    assert part_around({10: everywhere, 90: everywhere}, [], large).slices == (10, 90)  # 4 million voxels are enough
    near = part_around({10: ((900, 1000), (900, 1000))}, [], large)
    assert near.slices == (7, 8, 9, 10, 11, 12, 13)
    assert np.prod(near.space) <= LEARNT
    assert near.box == ((640, 1280), (640, 1280))  # 512 pixels around the strokes, to the grid


def test_the_box_of_nothing_is_the_slice() -> None:
    assert roomy([], (300, 400)) == ((0, 300), (0, 400))


def test_training_and_prediction_read_what_they_need() -> None:
    image, reads = stack()
    sample = drawn(image, (10,))
    run = Run([sample], TINY, ("background", "disc"))
    assert not reads.read  # nothing happens before the first step
    assert [(p.stage, p.iteration) for p in run] == [
        ("propagation", 0),  # the slice that was drawn on
        ("propagation", 0),  # and its neighbours
        ("training", 1),
        ("training", 2),
    ]
    spread = {4, 9, 13, 17, 22, 26, 30, 35}  # whose intensities stand for all
    assert set(reads.read) == {*range(7, 14), *spread}
    assert run.teachers["huge"].shape == (2, 7, 256, 256)
    assert run.parts["huge"] == sample.part
    reads.read.clear()
    prepared = run.model.prepared(image.plane(25), like=image.values())
    assert run.model.item_probabilities(prepared, 0)["ensemble"].shape == (2, 256, 256)
    assert reads.read == [25]


def test_a_part_is_normalised_as_the_whole() -> None:
    image, _ = stack()
    for how in ("equalised", "percentile", "zscore"):
        config = Config(normalisation=how)
        whole = normalise(np.asarray(image), config)[:, 12]
        alone = normalise_like(image.plane(12), image.values(), config)
        assert np.abs(alone - whole).max() < 0.05 * np.ptp(whole)  # the values are those of 8 slices of 40


def test_a_slice_in_colour_is_seen_as_the_mean_of_its_channels() -> None:
    config = replace(TINY, colours="mean", normalisation="zscore")
    model = Model.new(config, ("background", "disc"), 1)
    y, x = np.indices((64, 64))
    colour = np.stack([x, y, 2.0 * x + y]).astype(np.float32)
    seen = model.prepared(colour, like=colour.reshape(3, -1)).items
    assert seen.shape == (1, 1, 64, 64)
    assert torch.allclose(seen, model.prepared(colour).items, atol=2e-3)  # the curve has 4096 knots
    grey = model.prepared(colour.mean(0, keepdims=True), like=colour.mean(0).reshape(1, -1)).items
    assert torch.equal(seen, grey)


def test_strokes_of_a_time_point_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like them at another time is found there nevertheless, where looks decide."""
    monkeypatch.setattr("trainer.propagation.CROWD", 1.0)  # they do not
    image, _ = stack()
    part = Part(tuple(range(6)), ((0, 256), (0, 256)), 3, (256, 256))  # two volumes of three slices
    target = np.full((6, 256, 256), IGNORE, np.uint8)
    target[1, 100, 105:135], target[1, 60, 100:140] = 1, 0
    sample = Sample(np.asarray(image.cut(part)), target, (1.0, 1.0, 1.0), "film", part=part)
    reached = propagate(sample, 2).confidence.max((1, 2)) > 0
    assert reached.tolist() == [True, True, True, False, False, False]


def test_planes_are_those_of_the_box() -> None:
    image = Stack(Counted(), (1, 200, 2000, 2000), 200)
    part = part_around({10: ((900, 1000), (900, 1000))}, [], image)
    target = np.full(part.space, IGNORE, np.uint8)
    target[3, 300, 400] = 1
    sample = Sample(image.cut(part), target, (1.0, 1.0, 1.0), part=part)
    plane = plane_of(sample, target, 10)
    assert np.argwhere(plane != IGNORE).tolist() == [[300, 400]]
    assert np.argwhere(part.plane(plane, IGNORE) != IGNORE).tolist() == [[940, 1040]]
    assert (plane_of(sample, target, 100) == IGNORE).all()


def test_strokes_elsewhere_are_another_sample() -> None:
    image, _ = stack()
    assert unchanged(drawn(image, (10,)), drawn(image, (10,)))
    assert not unchanged(drawn(image, (10,)), drawn(image, (11,)))


def test_a_part_becomes_a_case_for_each_of_its_volumes() -> None:
    sample = drawn(stack()[0], (10, 30))
    assert [(v.name, v.image.shape) for v in volumes(sample)] == [
        ("huge_00007", (1, 7, 256, 256)),
        ("huge_00027", (1, 7, 256, 256)),
    ]


def test_networks_for_volumes_refuse_parts() -> None:
    config = replace(TINY, networks=("nnmamba",), patch=(16, 32, 32), propagation=False)
    with pytest.raises(ValueError, match="several volumes or too large"):
        list(Run([drawn(stack()[0], (10,))], config, ("background", "disc")))


def test_numbers_that_are_none_are_named_when_they_are_read() -> None:
    image = Stack(lambda number, rows, columns: np.full((1, 8, 8), np.nan if number == 2 else 1.0), (1, 3, 8, 8), 3)
    assert image.plane(0).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="slice 2 of the image has NaN"):
        image.plane(2)


def test_values_beyond_the_known_ones_are_as_the_nearest_of_them() -> None:
    like = np.array([[0.0, 10.0]])
    seen = normalise_like(np.array([[-5.0, 0.0, 5.0, 10.0, 99.0]]), like, Config(normalisation="zscore"))
    assert seen.tolist() == [[-1, -1, 0, 1, 1]]
