"""Random changes of a view: how it is turned and scaled before it is read, and what happens to its grey values after.

n axes of space, 2 or 3 · a turn is a matrix (n, n) that view coordinates are multiplied with
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

TURN, ZOOM, SHIFT, GAIN, OFFSET = 0.35, 0.25, 0.12, 0.25, 0.3  # rad, log, of the view, log, deviations: of "strong"
FLAT = 3  # a patch this much longer in one axis than in another is turned in its plane only, as nnU-Net does

Rng = np.random.Generator
Shade = Callable[[Tensor, Rng], Tensor]  # (C, *space) -> the same shape


# Turns


def random_turn(augmentation: str, patch: tuple[int, ...], rng: Rng) -> np.ndarray:
    """(n, n) of a view of that patch."""
    if augmentation == "strong":
        return strong_turn(len(patch), rng)
    if augmentation == "paper":
        return paper_turn(rng)
    return nnunet_turn(patch, rng) if augmentation == "nnunet" else np.eye(len(patch))


def strong_turn(axes: int, rng: Rng) -> np.ndarray:
    """A rotation in the plane of the last two axes, and a scale that differs a little between them."""
    turn = np.eye(axes)
    scale = np.exp(rng.uniform(-ZOOM, ZOOM)) * np.exp(np.array([1, -1]) * rng.uniform(-0.1, 0.1))
    turn[-2:, -2:] = rotation(rng.uniform(-TURN, TURN)) * scale
    return turn


def paper_turn(rng: Rng) -> np.ndarray:
    """Half of the time quarter turns and one flip; else, half of the time, a rotation by -20 to 19 degrees."""
    if rng.uniform() < 0.5:
        flip = np.ones(2)
        flip[rng.integers(2)] = -1
        return np.round(rotation(rng.integers(4) * np.pi / 2)) @ np.diag(flip)
    if rng.uniform() < 0.5:
        return rotation(np.deg2rad(rng.integers(-20, 20)))
    return np.eye(2)


def nnunet_turn(patch: tuple[int, ...], rng: Rng) -> np.ndarray:
    """nnU-Net's (Isensee et al. 2021, supplement): rotation and scale one time in five each, mirrors every other."""
    axes = len(patch)
    turn = np.diag(rng.choice([-1.0, 1.0], axes))
    flat = axes == 3 and max(patch) > FLAT * min(patch)
    if rng.uniform() < 0.2:
        limit = np.pi if flat or axes == 2 else np.pi / 6
        planes = [(0, 1), (0, 2), (1, 2)] if axes == 3 and not flat else [(axes - 2, axes - 1)]
        for plane in planes:
            turn = turn @ in_plane(plane, axes, rng.uniform(-limit, limit))
    if rng.uniform() < 0.2:
        scale = np.full(axes, rng.uniform(0.7, 1.4))
        scale[: int(flat)] = 1.0
        turn = np.diag(scale) @ turn
    return turn


def in_plane(plane: tuple[int, int], axes: int, angle: float) -> np.ndarray:
    turn = np.eye(axes)
    turn[np.ix_(plane, plane)] = rotation(angle)
    return turn


def rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


# Grey values


def new_shade(augmentation: str, axes: int) -> Shade:
    """What a run does to the grey values of its views; one that no other run shares, for it has a random state."""
    if augmentation == "nnunet":
        return nnunet_shade(axes)
    return gain_and_offset if augmentation == "strong" else lambda image, rng: image


def gain_and_offset(image: Tensor, rng: Rng) -> Tensor:
    """One for all channels."""
    return image * float(np.exp(rng.uniform(-GAIN, GAIN))) + float(rng.uniform(-OFFSET, OFFSET))


def nnunet_shade(axes: int) -> Shade:
    """Noise, blur, brightness, contrast, low resolution and gamma, as often and as much as nnU-Net has them."""
    from monai import transforms as T  # here: it takes seconds to import

    sigma = (0.5, 1.0)
    linear = {2: "bilinear", 3: "trilinear"}[axes]
    pipeline = T.Compose(
        [
            T.RandGaussianNoise(prob=0.1, std=0.1**0.5),
            T.RandGaussianSmooth(sigma, sigma, sigma, prob=0.2),
            T.RandScaleIntensity(factors=0.25, prob=0.15),
            T.RandScaleIntensityFixedMean(factors=0.25, prob=0.15, preserve_range=True),
            T.RandSimulateLowResolution(prob=0.25, upsample_mode=linear, zoom_range=(0.5, 1.0)),
            T.RandAdjustContrast(prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
            T.RandAdjustContrast(prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        ]
    )

    def shade(image: Tensor, rng: Rng) -> Tensor:
        pipeline.set_random_state(seed=int(rng.integers(2**32)))
        shaded = pipeline(image)
        return shaded.as_tensor() if hasattr(shaded, "as_tensor") else shaded

    return shade
