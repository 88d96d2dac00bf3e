"""Losses on tensors: partial cross-entropy on strokes, soft cross-entropy, Dice.

B batch · K classes · logits (B, K, *space) · target (B, *space), IGNORE where nobody drew · weight (B, *space) in 0..1
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.dataset import IGNORE

SMOOTH = 1e-5


def partial_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean of -log p of the drawn class over all drawn pixels of the batch, one pool; 0 where nothing is drawn."""
    total = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def soft_cross_entropy(logits: Tensor, probabilities: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy against soft labels (B, K, *space), averaged with a weight per pixel."""
    pixels = -(probabilities * logits.float().log_softmax(1)).sum(1)  # (B, *space)
    return (weight * pixels).sum() / weight.sum().clamp(min=1)


def dice_loss(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    squared: bool = True,
    background: bool = True,
) -> Tensor:
    """1 - Dice of each class, summed over batch and space, averaged over the classes.

    probabilities and target are (B, K, *space), the target one-hot or soft. `squared` squares both in the
    denominator (V-Net, arXiv 1606.04797, eq. 1-2); `background` counts class 0.
    """
    weight = torch.ones_like(probabilities[:, :1]) if weight is None else weight.unsqueeze(1)
    power = 2 if squared else 1
    axes = [0, *range(2, probabilities.ndim)]
    overlap = (weight * probabilities * target).sum(axes)  # (K,)
    size = (weight * (probabilities**power + target**power)).sum(axes)
    loss = 1 - (2 * overlap + SMOOTH) / (size + SMOOTH)
    return loss.mean() if background else loss[1:].mean()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, *space) class ids -> (B, K, *space) float; a pixel of IGNORE is zero in every class."""
    drawn = labels != IGNORE
    hot = F.one_hot(labels.where(drawn, 0), classes) * drawn.unsqueeze(-1)
    return hot.movedim(-1, 1).float()
