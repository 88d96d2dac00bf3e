"""Strokes and their random walk -> better masks, by a small network that has seen many generated images.

Class-agnostic, one against the rest: the same UNet (Ronneberger et al., MICCAI 2015) looks at the image once for each
class, with that class's strokes on one side and everybody else's on the other. Where its weights come from:
trainer.pretrain and weights/strokenet.json.

K classes · C channels · H W pixels · P probabilities (K, H, W) · IGNORE where nobody drew
"""

from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage as ndi
from skimage.transform import resize
from torch import Tensor, nn

from trainer.dataset import IGNORE
from trainer.files import read_tensors
from trainer.networks.blocks import pad_to_multiple

WEIGHTS = Path(__file__).with_name("weights") / "strokenet.safetensors"
INPUTS = 8  # channels, as `inputs` makes them
PIXELS = 45_000  # that it looks at; larger images are seen at a lower resolution, as by the random walk
NEAR = 5.0  # pixels: how far a stroke is felt; a second scale is four times as far
POINTS = 100  # stroke pixels of a class that others are compared with
ALIKE = 0.25  # deviations of the image: pixels closer than that look alike


def refine(image: np.ndarray, strokes: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Probabilities (K, H, W) float32 of an annotated slice, from those of the random walk.

    image (C, H, W) in 0..1, its contrast normalised; strokes (H, W). What P gives to classes without a stroke stays as
    it is. Strokes are not enforced: the caller clamps them. ValueError where fewer than two classes are drawn.
    """
    return refined(pretrained(), image, strokes, P)


def refined(network: "StrokeNet", image: np.ndarray, strokes: np.ndarray, P: np.ndarray) -> np.ndarray:
    """The same with any weights."""
    drawn = np.unique(strokes[strokes != IGNORE])
    if len(drawn) < 2:
        raise ValueError(f"strokes of at least two classes are needed to tell them apart, got {drawn.tolist()}")
    with torch.inference_mode():
        logits = network(torch.from_numpy(inputs(*coarse(image, strokes, P[drawn]), drawn)))
    mine = torch.sigmoid(logits[:, 0]).numpy()
    if mine.shape[1:] != strokes.shape:
        mine = np.stack([resize(p, strokes.shape, order=1) for p in mine])
    result = P.astype(np.float32)
    result[drawn] = mine / mine.sum(0).clip(1e-6) * result[drawn].sum(0)
    return result


@cache
def pretrained() -> "StrokeNet":
    network = StrokeNet()
    tensors, _ = read_tensors(WEIGHTS)
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return network.eval()


def coarse(image: np.ndarray, strokes: np.ndarray, P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, strokes and P of at most about PIXELS."""
    from trainer.propagation import shrunken  # which itself may call `refine`

    small, drawn = shrunken(image, strokes, PIXELS)
    if drawn.shape != P.shape[1:]:
        P = np.stack([resize(plane, drawn.shape, anti_aliasing=True) for plane in P])
    return small, drawn, P


# ---- what the network sees ----


def inputs(image: np.ndarray, strokes: np.ndarray, P: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(K, INPUTS, H, W) float32, for each drawn class: the image, the walk, the strokes near and far, who looks alike.

    P (K, H, W) of the drawn classes only.
    """
    grey = image.mean(0)
    pictures = standard(grey), standard(ndi.gaussian_gradient_magnitude(grey, 1.0))
    near = np.stack([nearness(strokes == c) for c in drawn])
    alike = likeness(image, strokes, drawn)
    views = []
    for k in range(len(drawn)):
        mine, rest = near[k], np.delete(near, k, 0).max(0)
        views.append([*pictures, 2 * P[k] - 1, mine, rest, mine**0.25, rest**0.25, 2 * alike[k] - 1])
    return np.array(views, np.float32)


def nearness(drawn: np.ndarray) -> np.ndarray:
    """1 on a stroke, falling to 1 / e at NEAR pixels."""
    return np.exp(-ndi.distance_transform_edt(~drawn) / NEAR)


def likeness(image: np.ndarray, strokes: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Probability (K, H, W) of each drawn class by look alone: Gaussian kernels around stroke pixels (Parzen 1962).

    Place does not count: it tells the network of nuclei that nobody drew on. What is like no stroke is undecided.
    """
    looks = features(image).reshape(-1, strokes.size).T  # (H W, F)
    density = np.empty((len(drawn), strokes.size), np.float32)
    for k, c in enumerate(drawn):
        places = np.flatnonzero(strokes.ravel() == c)
        points = looks[places[np.linspace(0, len(places) - 1, min(len(places), POINTS)).astype(int)]]
        squares = (looks**2).sum(1)[:, None] - 2 * looks @ points.T + (points**2).sum(1)
        density[k] = np.exp(squares / (-2 * ALIKE**2 * looks.shape[1])).mean(1)
    density += 1e-4
    return (density / density.sum(0)).reshape(len(drawn), *strokes.shape)


def features(image: np.ndarray) -> np.ndarray:
    """What a pixel looks like (F, H, W): every channel at three scales, edges and unrest of the grey; standardised."""
    grey = image.mean(0)
    unrest = ndi.gaussian_filter(grey**2, 3) - ndi.gaussian_filter(grey, 3) ** 2
    planes = [ndi.gaussian_filter(channel, sigma) for channel in image for sigma in (0.5, 1.5, 4)]
    planes += [ndi.gaussian_gradient_magnitude(grey, 1.5), unrest.clip(0) ** 0.5]
    return np.stack([standard(plane) for plane in planes]).astype(np.float32)


def standard(plane: np.ndarray) -> np.ndarray:
    return (plane - plane.mean()) / max(plane.std(), 1e-6)


# ---- the network ----


class StrokeNet(nn.Module):
    """(B, INPUTS, H, W) -> logit (B, 1, H, W) that a pixel is of the class in question, any H and W.

    InstanceNorm: what the numbers of generated images are like says little about anybody's. One convolution at the
    finest level, where they cost most.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 24, 48, 64, 64)) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([block(a, b, 1 + (b > widths[0])) for a, b in pairwise((INPUTS, *widths))])
        self.decoder = nn.ModuleList([block(a + b, a, 1 + (a > widths[0])) for a, b in pairwise(widths)])
        self.head = nn.Conv2d(widths[0], 1, 1)
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        x = pad_to_multiple(x, self.multiple)
        skips = []
        for level, encode in enumerate(self.encoder):
            x = encode(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        for decode, skip in zip(reversed(self.decoder), skips[-2::-1], strict=True):
            x = decode(torch.cat([skip, F.interpolate(x, scale_factor=2.0)], 1))
        return self.head(x)[..., :H, :W]


def block(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    """Convolution, InstanceNorm, LeakyReLU, so many times: (B, C_in, H, W) -> (B, C_out, H, W)."""
    layers: list[nn.Module] = []
    for channels in [in_channels, *[out_channels] * (convolutions - 1)]:
        conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers += [conv, nn.InstanceNorm2d(out_channels, affine=True), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
