"""Batches: random views of normalised images. That of iteration i follows from (seed, i), so a resume sees the same.

B batch · C channels · D H W space · K classes · h w the view · a view is one slice, turned, scaled and cut or resized
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.config import Config
from trainer.dataset import IGNORE, Sample
from trainer.objectives import Batch
from trainer.propagation import Teacher, as_stack, contrast, sources

TURN, ZOOM, SHIFT, GAIN, OFFSET = 0.35, 0.25, 0.12, 0.25, 0.3  # rad, log, of the view, log, deviations: of "strong"


def normalise(image: np.ndarray, how: str) -> np.ndarray:
    """Raw intensities (C, *space) -> float32 that networks like; statistics per channel, over the whole image."""
    if how == "equalised":
        stack = image if image.ndim == 4 else image[:, None]
        image = contrast(stack).reshape(image.shape)
    elif how == "percentile":  # clip at the 99th percentile, then to 0..1; nothing else, as the published data
        return np.stack([unit_range(np.minimum(channel, np.percentile(channel, 99))) for channel in image])
    axes = tuple(range(1, image.ndim))
    deviation = image.std(axes, keepdims=True).clip(1e-8)
    return ((image - image.mean(axes, keepdims=True)) / deviation).astype(np.float32)


def unit_range(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return ((values - low) / max(high - low, 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """One annotated image as tensors, a stack of slices (a 2-D image is a stack of one)."""

    image: Tensor  # (D, C, H, W) float32, normalised
    target: Tensor  # (D, H, W) uint8, class or IGNORE
    teacher: Tensor | None  # (D, K, H, W) float16
    confidence: Tensor | None  # (D, H, W) float16

    @classmethod
    def of(cls, sample: Sample, teacher: Teacher | None, config: Config) -> "Case":
        image, target = as_stack(sample)
        image = normalise(image, config.normalisation).transpose(1, 0, 2, 3)
        P = weight = None
        if teacher is not None:
            P = teacher.probabilities.reshape(-1, *target.shape).transpose(1, 0, 2, 3)
            weight = torch.from_numpy(np.ascontiguousarray(teacher.confidence.reshape(target.shape)))
            P = torch.from_numpy(np.ascontiguousarray(P))
        return cls(torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(target.copy()), P, weight)

    @property
    def slice_weights(self) -> np.ndarray:
        """(D,) how often a slice is looked at: half evenly, half by what is known about it."""
        known = np.zeros(len(self.target))
        known[sources(self.target.numpy())] = 1.0
        if self.confidence is not None:
            known = np.maximum(known, self.confidence.float().amax((1, 2)).numpy())
        even = np.full(len(known), 1 / len(known))
        return even if known.sum() == 0 else 0.5 * even + 0.5 * known / known.sum()


class Batches:
    """`batches[i]` is the batch of iteration i: same cases, config and i give the same batch."""

    def __init__(self, cases: Sequence[Case], config: Config) -> None:
        self.cases, self.config = cases, config
        self.slices = [(c, z) for c, case in enumerate(cases) for z in range(len(case.target))]
        weights = np.concatenate([case.slice_weights for case in cases])
        self.weights = weights / weights.sum()

    def __getitem__(self, iteration: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, iteration])
        views = [view(self.cases[c], z, self.config, rng) for c, z in self.choose(iteration, rng)]
        parts = [None if part[0] is None else torch.stack(part) for part in zip(*views, strict=True)]
        return Batch(*parts)

    def choose(self, iteration: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(case, slice) of each view: patches are drawn by weight; whole slices go in shuffled epochs."""
        size = self.config.batch
        if self.config.view == "patch":
            return [self.slices[i] for i in rng.choice(len(self.slices), size, p=self.weights)]
        epoch, step = divmod(iteration, -(-len(self.slices) // size))
        order = np.random.default_rng([self.config.seed, epoch, 1]).permutation(len(self.slices))
        return [self.slices[i] for i in order[step * size : (step + 1) * size]]


def view(case: Case, z: int, config: Config, rng: np.random.Generator) -> Batch:
    """One view of slice z, without the batch axis: a patch around a point of interest, or the whole slice resized."""
    size = np.array(case.target.shape[1:])
    patch = np.array(config.patch)
    if config.view == "patch":
        centre, half = interesting_point(case, z, patch, rng), (patch - 1) / 2
    else:
        centre, half = (size - 1) / 2, (size - 1) / 2
    turn, flip = np.eye(2), np.ones(2)
    if config.augmentation == "strong":
        turn, centre = strong_turn(rng), centre + rng.uniform(-SHIFT, SHIFT, 2) * 2 * half
    elif config.augmentation == "paper":
        turn, flip = paper_turn(rng)
    if config.view == "resize" and abs(turn[0, 1]) == 1:  # a quarter turn swaps the sides of the resized slice
        half = half[::-1]
    grid = sampling_grid(turn @ np.diag(flip * half), centre, config.patch, size)
    seen = look(case, z, grid, config.interpolation, "zeros" if config.augmentation == "paper" else "reflection")
    if config.augmentation == "strong":
        seen = seen._replace(image=shaded(seen.image, rng))
    return seen


def interesting_point(case: Case, z: int, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(y, x): half of the time on a stroke of a class drawn by lot, else anywhere; the patch stays inside if it can."""
    size = np.array(case.target.shape[1:])
    point = rng.uniform(0, size - 1)
    classes = np.unique(case.target[z])
    classes = classes[classes != IGNORE]
    if len(classes) and rng.uniform() < 0.5:
        pixels = np.argwhere(case.target[z].numpy() == rng.choice(classes))
        point = pixels[rng.integers(len(pixels))].astype(float)
    low = np.minimum((patch - 1) / 2, (size - 1) / 2)
    return point.clip(low, size - 1 - low)


def strong_turn(rng: np.random.Generator) -> np.ndarray:
    scale = np.exp(rng.uniform(-ZOOM, ZOOM)) * np.exp(np.array([1, -1]) * rng.uniform(-0.1, 0.1))
    return rotation(rng.uniform(-TURN, TURN)) * scale


def paper_turn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Half of the time quarter turns and one flip; else, half of the time, a rotation by -20 to 19 degrees."""
    if rng.uniform() < 0.5:
        flip = np.ones(2)
        flip[rng.integers(2)] = -1
        return np.round(rotation(rng.integers(4) * np.pi / 2)), flip
    if rng.uniform() < 0.5:
        return rotation(np.deg2rad(rng.integers(-20, 20))), np.ones(2)
    return np.eye(2), np.ones(2)


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def sampling_grid(matrix: np.ndarray, centre: np.ndarray, shape: tuple[int, int], size: np.ndarray) -> Tensor:
    """(h, w, 2) places for grid_sample: view coordinates in -1..1, times the matrix, plus the centre in pixels."""
    y, x = (np.linspace(-1, 1, n) for n in shape)
    places = np.stack(np.meshgrid(y, x, indexing="ij"), -1) @ matrix.T + centre
    unit = 2 * places / np.maximum(size - 1, 1) - 1
    return torch.from_numpy(np.ascontiguousarray(unit[..., ::-1], np.float32))


def look(case: Case, z: int, grid: Tensor, interpolation: str, padding: str) -> Batch:
    """The image, strokes and teacher of slice z at the places of a grid; strokes and confidence end at the border."""

    def read(values: Tensor, mode: str, padding: str) -> Tensor:
        return F.grid_sample(values.float()[None], grid[None], mode, padding, align_corners=True)[0]

    smooth = "bilinear" if interpolation == "linear" else "nearest"
    image = read(case.image[z], smooth, padding)
    drawn = case.target[z].long()
    drawn = read((drawn + 1).where(drawn != IGNORE, 0)[None], "nearest", "zeros")[0].long() - 1  # outside: -1
    target = drawn.where(drawn >= 0, IGNORE)
    if case.teacher is None:
        return Batch(image, target)
    teacher = read(case.teacher[z], "bilinear", "border")
    confidence = read(case.confidence[z][None], "bilinear", "zeros")[0]
    return Batch(image, target, teacher / teacher.sum(0).clamp(min=1e-6), confidence)


def shaded(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Random gain and offset of the grey values, one for all channels."""
    return image * float(np.exp(rng.uniform(-GAIN, GAIN))) + float(rng.uniform(-OFFSET, OFFSET))
