"""The stroke network: what it sees can be worked out by hand, any size and number of classes go in, and it helps."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.pretrain import (
    SIDES,
    Options,
    against_the_rest,
    batches,
    drawing,
    examples_of,
    scores,
    seen,
    train,
    turned,
)
from trainer.propagation import first_looks
from trainer.sample import IGNORE
from trainer.strokenet import INPUTS, WEIGHTS, StrokeNet, detailed, inputs, nearness, pretrained, refine, refined

CARD = json.loads(WEIGHTS.with_suffix(".json").read_text())


def spots(side: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nine bright spots on a dark ground (1, S, S), their truth, and strokes on three of them and in between."""
    y, x = np.indices((side, side))
    truth = (np.hypot(y % 16 - 8, x % 16 - 8) < 4.5).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 0.03, truth.shape)
    strokes = np.full(truth.shape, IGNORE, np.uint8)
    strokes[24, 22:27] = strokes[40, 6:11] = strokes[8, 38:43] = 1
    strokes[16, 14:40] = strokes[20:38, 32] = 0
    return (0.2 + 0.6 * truth + noise).clip(0, 1)[None].astype(np.float32), truth, strokes


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


# ---- what it sees ----


def test_nearness_falls_to_a_third_at_five_pixels() -> None:
    line = np.zeros((1, 11), bool)
    line[0, 0] = True
    np.testing.assert_allclose(nearness(line)[0, [0, 5, 10]], np.exp([0, -1, -2]))
    assert not nearness(np.zeros((3, 3), bool)).any()


def test_two_classes_see_each_other_as_the_rest() -> None:
    image, _, strokes = spots()
    P = np.stack([np.full((48, 48), 0.25), np.full((48, 48), 0.75)])
    ground, spot = inputs(image, strokes, P, P[::-1], np.array([0, 1]))
    assert ground.shape == (INPUTS, 48, 48) and ground.dtype == np.float32
    np.testing.assert_array_equal(ground[:2], spot[:2])  # one image
    assert (ground[2] == -0.5).all() and (spot[2] == 0.5).all()
    np.testing.assert_array_equal(ground[3], spot[4])  # mine is the other's rest
    assert (ground[7] == 0.5).all() and (spot[7] == -0.5).all()


# ---- the network ----


def test_any_size_goes_in_and_a_gradient_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    network = StrokeNet()
    logits = network(torch.randn(2, INPUTS, 37, 50))
    assert logits.shape == (2, 1, 37, 50)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize("space", [(16, 16), (12, 14), (1, 2)])
def test_an_image_may_be_a_single_pixel_to_the_coarsest_level(space: tuple[int, int]) -> None:
    assert pretrained()(torch.rand(2, INPUTS, *space)).shape == (2, 1, *space)


def test_the_grey_may_have_any_gain_and_offset() -> None:
    """Contrast-normalised images differ in their moments; what the network sees does not."""
    image, _, strokes = spots()
    P = np.full((2, 48, 48), 0.5)
    same = inputs(0.5 * image + 0.2, strokes, P, P, np.array([0, 1]))
    np.testing.assert_allclose(same, inputs(image, strokes, P, P, np.array([0, 1])), atol=2e-3)


# ---- the shipped weights ----


def test_the_card_is_that_of_the_weights() -> None:
    assert CARD["sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert CARD["parameters"] == sum(p.numel() for p in StrokeNet().parameters())
    assert WEIGHTS.stat().st_size < 10e6


def test_it_finds_the_spots_that_the_walk_cannot_reach() -> None:
    image, truth, strokes = spots()
    P, L = (each[:, 0] for each in first_looks(image[:, None], strokes[None], 2))
    better = refine(image, strokes, P, L)
    walked, found = (overlap(answer.argmax(0) == 1, truth == 1) for answer in (P, better))
    assert walked <= 0.5  # three of nine: 2 * 3 / (3 + 9)
    assert found > 0.9


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("channels", [1, 3])
def test_probabilities_of_any_number_of_classes_and_channels(classes: int, channels: int) -> None:
    rng = np.random.default_rng(0)
    strokes = np.full((30, 41), IGNORE, np.uint8)
    for c in range(classes):
        strokes[4 * c + 1, 5:30] = c
    P = rng.dirichlet(np.ones(classes), (30, 41)).transpose(2, 0, 1)
    L = rng.dirichlet(np.ones(classes), (30, 41)).transpose(2, 0, 1)
    better = refine(rng.uniform(size=(channels, 30, 41)).astype(np.float32), strokes, P, L)
    assert better.shape == P.shape and better.dtype == np.float32 and better.min() >= 0
    np.testing.assert_allclose(better.sum(0), 1, atol=1e-5)


def test_a_class_without_a_stroke_keeps_what_it_has() -> None:
    image, _, strokes = spots()
    P = np.stack([np.full((48, 48), p) for p in (0.5, 0.3, 0.2)])
    better = refine(image, strokes, P, P)
    np.testing.assert_allclose(better[2], 0.2)
    np.testing.assert_allclose(better.sum(0), 1, atol=1e-5)


def test_the_order_of_the_classes_does_not_matter() -> None:
    image, _, strokes = spots()
    P = np.random.default_rng(0).dirichlet([1, 1], (48, 48)).transpose(2, 0, 1)
    swapped = np.where(strokes == IGNORE, IGNORE, 1 - strokes).astype(np.uint8)
    L = P**2 / (P**2).sum(0)
    turned = refine(image, swapped, P[::-1], L[::-1])
    np.testing.assert_allclose(turned, refine(image, strokes, P, L)[::-1], atol=1e-5)


def test_a_large_image_is_seen_coarsely(monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth, strokes = spots()
    large, many = image.repeat(3, 1).repeat(3, 2), strokes.repeat(3, 0).repeat(3, 1)
    monkeypatch.setattr("trainer.strokenet.PIXELS", 48 * 48)
    P, L = (each[:, 0] for each in first_looks(large[:, None], many[None], 2))
    better = refine(large, many, P, L)
    assert better.shape == (2, 144, 144)
    assert overlap(better.argmax(0) == 1, truth.repeat(3, 0).repeat(3, 1) == 1) > 0.8


def test_a_coarse_answer_keeps_the_forests_details() -> None:
    """Sure of one class on a coarse grid where the forest is even, it follows a thin line that only the forest sees."""
    fine = np.full((2, 8, 8), 0.5)
    fine[:, 3] = [[0.1], [0.9]]
    half = np.full((2, 4, 4), 0.5)
    np.testing.assert_array_equal(detailed(half, half, fine).argmax(0)[3], 1)  # no opinion: the forest's
    against = np.stack([np.full((4, 4), 0.99), np.full((4, 4), 0.01)])
    assert (detailed(against, half, fine).argmax(0) == 0).all()  # a strong one: the network's


def test_strokes_of_one_class_are_refused() -> None:
    image, _, strokes = spots()
    strokes[strokes == 0] = IGNORE
    with pytest.raises(ValueError, match=r"at least two classes.*\[1\]"):
        refine(image, strokes, np.full((2, 48, 48), 0.5), np.full((2, 48, 48), 0.5))


def test_it_is_better_than_the_walk_on_generated_images_that_it_has_not_seen() -> None:
    """On eight of those of the card."""
    found = scores(pretrained(), Options(seed=CARD["seed"], tested=8))
    assert found["1"] > found["0"]
    shares = CARD["dice on held-out generated images, by share of the network"]
    assert shares["1"] > shares["0"]


# ---- pretraining ----


def test_the_loss_is_what_the_paper_and_pencil_say() -> None:
    """p = .5 everywhere and half of four pixels in the mask: cross-entropy log 2, Dice 2 * 1 / (4 * .25 + 2)."""
    logits, masks = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert against_the_rest(logits, masks).item() == pytest.approx(np.log(2) + 1 - 2 / 3, abs=1e-3)


def test_turning_moves_the_mask_with_the_picture() -> None:
    mask = np.zeros((8, 8), bool)
    mask[1, 2] = True
    views = np.repeat(mask[None], INPUTS, 0).astype(np.float16)
    for seed in range(8):
        moved, where = turned((views, mask), np.random.default_rng(seed))
        np.testing.assert_array_equal(moved[2] == 1, where)


def test_a_batch_is_of_one_size_and_all_examples_come() -> None:
    examples = [
        (np.full((INPUTS, side, side), i, np.float16), np.zeros((side, side), bool))
        for i, side in enumerate([112] * 9 + [192] * 3)
    ]
    source = batches(examples, np.random.default_rng(0))
    sizes = sorted((len(views), views.shape[-1]) for views, _ in (next(source) for _ in range(3)))
    assert sizes == [(1, 112), (3, 192), (8, 112)]


def test_a_few_seconds_of_pretraining_lower_the_loss(tmp_path: Path) -> None:
    options = Options(out=tmp_path / "weights.safetensors", minutes=0.02)
    drawn, examples = drawing(0, 0), examples_of(0, 0)
    assert len(drawn.label) == SIDES[0]
    image, P, L = seen(drawn)
    before = refined(StrokeNet().eval(), image, drawn.strokes, P, L)
    after = refined(train(examples, options), image, drawn.strokes, P, L)
    right = [(answer.argmax(0) == drawn.label).mean() for answer in (before, after)]
    assert right[1] > right[0]
