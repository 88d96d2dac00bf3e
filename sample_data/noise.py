"""Smooth random fields and outlines, the raw material of every sample. Perlin, SIGGRAPH 1985 (sums of octaves)."""

import numpy as np
from scipy import ndimage


def smooth(shape: tuple[int, ...], size: float | tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A field of zero mean and unit deviation whose blobs are about `size` voxels wide (per axis, where a tuple)."""
    sizes = np.broadcast_to(size, len(shape))
    coarse = rng.standard_normal([int(np.ceil(n / s)) + 4 for n, s in zip(shape, sizes, strict=True)])
    for axis, (n, s) in enumerate(zip(shape, sizes, strict=True)):  # separable: one axis at a time is fast
        coarse = _stretch(coarse, axis, 1 + np.arange(n) / s)
    return (coarse - coarse.mean()) / coarse.std()


def _stretch(values: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
    """Cubic B-spline along one axis, evaluated at the positions `at`."""
    knots = np.moveaxis(values, axis, 0)
    i, f = np.floor(at).astype(int), at - np.floor(at)
    weights = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
    column = (-1,) + (1,) * (knots.ndim - 1)
    return np.moveaxis(sum(w.reshape(column) / 6 * knots[i + k - 1] for k, w in enumerate(weights)), 0, axis)


def fractal(
    shape: tuple[int, ...],
    size: float | tuple[float, ...],
    rng: np.random.Generator,
    octaves: int = 4,
    gain: float = 0.5,
) -> np.ndarray:
    """Octaves of `smooth`, each half as wide and `gain` times as strong as the last; zero mean, unit deviation."""
    sizes = np.asarray(np.broadcast_to(size, len(shape)), float)
    total = sum(gain**k * smooth(shape, tuple(np.maximum(sizes / 2**k, 1)), rng) for k in range(octaves))
    return total / total.std()


def ridges(shape: tuple[int, ...], size: float | tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Thin crooked lines, 0 .. 1: where a fractal field crosses zero."""
    return np.exp(-((fractal(shape, size, rng, octaves=3) / 0.12) ** 2))


def wave(angle: np.ndarray, rng: np.random.Generator, orders: range, decay: float = 1.0) -> np.ndarray:
    """A random periodic function of `angle` (radians): sum of cosines whose strength falls as order ** -decay."""
    return sum(rng.normal() * n**-decay * np.cos(n * angle + rng.uniform(0, 2 * np.pi)) for n in orders)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, sigma)


def ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between (also for low > high)."""
    s = np.clip((x - low) / (high - low), 0, 1)
    return s * s * (3 - 2 * s)
