"""Prediction of slices and volumes: a slice at once where it is not large, all else through a sliding window.

B batch · C channels · K classes · space is (H, W) or (D, H, W)
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Config

ONE_AT_A_TIME = threading.Lock()
PIXELS = 512 * 512  # of a slice that is predicted at once; larger ones go through a window


@torch.no_grad()
def probabilities_of(network: nn.Module, image: Tensor, config: Config) -> Tensor:
    """Normalised (B, C, *space) -> float32 probabilities (B, K, *space) on the processor, in evaluation mode."""
    device = next(network.parameters()).device
    with evaluating(network), autocast(config, device):
        return predict(network, image.to(device), config).cpu()


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """In evaluation mode meanwhile. One at a time: of two threads that look through one network, the first to end would
    put the other into training mode, where it drops units and changes the statistics of BatchNorm."""
    with ONE_AT_A_TIME:
        training = network.training
        network.eval()
        try:
            yield
        finally:
            network.train(training)


def predict(network: nn.Module, image: Tensor, config: Config) -> Tensor:
    if config.view == "resize":
        return resized(network, image, config)
    if len(config.patch) == 3:
        return windowed(network, image, config.patch, overlap=0.5)
    if image.shape[-2] * image.shape[-1] <= PIXELS:
        return softmax_of(network, image)
    return windowed(network, image, [min(2 * n, size) for n, size in zip(config.patch, image.shape[2:], strict=True)])


def windowed(network: nn.Module, image: Tensor, window: Sequence[int], overlap: float = 0.25) -> Tensor:
    from monai.inferers import sliding_window_inference  # here: it takes seconds to import

    return sliding_window_inference(
        image,
        window,
        1 if len(window) == 3 else 4,
        lambda x: softmax_of(network, x),
        overlap=overlap,
        mode="gaussian",
        padding_mode="replicate",
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
