"""Losses on tensors: cross-entropy and Dice on strokes and soft labels, and what the literature adds to them.

B batch · K classes · C channels of the image · logits and probabilities (B, K, *space), space (H, W) or (D, H, W)
target (B, *space), IGNORE where nobody drew · weight (B, *space) in 0..1 · image (B, C, *space) in 0..1

The additions are those of WSL4MIS (github.com/HiLab-git/WSL4MIS), to its values. Where its code does other than what
was meant, an argument chooses; the default is what was meant.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.sample import IGNORE

SMOOTH = 1e-5
TINY = 1e-6  # inside a logarithm, as published


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


def partial_dice(probabilities: Tensor, target: Tensor, *, pooled_masks: bool = False) -> Tensor:
    """Dice loss over the labelled pixels.

    pooled_masks: a pixel counts as often as its place is labelled in the samples of the batch, an accident of
    broadcasting in the published pDLoss; where all is labelled, the smoothing is then B times smaller.
    """
    known = (target != IGNORE).float()
    weight = known.sum(0, keepdim=True).expand_as(known) if pooled_masks else known
    return dice_loss(probabilities, one_hot(target, probabilities.shape[1]), weight)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(B, *space) class ids -> (B, K, *space) float; a pixel of IGNORE is zero in every class."""
    drawn = labels != IGNORE
    hot = F.one_hot(labels.where(drawn, 0), classes) * drawn.unsqueeze(-1)
    return hot.movedim(-1, 1).float()


# What the literature adds to the strokes


def entropies(probabilities: Tensor) -> Tensor:
    """(B, 1, *space) -sum of p ln p over the classes."""
    return -(probabilities * (probabilities + TINY).log()).sum(1, keepdim=True)


def entropy(probabilities: Tensor) -> Tensor:
    """Mean over the pixels, 1 where all classes are alike."""
    return entropies(probabilities).mean() / math.log(probabilities.shape[1])


def total_variation(values: Tensor) -> Tensor:
    """Sum of the absolute differences between neighbours, along each axis of space."""
    return sum(values.diff(dim=axis).abs().sum() for axis in range(2, values.ndim))


def level_set(probabilities: Tensor, image: Tensor, *, swapped: bool = False) -> Tensor:
    """Mumford-Shah's data term, arXiv 1904.02872: sum of p (I - m)^2, m the mean intensity of each class and sample.

    swapped: sum of I (p - m)^2, m the mean probability where the image is bright, as WSL4MIS calls it.
    """
    p, intensity = probabilities.unsqueeze(1), image.unsqueeze(2)  # (B, 1, K, *space), (B, C, 1, *space)
    mass, value = (intensity, p) if swapped else (p, intensity)
    axes = list(range(3, p.ndim))
    mean = (mass * value).sum(axes, keepdim=True) / mass.sum(axes, keepdim=True).clamp(min=1e-12)
    return (mass * (value - mean) ** 2).sum()


def opening_residue(probabilities: Tensor, *, first_dropped: bool = False) -> Tensor:
    """Mean of what a 3 x 3 dilation adds to the 3 x 3 erosion of the probabilities: thin and ragged shapes cost.

    first_dropped: without the batch's first sample, where the published code meant the background; NaN for one sample.
    """
    p = planes(probabilities[1:] if first_dropped else probabilities)
    eroded = -F.max_pool2d(-p, 3, 1, 1)
    return (F.max_pool2d(eroded, 3, 1, 1) - eroded).relu().mean()


def class_contrast(probabilities: Tensor, image: Tensor) -> Tensor:
    """Deviation between the classes minus deviation within them, of the intensity that each class claims, p I."""
    claimed = (probabilities * image.mean(1, keepdim=True)).flatten(2)  # (B, K, pixels)
    return deviation(claimed.mean(2)).mean() - deviation(claimed).mean()


def deviation(values: Tensor) -> Tensor:
    """Unbiased, along the last axis; with a gradient where all values are alike, too."""
    return (values.var(-1) + 1e-14).sqrt()


def gated_crf(
    probabilities: Tensor,
    image: Tensor,
    radius: int = 5,
    spread: float = 6.0,
    contrast: float = 0.1,
    *,
    zeros_outside: bool = False,
) -> Tensor:
    """Gated CRF, arXiv 1906.04651: alike neighbours of different class cost k (1 - p_i . p_j), slice by slice.

        k_ij = exp(-|x_i - x_j|^2 / (2 spread^2) - |I_i - I_j|^2 / (2 contrast^2))

    over the ordered pairs within a box of that radius in pixels, divided by the number of pixels.
    zeros_outside: pixels outside count as neighbours at the origin with intensity 0, as published: a constant.
    """
    p, intensity = planes(probabilities), planes(image)
    total = p.new_zeros(())
    for i, j, distance in neighbours(radius, p.shape[2:]):
        unlike = ((intensity[i] - intensity[j]) ** 2).sum(1)  # (B, h, w)
        kernel = torch.exp(-distance / (2 * spread**2) - unlike / (2 * contrast**2))
        total = total + 2 * (kernel * (1 - (p[i] * p[j]).sum(1))).sum()
    if zeros_outside:
        total = total + outside(intensity, radius, spread, contrast)
    return total / (len(p) * p.shape[2] * p.shape[3])


def neighbours(radius: int, space: tuple[int, int]) -> Iterator[tuple[tuple, tuple, int]]:
    """(index of the pixels, index of their neighbours, squared distance) of each step to a neighbour, one way only."""
    H, W = space
    for dy in range(min(radius, H - 1) + 1):
        for dx in range(-min(radius, W - 1), min(radius, W - 1) + 1):
            if dy > 0 or dx > 0:
                left, right = max(-dx, 0), max(dx, 0)
                yield (
                    (..., slice(H - dy), slice(left, W - right)),
                    (..., slice(dy, H), slice(right, W - left)),
                    dy**2 + dx**2,
                )


def outside(intensity: Tensor, radius: int, spread: float, contrast: float) -> Tensor:
    """Sum of the kernels to pixels outside the image, taken as zero in position and intensity."""
    H, W = intensity.shape[2:]
    y, x = (torch.arange(n, device=intensity.device) for n in (H, W))
    rows, columns = ((a + radius).clamp(max=n - 1) - (a - radius).clamp(min=0) + 1 for a, n in ((y, H), (x, W)))
    missing = (2 * radius + 1) ** 2 - rows[:, None] * columns  # (H, W)
    distance = y[:, None] ** 2 + x**2
    return (missing * torch.exp(-distance / (2 * spread**2) - (intensity**2).sum(1) / (2 * contrast**2))).sum()


def planes(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> its slices (B D, C, H, W); an image of slices as it is."""
    return x if x.ndim == 4 else x.transpose(1, 2).flatten(0, 1)


def certain_difference(student: Tensor, teacher: Tensor, noisy: Tensor, threshold: float, classes: int = 2) -> Tensor:
    """Squared difference of the probabilities of two logits (B, K, H, W) where the teacher is sure; 0 if it never is.

    Sure: the mean probability of its passes over noisy images, logits `noisy` (T B, K, H, W), has an entropy below
    the threshold. Per sure pixel the sum over K is divided by `classes`, published as 2, whatever K.
    """
    mean = noisy.float().softmax(1).unflatten(0, (-1, len(teacher))).mean(0)  # (B, K, H, W)
    sure = entropies(mean) < threshold  # (B, 1, H, W)
    square = (student.float().softmax(1) - teacher.float().softmax(1)) ** 2
    return (sure * square).sum() / (classes * sure.sum() + 1e-16)
