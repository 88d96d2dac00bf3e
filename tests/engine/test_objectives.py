"""Losses one can work out on paper, and the published objective against values of its own code (tests/golden)."""

import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config import Config
from trainer.losses import (
    certain_difference,
    class_contrast,
    dice_loss,
    entropy,
    gated_crf,
    level_set,
    one_hot,
    opening_residue,
    partial_cross_entropy,
    partial_dice,
    soft_cross_entropy,
    total_variation,
)
from trainer.networks.unet import TwoDecoderUNet, UNet
from trainer.objectives import (
    OBJECTIVES,
    Batch,
    TeacherViews,
    cross_teaching,
    dmpls,
    dmsps,
    ema_update,
    finest,
    mixed_label,
    new_teacher,
    plain_view,
    propagated,
    ramp,
    scale_weights,
    scribblevs,
    simplex,
    supervised,
    sure_label,
    teacher_views,
    ustm,
)
from trainer.sample import IGNORE

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import parity_common  # noqa: E402
from toys import disc, scribbled  # noqa: E402

golden = json.loads((GOLDEN / "public" / "objectives.json").read_text())
META, ITEMS = golden["meta"], golden["items"]
B, K, H, W, SEED = (META[key] for key in ("B", "K", "H", "W", "seed"))
CONFIG = Config(iterations=1, ramp_up=False, propagation=False)
PUBLISHED = replace(CONFIG, normalisation="percentile")  # images are in 0..1 as they come


def golden_logits(name: str) -> torch.Tensor:
    values = parity_common.rng_for(f"{SEED}:obj:{name}").standard_normal((B, K, H, W))
    return torch.from_numpy(values.astype(np.float32)).requires_grad_()


def golden_image() -> torch.Tensor:
    values = parity_common.rng_for(f"{SEED}:obj:image").standard_normal((B, 1, H, W))
    return torch.from_numpy(((values - values.min()) / (values.max() - values.min())).astype(np.float32))


def golden_teacher() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the teacher, and of its eight passes over noisy images."""
    teacher = 3 * parity_common.rng_for(f"{SEED}:obj:teacher").standard_normal((B, K, H, W))
    noise = parity_common.rng_for(f"{SEED}:obj:noisy").standard_normal((8 * B, K, H, W))
    noisy = np.tile(teacher, (8, 1, 1, 1)) + noise
    return torch.from_numpy(teacher.astype(np.float32)), torch.from_numpy(noisy.astype(np.float32))


def golden_scribble() -> torch.Tensor:
    """Class ids, and IGNORE where the published code has the class K."""
    picked = parity_common.rng_for(f"{SEED}:obj:scribble").uniform(0, 1, (B, H, W)) < 0.08
    classes = parity_common.rng_for(f"{SEED}:obj:scribble_class").integers(0, K, (B, H, W))
    return torch.from_numpy(np.where(picked, classes, IGNORE))


def assert_gradient(found: torch.Tensor, expected: dict) -> None:
    samples = found.reshape(-1)[np.linspace(0, found.numel() - 1, 32).astype(int)]
    torch.testing.assert_close(samples, torch.tensor(expected["samples"]), rtol=0, atol=1e-5 * expected["max_abs"])
    assert float(found.double().abs().sum()) == pytest.approx(expected["abs_sum"], rel=1e-5)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_partial_cross_entropy_is_the_published_one(name: str) -> None:
    logits, expected = golden_logits(name), ITEMS["pce"]["per_logits"][name]
    loss = partial_cross_entropy(logits, golden_scribble())
    loss.backward()
    assert loss.item() == pytest.approx(expected["ce"] if "ce" in expected else expected["loss"], rel=2e-6)
    assert_gradient(logits.grad, expected["grad"])


def test_a_mix_by_loss_hears_only_who_has_a_share() -> None:
    """Two networks that have just joined have none: what they say does not count; evenly shared is as published."""
    logits, batch = {name: golden_logits(name) for name in "abc"}, Batch(torch.empty(0), golden_scribble())
    mix, by_loss = [0.2, 0.3, 0.5], replace(CONFIG, mix_by_loss=True)

    def losses(config: Config, mix: list[float]) -> list[float]:
        return [loss.item() for loss in cross_teaching(logits, batch, config, mix, 0.0).values()]

    alone = losses(CONFIG, [1.0, 0.0, 0.0])
    assert losses(replace(by_loss, shares=(1.0, 0.0, 0.0)), mix) == alone != losses(CONFIG, mix)
    assert losses(replace(by_loss, shares=(0.25, 0.25, 0.25)), mix) == losses(CONFIG, mix) == losses(by_loss, mix)
    published = replace(CONFIG, shares=(1.0, 0.0, 0.0))
    assert losses(published, mix) == losses(CONFIG, mix)


@pytest.mark.parametrize("case", ITEMS["weak_mamba_unet"]["cases"], ids=lambda case: str(case["draws"]))
def test_cross_teaching_is_weak_mamba_unet(case: dict) -> None:
    logits = {name: golden_logits(name) for name in "abc"}
    mix = [case["alpha"], case["beta"], case["gamma"]]
    label = mixed_label(logits, mix).to(torch.uint8).numpy()
    assert hashlib.sha256(label.tobytes()).hexdigest() == case["pseudo_label"]["sha256"]
    losses = cross_teaching(logits, Batch(torch.empty(0), golden_scribble()), CONFIG, mix, progress=0.0)
    sum(losses.values()).backward()
    for name, expected in case["nets"].items():
        assert losses[name].item() == pytest.approx(expected["loss"], rel=2e-6)
        assert_gradient(logits[name].grad, case["grad"][name])


@pytest.mark.parametrize("case", ITEMS["dmpls"]["cases"], ids=lambda case: str(case["draw"]))
@pytest.mark.parametrize("pooled_masks", [True, False])  # with a dense label, the two differ in the smoothing only
def test_dmpls_is_the_published_one(case: dict, pooled_masks: bool) -> None:
    logits = {name: golden_logits(name) for name in "ab"}
    mix = [case["beta"], 1 - case["beta"]]
    label = mixed_label(logits, mix).to(torch.uint8).numpy()
    assert hashlib.sha256(label.tobytes()).hexdigest() == case["pseudo_label"]["sha256"]
    nothing, batch = torch.full((B, H, W), IGNORE), Batch(torch.empty(0), golden_scribble())
    pair = {"unet_cct": list(logits.values())}
    loss = dmpls(pair, batch, CONFIG, mix, 0.0, pooled_masks)["unet_cct"]
    assert loss.item() == pytest.approx(case["loss"], rel=2e-6)
    for name, found in zip("ab", torch.autograd.grad(loss, list(logits.values())), strict=True):
        assert_gradient(found, case["grad"][name])
    term = dmpls(pair, Batch(torch.empty(0), nothing), CONFIG, mix, 0.0, pooled_masks)["unet_cct"] / 0.5
    assert term.item() == pytest.approx(case["loss_pse_sup"], rel=2e-6)
    for name, found in zip("ab", torch.autograd.grad(term, list(logits.values())), strict=True):
        assert_gradient(found, case["grad_pse_sup_only"][name])


def test_partial_dice_with_pooled_masks_is_the_published_one() -> None:
    logits, expected = golden_logits("a"), ITEMS["pdloss_on_scribble"]
    loss = partial_dice(logits.softmax(1), golden_scribble(), pooled_masks=True)
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)
    assert_gradient(logits.grad, expected["grad"]["a"])
    clean = partial_dice(logits.softmax(1), golden_scribble())
    assert clean.item() == pytest.approx(expected["value_without_batch_broadcast_f64"], rel=2e-6)


@pytest.mark.parametrize(("item", "pooled_masks"), [("dice_smooth_edge", False), ("pdloss_smooth_edge", True)])
def test_the_smoothing_of_a_class_that_is_not_there(item: str, pooled_masks: bool) -> None:
    logits, shift = golden_logits("a"), torch.zeros(1, K, 1, 1)
    shift[:, -1] = ITEMS[item]["last_class_logit_shift"]
    shifted = logits + shift
    loss = partial_dice(shifted.softmax(1), shifted.argmax(1), pooled_masks=pooled_masks)
    loss.backward()
    assert loss.item() == pytest.approx(ITEMS[item]["loss"], rel=2e-6)
    assert_gradient(logits.grad, ITEMS[item]["grad"]["a"])


PUBLISHED_TERMS = {
    "entropy_min": lambda p, image: entropy(p),
    "tv": lambda p, image: opening_residue(p, first_dropped=True),
    "inter_intra": class_contrast,
    "mumford_shah": lambda p, image: level_set(p, image, swapped=True) + total_variation(p),
    "gated_crf": lambda p, image: gated_crf(p, image, zeros_outside=True),
    "textbook_argument_order": lambda p, image: level_set(p, image) + total_variation(p),
    "weak_mamba_unet_losses_same_call": lambda p, image: level_set(p, image, swapped=True) + total_variation(image),
}


@pytest.mark.parametrize("name", PUBLISHED_TERMS)
def test_terms_are_the_published_ones(name: str) -> None:
    logits, expected = golden_logits("a"), (ITEMS | ITEMS["mumford_shah"]["variants"])[name]
    term = PUBLISHED_TERMS[name](logits.softmax(1), golden_image())
    term.backward()
    assert term.item() == pytest.approx(expected["term"], rel=2e-6)
    assert_gradient(logits.grad, expected["grad_term_only"]["a"])


@pytest.mark.parametrize("name", ["entropy_min", "inter_intra", "mumford_shah"])
def test_objectives_are_the_published_ones(name: str) -> None:
    logits, expected = golden_logits("a"), ITEMS[name]
    batch, progress = Batch(golden_image(), golden_scribble()), expected.get("iteration", 0) / 60_000
    loss = OBJECTIVES[name].loss({"unet": logits}, batch, PUBLISHED, [1.0], progress)["unet"]
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=2e-6)
    assert_gradient(logits.grad, expected["grad"]["a"])


def test_the_objective_gated_crf_is_the_published_one_but_for_a_constant() -> None:
    logits, expected = golden_logits("a"), ITEMS["gated_crf"]
    batch = Batch(golden_image(), golden_scribble())
    loss = OBJECTIVES["gated_crf"].loss({"unet": logits}, batch, PUBLISHED, [1.0], 0.0)["unet"]
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"] - 0.1 * expected["border_padding_constant_f64"], rel=2e-6)
    assert_gradient(logits.grad, expected["grad"]["a"])


@pytest.mark.parametrize("case", ITEMS["ustm"]["cases"], ids=lambda case: str(case["rot_times"]))
def test_ustm_is_the_published_one(case: dict) -> None:
    crop = (..., slice(case["square_crop"]), slice(case["square_crop"]))
    whole, (teacher, noisy) = golden_logits("a"), golden_teacher()
    views = TeacherViews(case["rot_times"], teacher[crop], noisy[crop])
    progress = case["iteration"] / case["max_iterations"]

    def loss(target: torch.Tensor) -> torch.Tensor:
        batch = Batch(torch.empty(0), target)
        return ustm({"unet": whole[crop]}, batch, PUBLISHED, [1.0], progress, {"unet": views})["unet"]

    scribble = golden_scribble()[crop]
    total, term = loss(scribble), loss(torch.full_like(scribble, IGNORE)) / case["consistency_weight"]
    assert total.item() == pytest.approx(case["loss"], rel=2e-6)
    assert term.item() == pytest.approx(case["term"], rel=2e-6)
    for value, key in ((total, "grad"), (term, "grad_term_only")):
        assert_gradient(torch.autograd.grad(value, whole)[0][crop], case[key]["a"])


def test_cross_teaching_takes_two_networks_or_four() -> None:
    for n in (2, 4):
        logits = {f"unet{i}": golden_logits("abca"[i]) for i in range(n)}
        losses = cross_teaching(logits, Batch(torch.empty(0), golden_scribble()), CONFIG, [1 / n] * n, 0.0)
        assert list(losses) == list(logits)


def test_the_mix_is_a_point_of_the_simplex() -> None:
    rng = np.random.default_rng(0)
    draws = np.array([simplex(3, rng) for _ in range(2000)])
    assert (draws >= 0).all() and np.allclose(draws.sum(1), 1)
    assert np.allclose(draws.mean(0), 1 / 3, atol=0.02)  # uniform: every corner alike
    assert np.allclose(draws.var(0), 1 / 18, atol=0.005)  # variance of Dirichlet(1, 1, 1)


def test_partial_cross_entropy_counts_drawn_pixels_only() -> None:
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 1, 0, 2] = 50.0  # a third pixel, badly wrong, but nobody drew there
    target = torch.tensor([[[0, 1, IGNORE]]])
    assert partial_cross_entropy(logits, target).item() == pytest.approx(math.log(2))


def test_partial_cross_entropy_without_strokes_is_zero_with_a_graph() -> None:
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    loss = partial_cross_entropy(logits, torch.full((1, 2, 2), IGNORE))
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_dice_loss_on_paper() -> None:
    p = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]])
    t = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 1.0, 1.0]]]])
    # class 0: 2*1/(2+1); class 1: 2*2/(2+3)
    assert dice_loss(p, t).item() == pytest.approx(((1 - 2 / 3) + (1 - 4 / 5)) / 2, abs=1e-4)
    assert dice_loss(p, t, background=False).item() == pytest.approx(1 - 4 / 5, abs=1e-4)
    half = torch.full_like(p, 0.5)
    assert dice_loss(half, t, squared=False).item() == pytest.approx((1 - 2 * 0.5 / 3 + 1 - 2 * 1.5 / 5) / 2, abs=1e-4)
    wrong_pixel = torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])
    assert dice_loss(p, t, wrong_pixel).item() == pytest.approx(0, abs=1e-4)


def test_soft_cross_entropy_weighs_each_pixel() -> None:
    logits = torch.tensor([[[[0.0, 9.0]], [[0.0, 0.0]]]])
    teacher = torch.tensor([[[[0.5, 0.0]], [[0.5, 1.0]]]])
    weight = torch.tensor([[[1.0, 0.0]]])
    assert soft_cross_entropy(logits, teacher, weight).item() == pytest.approx(math.log(2))


def test_one_hot_leaves_what_nobody_drew_empty() -> None:
    hot = one_hot(torch.tensor([[[0, 2, IGNORE]]]), 3)
    assert hot[0, :, 0].T.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_supervised_ignores_what_nobody_drew() -> None:
    target = torch.tensor([[[0, 1, IGNORE, IGNORE]]])
    logits = torch.randn(1, 2, 1, 4)
    other = logits.clone()
    other[..., 2:] = 7 * torch.randn(1, 2, 1, 2)
    losses = [supervised({"unet": x}, Batch(x, target), CONFIG, [1.0], 0.0)["unet"].item() for x in (logits, other)]
    assert losses[0] == pytest.approx(losses[1])


def test_a_teacher_without_confidence_teaches_nothing() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    teacher = torch.full((1, 3, 4, 4), 1 / 3)
    batch = Batch(torch.empty(0), torch.full((1, 4, 4), IGNORE), teacher, torch.zeros(1, 4, 4))
    propagated(logits, batch, CONFIG).backward()
    assert logits.grad.abs().max() == 0


def test_deep_supervision_weighs_as_nnunet() -> None:
    assert scale_weights(4) == pytest.approx([4 / 7, 2 / 7, 1 / 7, 0])
    assert scale_weights(2) == [1, 0] and scale_weights(1) == [1]


@pytest.mark.parametrize("space", [(8, 8), (4, 8, 8)])
def test_supervised_takes_coarser_outputs(space: tuple[int, ...]) -> None:
    """Two halves, labels without strokes in one corner: each scale has a loss that is worked out by itself."""
    target = torch.zeros(1, *space, dtype=torch.int64)
    target[..., 4:] = 1
    target[..., :2, 2] = IGNORE
    scales = [space, tuple(n // 2 for n in space), tuple(n // 4 for n in space)]
    logits = [torch.randn(1, 2, *scale, requires_grad=True) for scale in scales]
    coarser = target[(..., *[slice(1, None, 2)] * len(space))]  # nearest-exact: 0.5, 2.5, ... -> 1, 3, ...
    batch = Batch(torch.empty(0), target)
    loss = supervised({"unet": logits}, batch, CONFIG, [1.0], 0.0)["unet"]
    alone = [
        supervised({"unet": x}, Batch(torch.empty(0), y), CONFIG, [1.0], 0.0)["unet"].item()
        for x, y in ((logits[0], target), (logits[1], coarser))
    ]
    assert loss.item() == pytest.approx((2 * alone[0] + alone[1]) / 3)
    loss.backward()
    assert logits[1].grad is not None and logits[2].grad is None  # the coarsest does not count


def test_propagated_strokes_reach_coarser_outputs() -> None:
    teacher = torch.rand(1, 2, 4, 4).softmax(1)
    batch = Batch(torch.empty(0), torch.full((1, 4, 4), IGNORE), teacher, torch.ones(1, 4, 4))
    logits = [torch.zeros(1, 2, n, n, requires_grad=True) for n in (4, 2, 1)]
    loss = cross_teaching({"a": logits, "b": logits[0]}, batch, CONFIG, [0.5, 0.5], 0.0)["a"]
    loss.backward()
    assert logits[0].grad.abs().max() > 0 and logits[1].grad.abs().max() > 0


@pytest.mark.parametrize("name", ["pce", "entropy_min", "tv", "inter_intra", "mumford_shah", "gated_crf", "supervised"])
def test_objectives_take_volumes(name: str) -> None:
    """A volume whose slices are all alike, in a batch of one, costs what its slices cost as a batch."""
    logits, image, target = torch.randn(1, 3, 6, 5), torch.rand(1, 1, 6, 5), torch.randint(0, 3, (1, 6, 5))
    flat = Batch(image.repeat(4, 1, 1, 1), target.repeat(4, 1, 1))
    deep = Batch(image[:, :, None].repeat(1, 1, 4, 1, 1), target[:, None].repeat(1, 4, 1, 1))
    volume = logits[:, :, None].repeat(1, 1, 4, 1, 1).requires_grad_()
    loss = OBJECTIVES[name].loss({"unet": volume}, deep, CONFIG, [1.0], 0.5)["unet"]
    slices = OBJECTIVES[name].loss({"unet": logits.repeat(4, 1, 1, 1)}, flat, CONFIG, [1.0], 0.5)["unet"]
    assert loss.item() == pytest.approx(slices.item(), rel=5e-3)  # inter_intra: unbiased over 30 pixels or 120
    loss.backward()
    assert volume.grad.isfinite().all() and volume.grad.abs().max() > 0


def test_terms_on_paper() -> None:
    p = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 1.0]]]])  # a row of three pixels: class 0, 1, 1
    image = torch.tensor([[[[0.0, 0.0, 1.0]]]])
    assert total_variation(p).item() == 2  # one step in each of two classes
    assert level_set(p, image).item() == pytest.approx(0.5)  # class 1: 0 and 1, mean a half
    assert entropy(torch.full((1, 4, 2, 2), 0.25)).item() == pytest.approx(1, abs=1e-4)
    assert opening_residue(p).item() == pytest.approx(1 / 6)  # class 1 erodes to the last pixel, and grows by one
    # neighbours of alike intensity and different class: pixels 0 and 1, both directions; unlike ones do not matter
    assert gated_crf(p, image, spread=1.0, contrast=0.01).item() == pytest.approx(2 * math.exp(-0.5) / 3)


def test_gated_crf_sees_a_radius() -> None:
    p = torch.zeros(1, 2, 1, 8)
    p[:, 0, :, 0] = p[:, 1, :, 1:] = 1  # the first pixel against the others
    image = torch.zeros(1, 1, 1, 8)
    expected = 2 * sum(math.exp(-(d**2) / 72) for d in (1, 2, 3)) / 8
    assert gated_crf(p, image, radius=3).item() == pytest.approx(expected)


def test_a_teacher_that_is_never_sure_teaches_nothing() -> None:
    student, teacher = torch.randn(1, 2, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, 2)
    loss = certain_difference(student, teacher, teacher.repeat(8, 1, 1, 1), threshold=0.69)
    loss.backward()
    assert loss.item() == 0 and (student.grad == 0).all()
    sure = torch.tensor([100.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2)
    half = certain_difference(torch.zeros(1, 2, 2, 2), sure, sure.repeat(8, 1, 1, 1), threshold=0.69)
    assert half.item() == pytest.approx((0.5**2 + 0.5**2) / 2)


def test_dmsps_is_the_cross_entropy_of_a_soft_mix() -> None:
    logits = [torch.zeros(1, 2, 1, 1, requires_grad=True), torch.tensor([[[[math.log(3)]], [[0.0]]]])]  # p .5, .75
    batch = Batch(torch.empty(0), torch.full((1, 1, 1), IGNORE))
    found = dmsps({"unet_cct": logits}, batch, CONFIG, [0.5, 0.5], 0.0, softmax_twice=False)["unet_cct"].item()
    first, second = math.log(2), -(0.625 * math.log(0.75) + 0.375 * math.log(0.25))
    assert found == pytest.approx(8 * (first + second) / 2)
    twice = dmsps({"unet_cct": logits}, batch, CONFIG, [0.5, 0.5], 0.0)["unet_cct"].item()
    q = 1 / (1 + math.exp(-0.5))  # softmax of .75 and .25
    assert twice == pytest.approx(8 * (math.log(2) - 0.625 * math.log(q) - 0.375 * math.log(1 - q)) / 2)


def test_two_decoders_are_needed_by_what_mixes_them() -> None:
    batch = Batch(torch.empty(0), torch.full((1, 4, 4), IGNORE))
    for objective in (dmpls, dmsps):
        for outputs in (torch.zeros(1, 2, 4, 4), [torch.zeros(1, 2, n, n) for n in (4, 2)]):
            with pytest.raises(ValueError, match=r"unet has no second decoder.*use the network unet_cct"):
                objective({"unet": outputs}, batch, CONFIG, [0.5, 0.5], 0.0)
    rng = np.random.default_rng(0)
    assert len(OBJECTIVES["dmpls"].mix(1, rng)) == 2 and len(OBJECTIVES["cross_teaching"].mix(3, rng)) == 3


def test_scribblevs_learns_from_whoever_fits_the_strokes() -> None:
    target = torch.tensor([[[0, IGNORE]]])
    good = torch.tensor([[[[5.0, -5.0]], [[0.0, 0.0]]]])  # right where drawn; says class 1 beside it
    bad = torch.tensor([[[[-1.0, 3.0]], [[0.0, 0.0]]]])
    for student, teacher, right in ((bad, good, good), (good, bad, good)):
        views = {"unet": TeacherViews(0, teacher)}
        loss = scribblevs({"unet": student}, Batch(torch.empty(0), target), CONFIG, [1.0], 1.0, views)["unet"]
        label = sure_label(right)
        expected = partial_cross_entropy(student, target) + 0.5 * (
            partial_cross_entropy(student, label) + partial_dice(student.softmax(1), label)
        )
        assert label.tolist() == [[[0, 1]]] and loss.item() == pytest.approx(expected.item())
    unsure = torch.tensor([[[[1.0]], [[0.99]], [[0.98]]]])  # a third each
    assert sure_label(unsure).tolist() == [[[IGNORE]]]


def tiny_unet(dropout: float = 0.0) -> UNet:
    return UNet(1, 2, widths=(2, 4), dropout=(dropout, dropout))


def test_the_teacher_is_a_moving_average_that_begins_as_a_copy() -> None:
    network = tiny_unet()
    teacher = new_teacher(network)
    weight, slow = network.decoder.out_conv.weight, teacher.decoder.out_conv.weight
    with torch.no_grad():
        weight.fill_(1.0)
    ema_update(teacher, network, iteration=0)
    assert (slow == 1).all() and not slow.requires_grad
    with torch.no_grad():
        weight.fill_(3.0)
    ema_update(teacher, network, iteration=1)
    assert (slow == 2).all()  # a half each
    ema_update(teacher, network, iteration=10_000)
    torch.testing.assert_close(slow, torch.full_like(slow, 2.01))  # .99 and .01
    network.train()(torch.rand(2, 1, 8, 8))
    assert teacher.encoder.in_conv.conv_conv[1].num_batches_tracked == 0  # buffers are its own


def test_teacher_views_are_turned_and_noisy_and_repeat() -> None:
    batch, network = Batch(torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8)), new_teacher(tiny_unet(dropout=0.5))
    views = [teacher_views(network, batch, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    assert torch.equal(views[0].logits, views[1].logits) and torch.equal(views[0].noisy, views[1].noisy)
    assert not torch.equal(views[0].logits, views[2].logits)
    assert views[0].logits.shape == (2, 2, 8, 8) and views[0].noisy.shape == (16, 2, 8, 8)
    turns = {teacher_views(network, batch, np.random.default_rng(seed)).turns for seed in range(20)}
    assert turns == {0, 1, 2, 3}


def test_the_order_of_the_noisy_passes_and_the_size_of_the_noise() -> None:
    """Through a network that gives back what it sees: pass t of sample n is at t * B + n, and noise ends at 0.2."""

    class Mirror(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    image = torch.arange(6.0).reshape(3, 2, 1, 1).expand(3, 2, 4, 6).clone()
    views = teacher_views(Mirror(1, 1, 1), Batch(image, torch.zeros(3, 4, 6)), np.random.default_rng(0))
    assert views.turns in (0, 2)  # not square
    far = (views.noisy.unflatten(0, (8, 3)) - image).abs()
    assert far.max() == pytest.approx(0.2, abs=1e-6) and far.mean() == pytest.approx(0.08, abs=0.01)
    assert len({float(x.sum()) for x in views.noisy}) == 24  # no noise twice
    assert torch.equal(plain_view(Mirror(1, 1, 1), Batch(image, image), np.random.default_rng(0)).logits, image)


def test_teacher_views_are_of_slices() -> None:
    batch = Batch(torch.rand(1, 1, 4, 8, 8), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"ustm turns slices.*give a patch of two axes"):
        teacher_views(tiny_unet(), batch, np.random.default_rng(0))


def test_two_decoders_share_an_encoder_and_the_keys_of_the_official_network() -> None:
    torch.manual_seed(0)
    network = TwoDecoderUNet(1, 3, widths=(4, 8), dropout=(0.0, 0.0))
    twin, parts = UNet(1, 3, widths=(4, 8), dropout=(0.0, 0.0)), network.state_dict()
    decoder = {key.removeprefix("decoder.") for key in twin.state_dict() if key.startswith("decoder.")}
    expected = {key for key in twin.state_dict() if key.startswith("encoder.")}
    expected |= {f"{name}.{key}" for name in ("main_decoder", "aux_decoder1") for key in decoder}
    assert parts.keys() == expected
    twin.load_state_dict({key.replace("main_decoder", "decoder"): x for key, x in parts.items() if "aux" not in key})
    image = torch.rand(2, 1, 9, 7)
    torch.testing.assert_close(network.eval()(image), twin.eval()(image))
    main, aux = network.train()(image)
    assert main.shape == aux.shape == (2, 3, 9, 7)
    (finest([main, aux]).mean() + aux.mean()).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_the_two_decoders_weigh_what_is_published() -> None:
    assert sum(x.numel() for x in TwoDecoderUNet(1, 4).parameters()) == 1_813_764 + sum(
        x.numel() for x in UNet(1, 4).decoder.parameters()
    )


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_falls_while_networks_learn_from_strokes(name: str) -> None:
    """Small networks, ten steps, with all that the objective asks of a run; every network's loss gets lower."""
    torch.manual_seed(0)
    objective, image, truth = OBJECTIVES[name], *disc()
    image = torch.from_numpy((image - image.min()) / np.ptp(image)).repeat(2, 1, 1, 1)
    batch = Batch(image, torch.from_numpy(scribbled(truth)).long().repeat(2, 1, 1))
    kind = UNet if objective.decoders == 1 else TwoDecoderUNet
    networks = {str(i): kind(1, 2, (8, 16), (0.0, 0.0)).train() for i in range(objective.networks_at_least)}
    optimiser = torch.optim.SGD([x for net in networks.values() for x in net.parameters()], 0.01)
    rng = np.random.default_rng(0)
    mix, teachers = objective.mix(len(networks), rng), {}
    if objective.mean_teacher is not None:
        views = {key: objective.mean_teacher(new_teacher(net), batch, rng) for key, net in networks.items()}
        teachers["teachers"] = views
    history = []
    for _ in range(10):
        logits = {key: net(image) for key, net in networks.items()}
        losses = objective.loss(logits, batch, PUBLISHED, mix, 0.5, **teachers)
        history.append(torch.stack(list(losses.values())).detach())
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    assert losses.keys() == networks.keys() and (history[-1] < history[0]).all()


def test_ramp_goes_from_e_to_the_minus_five_to_one() -> None:
    assert [ramp(t) for t in (-1, 0, 1, 2)] == pytest.approx([math.exp(-5), math.exp(-5), 1, 1])
