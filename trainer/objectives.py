"""What a batch asks of the networks: {name: logits} in, {name: loss} out; OBJECTIVES is the table.

`cross_teaching` is Weak-Mamba-UNet (arXiv 2402.10887, eq. 1-6): partial cross-entropy on the strokes, and Dice against
the argmax of a randomly weighted mix of all networks' probabilities. `supervised` trains each network on its own, and
so do the literature's other ways to learn from strokes, each as its published code computes it. Where that code does
other than what was meant, the line that calls the loss says which of the two it takes.

B batch · K classes · a network gives logits (B, K, *space), or while training several: of coarser scales, or
of two decoders
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
from trainer.networks.blocks import seed_dropout
from trainer.sample import IGNORE

Outputs = Tensor | list[Tensor]  # of one network: (B, K, *space), or several, the finest or main one first
Logits = dict[str, Outputs]  # network name -> its outputs
Losses = dict[str, Tensor]  # network name -> scalar
PASSES = 8  # of a mean teacher over noisy images


class Batch(NamedTuple):
    """Views of annotated images; the teacher is what propagation made of the strokes, where it ran.

    Of whole volumes the target is their class, (B,) int64, or the heat maps of n landmarks, (B, n, *space) float32,
    NaN where one is not to be seen.
    """

    image: Tensor  # (B, C, *space) float32, normalised
    target: Tensor  # (B, *space) int64, class or IGNORE
    teacher: Tensor | None = None  # (B, K, *space) float32, probabilities
    confidence: Tensor | None = None  # (B, *space) float32 in 0..1


def simplex(n: int, rng: np.random.Generator) -> list[float]:
    """n weights, uniform on the simplex: the pieces between n - 1 cuts of the unit interval."""
    cuts = np.sort(rng.uniform(size=n - 1))
    return np.diff(np.concatenate([[0.0], cuts, [1.0]])).tolist()


def normalised(weights: np.ndarray) -> list[float]:
    """So that they are 1 together."""
    return (weights / weights.sum()).tolist()


def ramp(progress: float) -> float:
    """Sigmoid ramp-up of Laine and Aila, arXiv 1610.02242: e^(-5 (1 - t)^2)."""
    return float(np.exp(-5 * (1 - min(max(progress, 0.0), 1.0)) ** 2))


# Networks that teach each other, and dense labels


def cross_teaching(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Loss of each network: strokes + propagated strokes (where there are any) + the mixed prediction of all.

    `mix` holds one weight per network, drawn once an iteration (`simplex`); `progress` is 0..1 of the run.
    config.shares: of each network in the ensemble by now, which `mix_by_loss` multiplies these with.
    """
    if len(logits) == 1:  # it leads, and has nobody to learn from yet
        return pce(logits, batch, config, mix, progress)
    if config.mix_by_loss and config.shares:
        mix = normalised(np.multiply(mix, config.shares))
    mixed = Batch(batch.image, mixed_label(logits, mix))
    weight = config.teaching * (ramp(progress) if config.ramp_up else 1.0)
    return {
        name: over_scales(x, batch, config, from_strokes) + weight * over_scales(x, mixed, config, dice_of_labels)
        for name, x in logits.items()
    }


def supervised(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Cross-entropy + Dice on the labels, for each network alone; pixels of IGNORE count in neither."""

    def loss(x: Tensor, batch: Batch, config: Config) -> Tensor:
        return from_strokes(x, batch, config) + dice_of_labels(x, batch, config)

    return {name: over_scales(x, batch, config, loss) for name, x in logits.items()}


@torch.no_grad()
def mixed_label(logits: Logits, mix: list[float]) -> Tensor:
    """(B, *space) argmax of the mix of the networks' probabilities; hard, hence without gradient."""
    return mixed_probabilities([finest(x) for x in logits.values()], mix).argmax(1)


@torch.no_grad()
def mixed_probabilities(logits: list[Tensor], mix: list[float]) -> Tensor:
    return sum(w * x.float().softmax(1) for w, x in zip(mix, logits, strict=True))


def from_strokes(logits: Tensor, batch: Batch, config: Config) -> Tensor:
    """What every objective learns: cross-entropy on the strokes, and the propagated ones where there are any."""
    return partial_cross_entropy(logits, batch.target) + propagated(logits, batch, config)


def propagated(logits: Tensor, batch: Batch, config: Config) -> Tensor | float:
    """Soft cross-entropy + Dice against the propagated strokes, each pixel by its confidence."""
    if batch.teacher is None:
        return 0.0
    cross_entropy = soft_cross_entropy(logits, batch.teacher, batch.confidence)
    return cross_entropy + dice(logits, batch.teacher, config, batch.confidence)


def dice_of_labels(logits: Tensor, batch: Batch, config: Config) -> Tensor:
    """Pixels of IGNORE do not count."""
    return dice(logits, one_hot(batch.target, logits.shape[1]), config, (batch.target != IGNORE).float())


def dice(logits: Tensor, target: Tensor, config: Config, weight: Tensor | None = None) -> Tensor:
    probabilities = logits.float().softmax(1)
    return dice_loss(probabilities, target, weight, squared=config.squared_dice, background=config.dice_background)


# Deep supervision


def finest(outputs: Outputs) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def over_scales(
    outputs: Outputs, batch: Batch, config: Config, loss: Callable[[Tensor, Batch, Config], Tensor]
) -> Tensor:
    """The loss of the outputs at every scale, weighted, with the labels brought to each."""
    if isinstance(outputs, Tensor):
        return loss(outputs, batch, config)
    weighted = zip(scale_weights(len(outputs)), outputs, strict=True)
    return sum(w * loss(x, at_scale(batch, x.shape[2:]), config) for w, x in weighted if w > 0)


def scale_weights(scales: int) -> list[float]:
    """Half as much a scale, nothing for the coarsest, 1 together, as nnU-Net 2 has it: 4 -> 4/7, 2/7, 1/7, 0."""
    weights = [2.0**-i for i in range(scales - 1)] + [0.0] if scales > 1 else [1.0]
    return [w / sum(weights) for w in weights]


def at_scale(batch: Batch, space: tuple[int, ...]) -> Batch:
    """Labels by nearest neighbours, probabilities and confidence by means; the image stays as it is."""
    if batch.target.shape[1:] == space:
        return batch
    # nearest-exact, as nnU-Net 2 does; float32 holds every class id
    target = F.interpolate(batch.target[:, None].float(), space, mode="nearest-exact")[:, 0].long()
    if batch.teacher is None:
        return Batch(batch.image, target)
    teacher = F.interpolate(batch.teacher, space, mode="area")
    return Batch(batch.image, target, teacher, F.interpolate(batch.confidence[:, None], space, mode="area")[:, 0])


# Strokes and one more term: the baselines of WSL4MIS, weights as in its scripts, times config.teaching


def pce(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Partial cross-entropy alone."""
    return {name: over_scales(x, batch, config, from_strokes) for name, x in logits.items()}


def with_term(logits: Logits, batch: Batch, config: Config, weight: float, term: Callable[[Tensor], Tensor]) -> Losses:
    """Strokes + weight * term(probabilities), of the finest output."""
    weight = weight * config.teaching
    return {
        name: over_scales(x, batch, config, from_strokes) + weight * term(finest(x).float().softmax(1))
        for name, x in logits.items()
    }


def entropy_min(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Entropy minimisation, Grandvalet and Bengio 2004."""
    return with_term(logits, batch, config, 0.1, entropy)


def tv(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Ragged borders cost, arXiv 1605.01368. Of all samples: that the published code drops the first adds noise."""
    return with_term(logits, batch, config, 1e-2, opening_residue)


def inter_intra(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Contrast between and within the classes' intensities, with its sign as published; ramp over half of the run."""
    image = intensities(batch, config)
    return with_term(logits, batch, config, 0.1 * ramp(2 * progress), lambda p: class_contrast(p, image))


def mumford_shah(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Mumford-Shah, arXiv 1904.02872, as WSL4MIS calls it: image and probabilities swapped in the data term."""
    image = intensities(batch, config)
    return with_term(logits, batch, config, 1e-6, lambda p: level_set(p, image, swapped=True) + total_variation(p))


def gated_crf_loss(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Gated CRF, arXiv 1906.04651. Without the published constant of the border, which has no gradient."""
    image = intensities(batch, config)
    return with_term(logits, batch, config, 0.1, lambda p: gated_crf(p, image))


def intensities(batch: Batch, config: Config) -> Tensor:
    """The image in 0..1, for which the published weights and widths are: as it is, or each view stretched."""
    if config.normalisation == "percentile":
        return batch.image
    axes = tuple(range(2, batch.image.ndim))
    low, high = (extreme(batch.image, axes, keepdim=True) for extreme in (torch.amin, torch.amax))
    return (batch.image - low) / (high - low).clamp(min=1e-6)


# Two decoders that teach each other


def dmpls(
    logits: Logits,
    batch: Batch,
    config: Config,
    mix: list[float],
    progress: float,
    pooled_masks: bool = False,  # published so; it only makes the Dice's smoothing B times smaller
) -> Losses:
    """DMPLS, arXiv 2203.02106: Dice of both decoders against the argmax of their mix."""

    def loss(pair: list[Tensor]) -> Tensor:
        label = mixed_probabilities(pair, mix).argmax(1)
        return mean(partial_dice(x.float().softmax(1), label, pooled_masks=pooled_masks) for x in pair)

    return of_decoders(logits, batch, config, 0.5, loss, "dmpls")


def dmsps(
    logits: Logits,
    batch: Batch,
    config: Config,
    mix: list[float],
    progress: float,
    softmax_twice: bool = True,  # published so, and its weight of 8 is meant for these flat gradients
) -> Losses:
    """Stage one of DMSPS, Medical Image Analysis 2024: cross-entropy of both decoders against their mix, soft."""

    def loss(pair: list[Tensor]) -> Tensor:
        soft = mixed_probabilities(pair, mix)
        seen = [x.float().softmax(1) if softmax_twice else x for x in pair]
        return mean(soft_cross_entropy(x, soft, torch.ones_like(soft[:, 0])) for x in seen)

    return of_decoders(logits, batch, config, 8.0, loss, "dmsps")


def of_decoders(
    logits: Logits,
    batch: Batch,
    config: Config,
    weight: float,
    loss: Callable[[list[Tensor]], Tensor],
    objective: str,
) -> Losses:
    """Mean of the two decoders' losses on the strokes, + weight * loss of the pair; ValueError without a pair."""
    for name, outputs in logits.items():
        if isinstance(outputs, Tensor) or len(outputs) != 2 or outputs[0].shape != outputs[1].shape:
            raise ValueError(f"{name} has no second decoder, but {objective} needs one; use the network unet_cct")
    weight = weight * config.teaching
    return {
        name: mean(from_strokes(x, batch, config) for x in pair) + weight * loss(pair) for name, pair in logits.items()
    }


def mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


# A teacher whose weights are the moving average of the network's


class TeacherViews(NamedTuple):
    """What a network's mean teacher says of a batch."""

    turns: int  # quarter turns (torch.rot90) that its images were turned by
    logits: Tensor  # (B, K, H, W) of the turned images
    noisy: Tensor | None = None  # (T * B, K, H, W) of T noisy copies; pass t of sample n is at t * B + n


Teachers = dict[str, TeacherViews]  # network name -> what its teacher says


def new_teacher(network: nn.Module) -> nn.Module:
    """A copy that learns by `ema_update` alone. It stays in training mode, as published: batch statistics, dropout."""
    return copy.deepcopy(network).requires_grad_(False).train()


@torch.no_grad()
def ema_update(teacher: nn.Module, network: nn.Module, iteration: int) -> None:
    """After step `iteration`, counted from 0: the first copies the network. BatchNorm's buffers are not averaged."""
    decay = min(1 - 1 / (iteration + 1), 0.99)
    for slow, fast in zip(teacher.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


@torch.no_grad()
def teacher_views(teacher: nn.Module, batch: Batch, rng: np.random.Generator, passes: int = PASSES) -> TeacherViews:
    """What USTM asks of the teacher: one answer to the turned, noisy images, and `passes` more, two at a time.

    Images that are not square are turned by none or two quarters. ValueError for volumes and an odd number of passes.
    """
    image = batch.image
    if image.ndim != 4:
        raise ValueError(f"ustm turns slices, but the batch has volumes {tuple(image.shape)}; give a patch of two axes")
    if passes % 2:
        raise ValueError(f"passes must be even, got {passes}")
    square = image.shape[2] == image.shape[3]
    turns = int(rng.integers(4)) if square else 2 * int(rng.integers(2))
    seed_dropout(teacher, int(rng.integers(2**62)))
    turned = torch.rot90(image, turns, (2, 3))
    logits = finest(teacher(noised(turned, rng)))
    twice = torch.cat([turned, turned])
    noisy = torch.cat([finest(teacher(noised(twice, rng))) for _ in range(passes // 2)])
    return TeacherViews(turns, logits, noisy)


def noised(image: Tensor, rng: np.random.Generator) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(image.shape, np.float32)).to(image.device)
    return image + (0.1 * noise).clamp(-0.2, 0.2)


@torch.no_grad()
def plain_view(teacher: nn.Module, batch: Batch, rng: np.random.Generator) -> TeacherViews:
    """The teacher's answer to the images as the network sees them."""
    seed_dropout(teacher, int(rng.integers(2**62)))
    return TeacherViews(0, finest(teacher(batch.image)))


def ustm(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float, teachers: Teachers) -> Losses:
    """USTM, Liu et al., Pattern Recognition 2022: agree with the mean teacher where it is sure.

    As published, whatever K: sure is less entropy than two classes have, and the divisor is theirs.
    """
    threshold = (0.75 + 0.25 * ramp(progress)) * float(np.log(2))
    weight = config.teaching * ramp(progress)

    def loss(x: Tensor, views: TeacherViews) -> Tensor:
        student = torch.rot90(x, views.turns, (2, 3))
        return certain_difference(student, views.logits, views.noisy, threshold)

    return {
        name: over_scales(x, batch, config, from_strokes) + weight * loss(finest(x), teachers[name])
        for name, x in logits.items()
    }


def scribblevs(
    logits: Logits,
    batch: Batch,
    config: Config,
    mix: list[float],
    progress: float,
    teachers: Teachers,
    pooled_masks: bool = False,  # published so; then the masks of different samples mix
) -> Losses:
    """ScribbleVS, arXiv 2411.10237: learn the sure labels of whoever fits the strokes better, teacher or network.

    Its code also shrinks the weights by 2e-4 after every step, which is the optimiser's business here.
    """
    weight = 0.5 * config.teaching * ramp(5 * progress)  # 12000 of 60000 iterations

    def loss(x: Tensor, teacher: Tensor) -> Tensor:
        fits = [partial_cross_entropy(guess.detach(), batch.target) for guess in (x, teacher)]
        label = sure_label(teacher.where(fits[0] > fits[1], x))
        probabilities = x.float().softmax(1)
        return partial_cross_entropy(x, label) + partial_dice(probabilities, label, pooled_masks=pooled_masks)

    return {
        name: over_scales(x, batch, config, from_strokes) + weight * loss(finest(x), teachers[name].logits)
        for name, x in logits.items()
    }


@torch.no_grad()
def sure_label(logits: Tensor, threshold: float = 0.5) -> Tensor:
    """(B, *space) the class with a probability above the threshold, else IGNORE."""
    probability, label = logits.float().softmax(1).max(1)
    return label.where(probability > threshold, IGNORE)


# Whole volumes: their class, or their landmarks


def classification(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Cross-entropy of logits (B, K) and classes (B,)."""
    return {name: F.cross_entropy(x.float(), batch.target) for name, x in logits.items()}


def landmarks(logits: Logits, batch: Batch, config: Config, mix: list[float], progress: float) -> Losses:
    """Squared error of outputs (B, n, *space) and heat maps, NaN left out; see `heat_map_loss`."""
    return {name: heat_map_loss(x.float(), batch.target) for name, x in logits.items()}


def heat_map_loss(x: Tensor, target: Tensor) -> Tensor:
    """Weighted mean of (x - h)^2, both (B, n, *space): half of the weight lies on the Gaussian h, in proportion to it,
    half on all voxels evenly; otherwise the few voxels of a landmark would drown among the others."""
    seen = ~target.isnan()
    h = target.nan_to_num()
    weight = (h + h.mean(dim=tuple(range(2, h.ndim)), keepdim=True)) * seen
    return (weight * (x - h) ** 2).sum() / weight.sum().clamp(min=1e-6)


# The table


class Objective(NamedTuple):
    """A way to learn, and what it needs of the run."""

    loss: Callable[..., Losses]  # (logits, batch, config, mix, progress), and teachers where there is a mean teacher
    networks_at_least: int = 1
    decoders: int = 1  # outputs of the same size that each network has to give
    mean_teacher: Callable[[nn.Module, Batch, np.random.Generator], TeacherViews] | None = None
    slices: bool = False  # whether it cannot look at volumes

    def check(self, networks: Mapping[str, nn.Module], config: Config) -> None:
        """ValueError where they cannot learn so, before any time is spent."""
        if len(networks) < self.networks_at_least:
            raise ValueError(f"{config.objective} needs {self.networks_at_least} networks, got {list(networks)}")
        for name, network in networks.items():
            if getattr(network, "decoders", 1) < self.decoders:
                raise ValueError(f"{name} has no second decoder, but {config.objective} needs one; use unet_cct")
        if self.slices and len(config.patch) == 3:
            raise ValueError(f"{config.objective} is for slices, got the patch {config.patch}; give one of two axes")

    def mix(self, networks: int, rng: np.random.Generator) -> list[float]:
        """Weights of the predictions that are mixed into a label: a network's decoders, or else all networks."""
        return simplex(self.decoders if self.decoders > 1 else networks, rng)


OBJECTIVES: dict[str, Objective] = {
    "cross_teaching": Objective(cross_teaching, networks_at_least=2),
    "supervised": Objective(supervised),
    "pce": Objective(pce),
    "entropy_min": Objective(entropy_min),
    "tv": Objective(tv),
    "inter_intra": Objective(inter_intra),
    "mumford_shah": Objective(mumford_shah),
    "gated_crf": Objective(gated_crf_loss),
    "ustm": Objective(ustm, mean_teacher=teacher_views, slices=True),
    "scribblevs": Objective(scribblevs, mean_teacher=plain_view),
    "dmpls": Objective(dmpls, decoders=2),
    "dmsps": Objective(dmsps, decoders=2),
}
WHOLE_OBJECTIVES: dict[str, Objective] = {  # of what is asked about a whole volume
    "classification": Objective(classification),
    "landmarks": Objective(landmarks),
}
