"""Images and labels on a grid of another spacing, and probabilities back on the image's own.

C channels · K classes · space is (H, W) or (D, H, W). As nnU-Net does it: cubic, but across thick slices nearest.
"""

import numpy as np
import torch
import torch.nn.functional as F
from skimage.transform import resize

from trainer.sample import IGNORE

THICK = 3.0  # times the finest spacing: across such slices there is nothing to interpolate


def new_space(space: tuple[int, ...], spacing: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[int, ...]:
    """How many voxels of the wanted spacing the image has along each axis."""
    return tuple(max(1, round(n * a / b)) for n, a, b in zip(space, spacing, wanted, strict=True))


def resample_image(image: np.ndarray, spacing: tuple[float, ...], wanted: tuple[float, ...]) -> np.ndarray:
    """(C, *space) float32 -> (C, *new_space)."""
    space = new_space(image.shape[1:], spacing, wanted)
    return np.stack([resized(channel, space, 3, thick(spacing, wanted)) for channel in image]).astype(np.float32)


def resample_labels(labels: np.ndarray, spacing: tuple[float, ...], wanted: tuple[float, ...]) -> np.ndarray:
    """(*space) class ids -> (*new_space): each voxel gets the id that most of it had, IGNORE where nothing of it is
    known."""
    space, across = new_space(labels.shape, spacing, wanted), thick(spacing, wanted)
    ids = np.unique(labels)
    shares = [resized((labels == i).astype(np.float32), space, 1, across) for i in ids]
    found = ids[np.argmax(shares, 0)]
    return np.where(found == IGNORE, drawn_in(labels, space), found) if IGNORE in ids else found


def drawn_in(labels: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    """(*space) on a coarser grid: of each voxel the class that most of its pixels were drawn with, else IGNORE. Strokes
    are thin, so that most of a voxel hardly ever is."""
    if all(n >= size for n, size in zip(space, labels.shape, strict=True)) or (labels == IGNORE).all():
        return np.full(space, IGNORE, labels.dtype)
    pixels = np.nonzero(labels != IGNORE)
    classes, which = np.unique(labels[pixels], return_inverse=True)
    counts = np.zeros((len(classes), *space), np.uint32)
    voxels = (at * n // size for at, n, size in zip(pixels, space, labels.shape, strict=True))
    np.add.at(counts, (which, *voxels), 1)
    return np.where(counts.any(0), classes[counts.argmax(0)], IGNORE).astype(labels.dtype)


def resample_probabilities(probabilities: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    """float (K, *any) -> float32 (K, *space), linear."""
    if probabilities.shape[1:] == tuple(space):
        return probabilities.astype(np.float32, copy=False)
    mode = {2: "bilinear", 3: "trilinear"}[len(space)]
    batch = torch.from_numpy(np.ascontiguousarray(probabilities, np.float32))[None]
    return F.interpolate(batch, tuple(space), mode=mode, align_corners=False)[0].numpy()


def thick(spacing: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    """Whether the first axis is one of thick slices, before or after."""
    return len(spacing) == 3 and any(s[0] == max(s) > THICK * min(s) for s in (spacing, wanted))


def resized(array: np.ndarray, space: tuple[int, ...], order: int, across_nearest: bool) -> np.ndarray:
    if array.shape == tuple(space):
        return array
    options = {"mode": "edge", "anti_aliasing": False, "preserve_range": True}
    if not across_nearest:
        return resize(array, space, order, **options)
    planes = np.stack([resize(plane, space[1:], order, **options) for plane in array])
    return resize(planes, space, 0, **options)
