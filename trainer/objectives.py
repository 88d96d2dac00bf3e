"""What a batch asks of the networks: {name: logits} in, {name: loss} out.

`cross_teaching` is Weak-Mamba-UNet (arXiv 2402.10887, eq. 1-6): partial cross-entropy on the strokes, and Dice against
the argmax of a randomly weighted mix of all networks' probabilities. `supervised` trains each network on its own.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.config import Config
from trainer.dataset import IGNORE
from trainer.losses import dice_loss, one_hot, partial_cross_entropy, soft_cross_entropy

Logits = dict[str, Tensor]  # network name -> (B, K, *space)


class Batch(NamedTuple):
    """Views of annotated images; the teacher is what propagation made of the strokes, where it ran."""

    image: Tensor  # (B, C, *space) float32, normalised
    target: Tensor  # (B, *space) int64, class or IGNORE
    teacher: Tensor | None = None  # (B, K, *space) float32, probabilities
    confidence: Tensor | None = None  # (B, *space) float32 in 0..1


def simplex(n: int, rng: np.random.Generator) -> list[float]:
    """n weights, uniform on the simplex: the pieces between n - 1 cuts of the unit interval."""
    cuts = np.sort(rng.uniform(size=n - 1))
    return np.diff(np.concatenate([[0.0], cuts, [1.0]])).tolist()


@torch.no_grad()
def mixed_label(logits: Logits, mix: list[float]) -> Tensor:
    """(B, *space) argmax of the mix of the networks' probabilities; hard, hence without gradient."""
    return sum(w * x.float().softmax(1) for w, x in zip(mix, logits.values(), strict=True)).argmax(1)


def cross_teaching(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Logits:
    """Loss of each network: strokes + propagated strokes (where there are any) + the mixed prediction of all.

    `mix` holds one weight per network, drawn once an iteration (`simplex`); `progress` is 0..1 of the run.
    """
    classes = next(iter(logits.values())).shape[1]
    pseudo = one_hot(mixed_label(logits, mix), classes)
    weight = config.teaching * (ramp(progress) if config.ramp_up else 1.0)
    return {
        name: partial_cross_entropy(x, batch.target) + propagated(x, batch, config) + weight * dice(x, pseudo, config)
        for name, x in logits.items()
    }


def supervised(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Logits:
    """Cross-entropy + Dice on the labels, for each network alone; pixels of IGNORE count in neither."""
    classes = next(iter(logits.values())).shape[1]
    known = (batch.target != IGNORE).float()
    label = one_hot(batch.target, classes)
    return {
        name: partial_cross_entropy(x, batch.target) + propagated(x, batch, config) + dice(x, label, config, known)
        for name, x in logits.items()
    }


def propagated(logits: Tensor, batch: Batch, config: Config) -> Tensor | float:
    """Soft cross-entropy + Dice against the propagated strokes, each pixel by its confidence."""
    if batch.teacher is None:
        return 0.0
    entropy = soft_cross_entropy(logits, batch.teacher, batch.confidence)
    return entropy + dice(logits, batch.teacher, config, batch.confidence)


def dice(logits: Tensor, target: Tensor, config: Config, weight: Tensor | None = None) -> Tensor:
    probabilities = logits.float().softmax(1)
    return dice_loss(probabilities, target, weight, squared=config.squared_dice, background=config.dice_background)


def ramp(progress: float) -> float:
    """Sigmoid ramp-up of Laine and Aila, arXiv 1610.02242: e^(-5 (1 - t)^2)."""
    return float(np.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2))


Objective = Callable[[Logits, Batch, Config, list[float], float], Logits]
OBJECTIVES: dict[str, Objective] = {"cross_teaching": cross_teaching, "supervised": supervised}
