"""Strokes, their random walk and a forest of their looks -> better masks, by a small network that has seen many
generated images, and on them when to believe the walk, when the looks.

Class-agnostic, one against the rest: the same UNet (Ronneberger et al., MICCAI 2015) looks at the image once for each
class, with that class's strokes on one side and everybody else's on the other. Where its weights come from:
trainer.pretrain and weights/strokenet.json.

K classes · C channels · H W pixels · P probabilities (K, H, W) of the walk · L those of the forest · IGNORE where
nobody drew
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

from trainer.files import read_tensors
from trainer.networks.blocks import pad_to_multiple
from trainer.pieces import stroke_counts, without_others
from trainer.sample import IGNORE

WEIGHTS = Path(__file__).with_name("weights") / "strokenet.safetensors"
INPUTS = 8  # channels, as `inputs` makes them
PIXELS = 45_000  # that it looks at; larger images are seen at a lower resolution, as by the random walk
NEAR = 5.0  # pixels: how far a stroke is felt; a second scale is four times as far
LEAST = 0.01  # probability that a forest is taken to leave to any class, where it tells details


def refine(image: np.ndarray, strokes: np.ndarray, P: np.ndarray, L: np.ndarray) -> np.ndarray:
    """Probabilities (K, H, W) float32 of an annotated slice, from those of the random walk and of the forest.

    image (C, H, W) in 0..1, its contrast normalised; strokes (H, W). What P gives to classes without a stroke stays as
    it is. Strokes are not enforced: the caller clamps them. ValueError where fewer than two classes are drawn.
    """
    return refined(pretrained(), image, strokes, P, L)


def refined(network: "StrokeNet", image: np.ndarray, strokes: np.ndarray, P: np.ndarray, L: np.ndarray) -> np.ndarray:
    """The same with any weights."""
    drawn = np.unique(strokes[strokes != IGNORE])
    if len(drawn) < 2:
        raise ValueError(f"strokes of at least two classes are needed to tell them apart, got {drawn.tolist()}")
    small = coarse(image, strokes, P[drawn], L[drawn])
    with torch.inference_mode():
        logits = network(torch.from_numpy(inputs(*small, drawn)))
    mine = torch.sigmoid(logits[:, 0]).numpy()
    mine = without_others(mine, np.searchsorted(drawn, small[1]), stroke_counts(strokes, drawn))
    if mine.shape[1:] != strokes.shape:
        mine = detailed(mine, small[-1], L[drawn])
    result = P.astype(np.float32)
    result[drawn] = mine / mine.sum(0).clip(1e-6) * result[drawn].sum(0)
    return result


def detailed(mine: np.ndarray, looks: np.ndarray, L: np.ndarray) -> np.ndarray:
    """What the network says on a coarse grid (K, h, w), with the details of the forest's L (K, H, W): by how much it
    finds a class likelier than the forest does there, `looks`, so much likelier it is at each pixel."""
    factor = mine.clip(1e-4) / (looks + LEAST)
    return (L + LEAST) * np.stack([resize(plane, L.shape[1:], order=1) for plane in factor])


@cache
def pretrained() -> "StrokeNet":
    network = StrokeNet()
    tensors, _ = read_tensors(WEIGHTS)
    network.load_state_dict({name: value.float() for name, value in tensors.items()})
    return network.eval()


def coarse(image: np.ndarray, strokes: np.ndarray, *probabilities: np.ndarray) -> tuple[np.ndarray, ...]:
    """Image, strokes and each P of at most about PIXELS."""
    from trainer.propagation import shrunken  # which itself may call `refine`

    small, drawn = shrunken(image, strokes, PIXELS)
    if drawn.shape == strokes.shape:
        return small, drawn, *probabilities
    return small, drawn, *(np.stack([resize(p, drawn.shape, anti_aliasing=True) for p in P]) for P in probabilities)


# ---- what the network sees ----


def inputs(image: np.ndarray, strokes: np.ndarray, P: np.ndarray, L: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(K, INPUTS, H, W) float32, for each drawn class: the image, the walk, the strokes near and far, the forest.

    P and L (K, H, W) of the drawn classes only.
    """
    grey = image.mean(0)
    pictures = standard(grey), standard(ndi.gaussian_gradient_magnitude(grey, 1.0))
    near = np.stack([nearness(strokes == c) for c in drawn])
    views = []
    for k in range(len(drawn)):
        mine, rest = near[k], np.delete(near, k, 0).max(0)
        views.append([*pictures, 2 * P[k] - 1, mine, rest, mine**0.25, rest**0.25, 2 * L[k] - 1])
    return np.array(views, np.float32)


def nearness(drawn: np.ndarray) -> np.ndarray:
    """1 on a stroke, falling to 1 / e at NEAR pixels; 0 where there is none."""
    if not drawn.any():
        return np.zeros(drawn.shape)
    return np.exp(-ndi.distance_transform_edt(~drawn) / NEAR)


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
        if x[0, 0].numel() == self.multiple**2:  # it would be a single pixel at the coarsest level, which has no spread
            x = F.pad(x, (0, self.multiple, 0, 0), mode="replicate")
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
