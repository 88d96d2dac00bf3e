"""Prediction of slices: the whole slice at once, or a sliding window where it is large.

B batch · C channels · D H W space · K classes
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Config

PIXELS = 512 * 512  # of a slice that is predicted at once; larger ones go through a window


@torch.no_grad()
def slice_probabilities(network: nn.Module, image: Tensor, config: Config) -> Tensor:
    """Normalised slices (B, C, H, W) -> float32 probabilities (B, K, H, W) on the processor, in evaluation mode."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        with autocast(config, device):
            return predict(network, image.to(device), config).cpu()
    finally:
        network.train(training)


def predict(network: nn.Module, image: Tensor, config: Config) -> Tensor:
    if config.view == "resize":
        return resized(network, image, config)
    if image.shape[-2] * image.shape[-1] <= PIXELS:
        return softmax_of(network, image)
    from monai.inferers import sliding_window_inference  # here: it takes seconds to import

    window = tuple(min(2 * side, length) for side, length in zip(config.patch, image.shape[-2:], strict=True))
    return sliding_window_inference(
        image, window, 4, lambda x: softmax_of(network, x), overlap=0.25, mode="gaussian", padding_mode="reflect"
    )


def resized(network: nn.Module, image: Tensor, config: Config) -> Tensor:
    """The slice resized to the view the network knows, and its probabilities resized back."""
    if config.interpolation == "nearest":  # the grid of the training views: corners on corners
        probabilities = softmax_of(network, nearest(image, config.patch))
        return nearest(probabilities, tuple(image.shape[-2:]))
    small = F.interpolate(image, config.patch, mode="bilinear", align_corners=True)
    return F.interpolate(softmax_of(network, small), image.shape[-2:], mode="bilinear", align_corners=True)


def nearest(x: Tensor, shape: tuple[int, int]) -> Tensor:
    rows, columns = (
        torch.linspace(0, n - 1, m, device=x.device).round().long() for n, m in zip(x.shape[-2:], shape, strict=True)
    )
    return x[..., rows, :][..., columns]


def softmax_of(network: nn.Module, image: Tensor) -> Tensor:
    return network(image).float().softmax(1)


def autocast(config: Config, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")
