"""Small images with strokes, whose answer one can see: a bright disc on a dark ground."""

import numpy as np

from trainer.config import Config
from trainer.sample import IGNORE, Sample

CLASSES = ("background", "disc")
QUICK = Config(iterations=6, patch=(32, 32), batch=2, device="cpu", dtype="float32", threads=1)


def disc(size: int = 40, radius: float = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image (H, W) float32 and its truth (H, W) uint8."""
    y, x = np.indices((size, size))
    truth = (np.hypot(y - size / 2, x - size / 2) < radius).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 5, truth.shape)
    return (100.0 * truth + 30 + noise).astype(np.float32), truth


def scribbled(truth: np.ndarray) -> np.ndarray:
    """One line through the disc, one along the top."""
    target = np.full(truth.shape, IGNORE, np.uint8)
    middle = truth.shape[0] // 2
    target[middle, middle - 6 : middle + 6] = 1
    target[3, 3:-3] = target[-4, 3:-3] = 0
    return target


def scribbled_disc(name: str = "disc", seed: int = 0) -> Sample:
    image, truth = disc(seed=seed)
    return Sample(image[None], scribbled(truth), (1.0, 1.0), name)


def dense_disc(name: str = "disc", seed: int = 0) -> Sample:
    image, truth = disc(seed=seed)
    return Sample(image[None], truth, (1.0, 1.0), name)


def scribbled_stack(depth: int = 3) -> Sample:
    """Strokes on the middle slice only."""
    planes = [disc(seed=z) for z in range(depth)]
    target = np.full((depth, 40, 40), IGNORE, np.uint8)
    target[depth // 2] = scribbled(planes[depth // 2][1])
    return Sample(np.stack([image for image, _ in planes])[None], target, (5.0, 1.0, 1.0), "stack")
