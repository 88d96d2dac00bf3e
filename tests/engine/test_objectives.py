"""Losses one can work out on paper, and the published objective against values of its own code (tests/golden)."""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trainer.config import Config
from trainer.dataset import IGNORE
from trainer.losses import dice_loss, one_hot, partial_cross_entropy, soft_cross_entropy
from trainer.objectives import Batch, cross_teaching, mixed_label, propagated, ramp, simplex, supervised

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path.insert(0, str(GOLDEN))
import parity_common  # noqa: E402

golden = json.loads((GOLDEN / "public" / "objectives.json").read_text())
META, ITEMS = golden["meta"], golden["items"]
B, K, H, W, SEED = (META[key] for key in ("B", "K", "H", "W", "seed"))
CONFIG = Config(iterations=1, ramp_up=False, propagation=False)


def golden_logits(name: str) -> torch.Tensor:
    values = parity_common.rng_for(f"{SEED}:obj:{name}").standard_normal((B, K, H, W))
    return torch.from_numpy(values.astype(np.float32)).requires_grad_()


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


def test_ramp_goes_from_e_to_the_minus_five_to_one() -> None:
    assert [ramp(t) for t in (-1, 0, 1, 2)] == pytest.approx([math.exp(-5), math.exp(-5), 1, 1])
