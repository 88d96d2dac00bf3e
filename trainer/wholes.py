"""What is asked about a whole volume: its class, or where its landmarks are, by heat maps. nnMamba, arXiv 2402.03526.

A network sees the volume resized to the patch, corner on corner. A landmark is (z, y, x) in mm from the centre of the
first voxel, NaN where it is not to be seen.

C channels · K classes · n landmarks · space and patch are (D, H, W)
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Config
from trainer.inference import autocast, evaluating
from trainer.sample import Sample

Answer = Callable[[np.ndarray], Tensor]  # places (*patch, axes), in voxels, that a view looks at -> its target
FAINT = float(np.exp(-0.5))  # a Gaussian at one sigma


def answer_of(sample: Sample, config: Config) -> Answer | None:
    """The target of any view of this sample; None where every voxel has its own."""
    if config.task == "segmentation":
        return None
    if config.task == "classification":
        return lambda places: torch.tensor(sample.label)
    return lambda places: heat_maps(sample.landmarks, places * np.array(sample.spacing), config.sigma)


def heat_maps(landmarks: np.ndarray, places: np.ndarray, sigma: float) -> Tensor:
    """Landmarks (n, axes) and the places of the voxels (*patch, axes), both in mm -> Gaussians, float32 (n, *patch).

    sigma: mm, or the distance of neighbouring places where that is more. NaN for a landmark that is not to be seen:
    unknown, or more than sigma beyond the view.
    """
    sigma = max(sigma, *(distance(places, axis) for axis in range(places.ndim - 1)))
    squares = np.stack([((places - point) ** 2).sum(-1) for point in landmarks])  # (n, *patch) mm^2
    maps = torch.from_numpy(np.exp(-squares / (2 * sigma**2)).astype(np.float32))
    maps[maps.flatten(1).amax(1) < FAINT] = torch.nan
    return maps


def distance(places: np.ndarray, axis: int) -> float:
    """mm between neighbours along that axis of places (*patch, axes)."""
    return float(np.linalg.norm(np.diff(places, axis=axis), axis=-1).max(initial=0))


@torch.no_grad()
def output_of(network: nn.Module, image: Tensor, config: Config) -> np.ndarray:
    """Normalised (1, C, *space) -> float32 (K,) logits, or (n, *patch) heat maps, in evaluation mode."""
    device = next(network.parameters()).device
    view = F.interpolate(image, config.patch, mode="trilinear", align_corners=True)
    with evaluating(network), autocast(config, device):
        return network(view.to(device)).float().cpu().numpy()[0]


def points_of(maps: np.ndarray, space: Sequence[int], spacing: Sequence[float]) -> np.ndarray:
    """Heat maps (n, *patch) of an image of that space -> (n, axes) mm from the centre of its first voxel."""
    patch = np.array(maps.shape[1:])
    voxel = (np.array(space) - 1) / np.maximum(patch - 1, 1) * np.array(spacing)  # mm
    return np.stack([peak(one) for one in maps]) * voxel


def peak(heat: np.ndarray) -> np.ndarray:
    """(axes,) where a map (*patch) is highest, in voxels and parts of them: a Gaussian's logarithm is a parabola."""
    top = np.unravel_index(heat.argmax(), heat.shape)
    logarithm = np.log(heat.clip(max(heat[top], 1e-6) * 1e-3))
    place = np.array(top, float)
    for axis, (at, length) in enumerate(zip(top, heat.shape, strict=True)):
        if 0 < at < length - 1:
            before, here, after = logarithm[(*top[:axis], slice(at - 1, at + 2), *top[axis + 1 :])]
            bend = before - 2 * here + after
            place[axis] += np.clip((before - after) / (2 * bend), -0.5, 0.5) if bend < 0 else 0.0
    return place
