"""Batches: random views of normalised images. That of iteration i follows from (seed, i), so a resume sees the same.

B batch · C channels · K classes · n axes of a patch, 2 or 3 · space the axes of an item: a slice (H, W) where patches
have two axes, a volume (D, H, W) where they have three · a view is an item, turned, scaled and cut or resized
"""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from trainer.annotator import classes_of
from trainer.augmentation import SHIFT, new_shade, random_turn
from trainer.config import Config
from trainer.objectives import Batch
from trainer.propagation import Teacher, contrast
from trainer.resampling import new_space, resample_image, resample_labels, resample_probabilities
from trainer.sample import IGNORE, Sample
from trainer.wholes import Answer, answer_of

KNOTS = 4096  # of the curve from raw intensities to normalised ones
POINTS = 10_000  # voxels of a class and item that patches are put around
SURE = 0.1  # confidence from which on a voxel of the propagated strokes is one of these


def normalise(image: np.ndarray, config: Config) -> np.ndarray:
    """Raw intensities (C, *space) -> float32 that networks like, of the channels that they see; statistics per channel,
    over the whole image."""
    image, how = seen(image, config), config.normalisation
    inside = content(image) if config.masked else None
    if how == "planned":
        known = zip(image, config.intensities, strict=True)
        return np.stack([planned(channel, numbers, inside) for channel, numbers in known])
    if how == "percentile":  # clip at the 99th percentile, then to 0..1; nothing else, as the published data
        return np.stack([unit_range(np.minimum(channel, np.percentile(channel, 99))) for channel in image])
    if how == "equalised":
        stack = image if image.ndim == 4 else image[:, None]
        image = contrast(stack).reshape(image.shape)
    return np.stack([standard(channel, inside) for channel in image])


def seen(image: np.ndarray, config: Config) -> np.ndarray:
    """The channels that networks see: (C, *space) -> the same, or (1, *space)."""
    return image.mean(0, keepdims=True) if config.colours == "mean" else image


def content(image: np.ndarray) -> np.ndarray:
    """(C, *space) -> bool (*space): what nnU-Net's use_mask_for_norm normalises by: all but the zeros around.

    A voxel is outside where every channel is 0; zeros that a volume encloses are inside. In a picture they are not:
    nnU-Net takes it for a volume of one slice, whose holes are open.
    """
    inside = (image != 0).any(0)
    return binary_fill_holes(inside) if inside.ndim == 3 else inside


def normalise_like(image: np.ndarray, like: np.ndarray, config: Config) -> np.ndarray:
    """As `normalise`, of a part of an image whose intensities are known by `like` (C, m): the same for all its parts.

    Each way to normalise takes grey values along a curve, which that of `like` shows; masked, of what is inside.
    """
    image, like = seen(image, config), seen(like, config)
    known = like[:, content(like)] if config.masked else like
    curves = zip(image, known, normalise(known, config), strict=True)
    scaled = np.stack([np.interp(channel, *curve(*values)).astype(np.float32) for channel, *values in curves])
    return scaled * content(image) if config.masked else scaled


def curve(known: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (m,) before and after -> at most KNOTS of both, ascending; beyond them the curve is flat."""
    before, places = np.unique(known, return_index=True)
    places = places[np.linspace(0, len(before) - 1, min(KNOTS, len(before))).astype(int)]
    return known[places], seen[places]


def planned(channel: np.ndarray, known: tuple[float, ...], inside: np.ndarray | None) -> np.ndarray:
    """CT by what the whole dataset's foreground is like (mean, deviation, lowest, highest); else as it is itself."""
    if not known:
        return standard(channel, inside)
    mean, deviation, low, high = known
    return ((channel.clip(low, high) - mean) / max(deviation, 1e-8)).astype(np.float32)


def standard(channel: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Mean 0 and deviation 1; with a mask, of what is inside, and 0 outside."""
    values = channel if inside is None else channel[inside]
    scaled = ((channel - values.mean()) / values.std().clip(1e-8)).astype(np.float32)
    return scaled if inside is None else scaled * inside


def unit_range(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    return ((values - low) / max(high - low, 1e-12)).astype(np.float32)


def items(array: np.ndarray, axes: int) -> Tensor:
    """(any, *space of the image) -> (items, any, *space of an item): the slices of a stack, or all of it as one."""
    if array.ndim - 1 == axes:
        return torch.from_numpy(np.ascontiguousarray(array[None]))
    return torch.from_numpy(np.ascontiguousarray(array.swapaxes(0, 1)))


@dataclass(frozen=True)
class Case:
    """One annotated image as tensors, item by item."""

    image: Tensor  # (items, C, *space) float32, normalised
    target: Tensor  # (items, *space) uint8, class or IGNORE
    teacher: Tensor | None  # (items, K, *space) float16
    confidence: Tensor | None  # (items, *space) float16
    points: list[dict[int, np.ndarray]]  # of each item: class -> (m, n) some of the voxels it is known to be at
    answer: Answer | None = None  # of a whole volume, in the place of its target

    @classmethod
    def of(cls, sample: Sample, teacher: Teacher | None, config: Config) -> "Case":
        """At the config's spacing, where it has one. ValueError for what is no volume where patches have three axes."""
        axes = len(config.patch)
        if sample.part is not None and axes == 3:
            raise ValueError(
                f"'{sample.name}' is several volumes or too large for one, and the patch {config.patch} has three "
                "axes; choose networks for slices, or cut out a volume"
            )
        if sample.target.ndim < axes:
            raise ValueError(f"'{sample.name}' is 2-D, but the patch {config.patch} has three axes; give it two")
        alone = sample.like is None
        image = normalise(sample.image, config) if alone else normalise_like(sample.image, sample.like, config)
        image, target, P, weight = at_spacing(sample, image, teacher, config)
        target = items(target[None], axes)[:, 0]
        P = None if P is None else items(P, axes)
        weight = None if weight is None else items(weight[None], axes)[:, 0]
        return cls(
            items(image, axes),
            target,
            P,
            weight,
            [known_points(plane.numpy()) for plane in told(target, P, weight)],
            answer_of(sample, config),
        )

    @property
    def known(self) -> np.ndarray:
        """(items,) how much is known of each, 0..1: by how many of the classes were drawn on it, or how sure propagated
        strokes are there."""
        drawn = np.array([len(classes_of(item)) for item in self.target.numpy()])
        drawn = drawn / max(drawn.max(), 1)
        if self.confidence is None:
            return drawn
        return np.maximum(drawn, self.confidence.flatten(1).float().amax(1).numpy())


def at_spacing(sample: Sample, image: np.ndarray, teacher: Teacher | None, config: Config) -> tuple:
    """Image, target, teacher's probabilities and confidence (or None) on the grid that the config asks for."""
    P, weight = (None, None) if teacher is None else (teacher.probabilities, teacher.confidence)
    if config.spacing is None:
        return image, sample.target, P, weight
    wanted = wanted_spacing(sample.spacing, config)
    space = new_space(sample.target.shape, sample.spacing, wanted)
    if P is not None:
        P = resample_probabilities(P, space).astype(np.float16)
        weight = resample_probabilities(weight[None], space)[0].astype(np.float16)
    target = resample_labels(sample.target, sample.spacing, wanted)
    return resample_image(image, sample.spacing, wanted), target, P, weight


def wanted_spacing(spacing: tuple[float, ...], config: Config) -> tuple[float, ...]:
    """The config's; slices of a stack stay as far apart as they are where it speaks of two axes."""
    return spacing[: len(spacing) - len(config.spacing)] + config.spacing


def told(target: Tensor, P: Tensor | None, weight: Tensor | None) -> Tensor:
    """(items, *space) uint8: the strokes, and beside them what the propagated ones are sure of; else IGNORE."""
    if P is None:
        return target
    guess = P.argmax(1).to(torch.uint8).where(weight > SURE, IGNORE)
    return target.where(target != IGNORE, guess)


def known_points(target: np.ndarray) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {}
    for c in np.unique(target[target != IGNORE]):
        points = np.flatnonzero(target == c)
        chosen = points[rng.choice(len(points), POINTS, replace=False)] if len(points) > POINTS else points
        found[int(c)] = np.stack(np.unravel_index(chosen, target.shape), 1)
    return found


def weights(cases: Sequence[Case], config: Config) -> np.ndarray:
    """(items of all cases,) how often one is looked at: half evenly, half by how much is known of it, in both halves
    one image as often as another. So those that nobody drew on take half of the views at most, and none where the
    objective learns from strokes only."""
    known = [case.known for case in cases]
    anything = list(map(np.ones_like, known))
    if not any(case.any() for case in known):
        return shared_out(anything)
    even = list(map(np.sign, known)) if config.objective == "pce" else anything
    return 0.5 * shared_out(even) + 0.5 * shared_out(known)


def shared_out(each: Sequence[np.ndarray]) -> np.ndarray:
    """The cases one after the other, each with the same share of 1, but for those that have nothing."""
    shares = [case / case.sum() if case.any() else case for case in each]
    return np.concatenate(shares) / np.concatenate(shares).sum()


class Batches:
    """`batches[i]` is the batch of iteration i: same cases, config and i give the same batch."""

    def __init__(self, cases: Sequence[Case], config: Config) -> None:
        self.cases, self.config = cases, config
        self.items = [(c, z) for c, case in enumerate(cases) for z in range(len(case.target))]
        self.weights = weights(cases, config)
        self.shade = new_shade(config.augmentation, len(config.patch))

    def __getitem__(self, iteration: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, iteration])
        views = [self.view(self.cases[c], z, rng) for c, z in self.choose(iteration, rng)]
        parts = [None if part[0] is None else torch.stack(part) for part in zip(*views, strict=True)]
        return Batch(*parts)

    def choose(self, iteration: int, rng: np.random.Generator) -> list[tuple[int, int]]:
        """(case, item) of each view: patches are drawn by weight; whole slices go in shuffled epochs."""
        size = self.config.batch
        if self.config.view == "patch":
            return [self.items[i] for i in rng.choice(len(self.items), size, p=self.weights)]
        epoch, step = divmod(iteration, -(-len(self.items) // size))
        order = np.random.default_rng([self.config.seed, epoch, 1]).permutation(len(self.items))
        if self.config.task != "segmentation":  # the last batch is filled up: norms want as much to compare in each
            order = order.take(range(-(-len(order) // size) * size), mode="wrap")
        return [self.items[i] for i in order[step * size : (step + 1) * size]]

    def view(self, case: Case, z: int, rng: np.random.Generator) -> Batch:
        places = view_places(case, z, self.config, rng)
        seen = look(case, z, places, self.config)
        target = seen.target if case.answer is None else case.answer(places)
        image = self.shade(seen.image, rng)
        if self.config.masked:  # as in nnU-Net, what is outside stays 0 whatever happens to the grey values
            image = image * (seen.image != 0).any(0)
        return seen._replace(image=image, target=target)


class Ahead:
    """`batches[i]`, while the one after it is being made in a thread: the step need not wait for it."""

    def __init__(self, batches: Batches, pool: Executor, pinned: bool) -> None:
        self.batches, self.pool, self.pinned = batches, pool, pinned
        self.begun: dict[int, Future[Batch]] = {}

    def __getitem__(self, iteration: int) -> Batch:
        batch = self.begun.pop(iteration, None) or self.pool.submit(self.make, iteration)
        self.begun = {iteration + 1: self.pool.submit(self.make, iteration + 1)}
        return batch.result()

    def make(self, iteration: int) -> Batch:
        batch = self.batches[iteration]
        return Batch(*(None if part is None else part.pin_memory() for part in batch)) if self.pinned else batch


def view_places(case: Case, z: int, config: Config, rng: np.random.Generator) -> np.ndarray:
    """(*patch, n) voxels of item z that one view looks at: around a point of interest, or all of it resized."""
    size, patch = np.array(case.target.shape[1:]), np.array(config.patch)
    if config.view == "patch":
        centre, half = interesting_point(case, z, patch, rng), (patch - 1) / 2
    else:
        centre, half = (size - 1) / 2, (size - 1) / 2
    turn = random_turn(config.augmentation, config.patch, rng)
    if config.augmentation == "strong":
        centre = centre + rng.uniform(-SHIFT, SHIFT, len(patch)) * 2 * half
    if config.view == "resize" and abs(turn[0, 1]) == 1:  # a quarter turn swaps the sides of the resized slice
        half = half[::-1]
    axes = (np.linspace(-1, 1, n) for n in config.patch)
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ (turn @ np.diag(half)).T + centre


def interesting_point(case: Case, z: int, patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) voxel: half of the time where a class drawn by lot is known to be, else anywhere; the patch stays inside if
    it can."""
    size, known = np.array(case.target.shape[1:]), case.points[z]
    point = rng.uniform(0, size - 1)
    if known and rng.uniform() < 0.5:
        points = known[rng.choice(list(known))]
        point = points[rng.integers(len(points))].astype(float)
    low = np.minimum((patch - 1) / 2, (size - 1) / 2)
    return point.clip(low, size - 1 - low)


def look(case: Case, z: int, places: np.ndarray, config: Config) -> Batch:
    """The image, strokes and teacher of item z at some places; strokes and confidence end at the border."""
    size = case.target.shape[1:]
    box = tuple(slice(*span) for span in zip(*bounds(places, size), strict=True))
    grid = grid_of(places, box)
    smooth = "bilinear" if config.interpolation == "linear" else "nearest"
    beyond = "zeros" if config.augmentation == "paper" else "reflection"

    def read(values: Tensor, mode: str, padding: str) -> Tensor:
        near = values[(..., *box)].float()
        return F.grid_sample(near[None], grid[None], mode, padding, align_corners=True)[0]

    image = read(case.image[z], smooth, beyond)
    drawn = case.target[z][box].long()
    drawn = F.grid_sample(
        (drawn + 1).where(drawn != IGNORE, 0).float()[None, None], grid[None], "nearest", "zeros", align_corners=True
    )
    drawn = drawn[0, 0].long() - 1  # outside: -1
    target = drawn.where(drawn >= 0, IGNORE)
    if case.teacher is None:
        return Batch(image, target)
    teacher = read(case.teacher[z], "bilinear", "border")
    confidence = read(case.confidence[z][None], "bilinear", "zeros")[0]
    return Batch(image, target, teacher / teacher.sum(0).clamp(min=1e-6), confidence)


def bounds(places: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) first voxel and the one behind the last of what has to be read for places (*patch, n); never empty."""
    flat, limit = places.reshape(-1, len(size)), np.array(size)
    low = np.floor(flat.min(0)).astype(int).clip(0, limit - 1)
    high = np.ceil(flat.max(0)).astype(int).clip(0, limit - 1)
    reach = np.maximum(np.ceil(-flat.min(0)), np.ceil(flat.max(0) - limit + 1)).astype(int).clip(0)  # is mirrored
    low = np.where(flat.max(0) > limit - 1, np.minimum(low, limit - 1 - reach), low).clip(0)
    high = np.where(flat.min(0) < 0, np.maximum(high, reach), high).clip(None, limit - 1)
    return low, high + 1


def grid_of(places: np.ndarray, box: tuple[slice, ...]) -> Tensor:
    """(*patch, n) for grid_sample, which counts -1..1 across the box and the last axis first."""
    first = np.array([part.start for part in box])
    length = np.array([part.stop - part.start for part in box])
    unit = 2 * (places - first) / np.maximum(length - 1, 1) - 1
    return torch.from_numpy(np.ascontiguousarray(unit[..., ::-1], np.float32))
