"""U-Mamba: nnU-Net's residual U-Net with Mamba behind its last encoder stage (Bot) or inside its encoder (Enc).

Reference: Ma, Li and Wang, "U-Mamba: Enhancing Long-range Dependency for Biomedical Image Segmentation", 2024,
arXiv 2401.04722. The official code has a file for each of Bot and Enc in 2-D and 3-D; what differs between them is an
argument here, and where they look like slips the defaults are not theirs:

    argument        official 2-D               official 3-D         default
    finest_skip     False                      True                 True
    residual        False                      False                True
    mamba_stages    n - 1, n - 3, n - 5, ...   0 ... n - 1          1 ... n - 1, of n stages
    channel_tokens  those of mamba_stages with no more voxels than channels    none, so that any size goes in

Glossary: B batch, C channels, K classes, L voxels of a feature, space (H, W) or (D, H, W). Parameter names are the
official ones, those of shared modules included: `decoder.encoder` is `encoder` again.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.blocks import Conv3d
from trainer.networks.mamba import Mamba

# The parts


def conv(in_channels: int, out: int, kernel: Sequence[int], stride: Sequence[int] | int = 1) -> nn.Conv2d | nn.Conv3d:
    """A convolution along as many axes as the kernel has numbers; odd kernels only divide the size by the stride."""
    kind = {2: nn.Conv2d, 3: Conv3d}[len(kernel)]
    return kind(in_channels, out, tuple(kernel), stride, padding=tuple(size // 2 for size in kernel))


def pointwise(in_channels: int, out: int, dim: int, stride: Sequence[int] | int = 1) -> nn.Conv2d | nn.Conv3d:
    return conv(in_channels, out, (1,) * dim, stride)


def instance_norm(channels: int, dim: int) -> nn.InstanceNorm2d | nn.InstanceNorm3d:
    return {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dim](channels, affine=True)


def activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.01, inplace=True)  # in place: of each norm one feature less to remember


class ResBlock(nn.Module):
    """(B, C_in, *space) -> (B, C_out, *space / stride), the way around two convolutions being a third."""

    def __init__(self, in_channels: int, out: int, kernel: Sequence[int], stride: Sequence[int] | int = 1) -> None:
        super().__init__()
        dim = len(kernel)
        self.conv1, self.norm1 = conv(in_channels, out, kernel, stride), instance_norm(out, dim)
        self.conv2, self.norm2 = conv(out, out, kernel), instance_norm(out, dim)
        self.conv3 = pointwise(in_channels, out, dim, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = activated(self.norm1(self.conv1(x)))
        return activated(self.norm2(self.conv2(y)) + self.conv3(x))


class ConvNorm(nn.Module):
    """(B, C, *space) -> the same shape."""

    def __init__(self, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv, self.norm = conv(channels, channels, kernel), instance_norm(channels, len(kernel))
        self.all_modules = nn.Sequential(self.conv, self.norm)  # official checkpoints hold both under either name

    def forward(self, x: Tensor) -> Tensor:
        return self.all_modules(x)


class BasicBlock(nn.Module):
    """(B, C, *space) -> the same shape, with a way around."""

    def __init__(self, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvNorm(channels, kernel), ConvNorm(channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.conv2(activated(self.conv1(x))) + x)


def res_stage(
    in_channels: int, out: int, kernel: Sequence[int], blocks: int, stride: Sequence[int] | int = 1
) -> nn.Sequential:
    """(B, C_in, *space) -> (B, C_out, *space / stride), by `blocks` blocks."""
    return nn.Sequential(
        ResBlock(in_channels, out, kernel, stride), *(BasicBlock(out, kernel) for _ in range(blocks - 1))
    )


class MambaLayer(nn.Module):
    """(B, C, *space) -> the same shape: norm and Mamba along the voxels, row by row.

    size: features of a token, that is C; where `channel_tokens`, the channels are the tokens and their L voxels the
    features, and size is L.
    """

    def __init__(self, size: int, d_state: int, expand: int, residual: bool, channel_tokens: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.mamba = Mamba(size, d_state, expand=expand)
        self.residual, self.channel_tokens = residual, channel_tokens

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a state that is summed over L steps needs its digits
            tokens = x.to(self.norm.weight.dtype).flatten(2)  # (B, C, L)
            y = self.walk(tokens) if self.channel_tokens else self.walk(tokens.transpose(1, 2)).transpose(1, 2)
            y = y.reshape(x.shape)
        return x + y if self.residual else y

    def walk(self, tokens: Tensor) -> Tensor:
        return self.mamba(self.norm(tokens))


class Upsample(nn.Module):
    """(B, C_in, *space) -> (B, C_out, *space * stride)."""

    def __init__(self, in_channels: int, out: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.conv = pointwise(in_channels, out, len(stride))
        self.stride = tuple(map(float, stride))

    def forward(self, x: Tensor) -> Tensor:
        # first the convolution, which gives each copy of a voxel the same: officially it sees all the copies
        return F.interpolate(self.conv(x), scale_factor=self.stride, mode="nearest")


# The U


class Encoder(nn.Module):
    """The image -> a feature of each stage, finest first; `mamba_layers` are empty until a network puts some in."""

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        blocks: Sequence[int],
    ) -> None:
        super().__init__()
        inputs = [widths[0], *widths[:-1]]
        self.stem = res_stage(in_channels, widths[0], kernels[0], blocks[0])
        self.mamba_layers = nn.ModuleList(nn.Identity() for _ in widths)
        self.stages = nn.ModuleList(map(res_stage, inputs, widths, kernels, blocks, strides))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = self.stem(x), []
        for stage, mamba in zip(self.stages, self.mamba_layers, strict=True):
            x = mamba(stage(x))
            features.append(x)
        return features


class Decoder(nn.Module):
    """Features, finest first -> logits (B, K, *space) of the finest stage, or with `deep` of every stage, finest first.

    Only with `every_head` are there layers that make logits of the coarser stages.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        blocks: Sequence[int],
        finest_skip: bool,
        every_head: bool,
    ) -> None:
        super().__init__()
        dim, upwards = len(kernels[0]), range(len(widths) - 2, -1, -1)
        inputs = [widths[0] if s == 0 and not finest_skip else 2 * widths[s] for s in upwards]
        self.finest_skip = finest_skip
        self.encoder = encoder  # not used here, but official checkpoints hold it twice
        self.stages = nn.ModuleList(
            res_stage(channels, widths[s], kernels[s], count)
            for channels, s, count in zip(inputs, upwards, blocks, strict=True)
        )
        self.upsample_layers = nn.ModuleList(Upsample(widths[s + 1], widths[s], strides[s + 1]) for s in upwards)
        self.seg_layers = nn.ModuleList(
            pointwise(widths[s], classes, dim) if every_head or s == 0 else nn.Identity() for s in upwards
        )

    def forward(self, features: list[Tensor], deep: bool) -> list[Tensor]:
        x, *skips = reversed(features)
        if not self.finest_skip:
            skips[-1] = skips[-1][:, :0]  # no channels
        decoded = []
        for upsample, stage, skip in zip(self.upsample_layers, self.stages, skips, strict=True):
            x = stage(torch.cat([upsample(x), skip], dim=1))
            decoded.append(x)
        finest_first = list(zip(self.seg_layers, decoded, strict=True))[::-1]
        return [head(x) for head, x in (finest_first if deep else finest_first[:1])]


class UMamba(nn.Module):
    """What Bot and Enc share: (B, in_channels, *space) -> logits (B, classes, *space), any size along each axis.

    dim: 2 or 3; strides, kernels: of each stage, one number or one an axis (None: kernels of 3); features: channels of
    the first stage, doubled at each next one up to `max_features` (None: 512 in 2-D, 320 in 3-D, as nnU-Net has it);
    blocks: residual blocks of a stage, but for one in the deeper half of the encoder and the finer half of the decoder;
    finest_skip: the encoder's finest feature goes to the decoder too.
    deep_supervision: logits of every decoder stage; in training a list of them comes out, finest first, smaller by the
    strides. Official checkpoints have the layers for it.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        dim: int = 2,
        strides: Sequence[int | Sequence[int]] = (1, 2, 2, 2, 2, 2),
        kernels: Sequence[int | Sequence[int]] | None = None,
        features: int = 32,
        max_features: int | None = None,
        blocks: int = 2,
        finest_skip: bool = True,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        strides = per_axis(strides, dim, "strides")
        kernels = per_axis([3] * len(strides) if kernels is None else kernels, dim, "kernels")
        check_plan(strides, kernels)
        stages, limit = len(strides), max_features or {2: 512, 3: 320}[dim]
        self.widths = [min(features * 2**stage, limit) for stage in range(stages)]
        self.scales = [tuple(map(math.prod, zip(*strides[: s + 1], strict=True))) for s in range(stages)]
        self.deep_supervision = deep_supervision
        each = [blocks if stage < stages / 2 else 1 for stage in range(stages)]  # the decoder counts from the deepest
        self.encoder = Encoder(in_channels, self.widths, kernels, strides, each)
        self.mamba_layer = nn.Identity()
        self.decoder = Decoder(
            self.encoder, classes, self.widths, kernels, strides, each[:-1], finest_skip, every_head=deep_supervision
        )
        self.init_he()

    def init_he(self) -> None:
        """He's normal for LeakyReLU(0.01), in the convolutions of the U; those inside Mamba keep PyTorch's init."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, a=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        if self.deep_supervision and self.training:
            return self.outputs(image, deep=True)
        return self.outputs(image, deep=False)[0]

    def outputs(self, image: Tensor, deep: bool) -> list[Tensor]:
        """Logits of the image's size, and with `deep` also those of the coarser stages, finest first."""
        space = image.shape[2:]
        features = self.encoder(pad_to(image, self.padded(space)))
        features[-1] = self.mamba_layer(features[-1])
        return [
            logits[(..., *(slice(-(-size // t)) for size, t in zip(space, scale, strict=True)))]
            for logits, scale in zip(self.decoder(features, deep), self.scales, strict=False)
        ]

    def padded(self, space: Sequence[int]) -> list[int]:
        """The size that an image is padded to: whole strides, and two voxels at the deepest stage for InstanceNorm."""
        multiple = self.scales[-1]
        padded = [-(-size // t) * t for size, t in zip(space, multiple, strict=True)]
        return [*padded[:-1], 2 * padded[-1]] if padded == list(multiple) else padded


class UMambaBot(UMamba):
    """Mamba on the feature of the last encoder stage. The other arguments are UMamba's.

    d_state, expand: of Mamba; residual: what it says is added to the feature, instead of taking its place.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        d_state: int = 16,
        expand: int = 2,
        residual: bool = True,
        **plan: object,
    ) -> None:
        super().__init__(in_channels, classes, **plan)
        self.mamba_layer = MambaLayer(self.widths[-1], d_state, expand, residual)


class UMambaEnc(UMamba):
    """Mamba on the features of several encoder stages, before they go on and to the decoder. Else as UMambaBot.

    mamba_stages: which, 0 being the finest (None: all but that, whose sequence is the longest);
    channel_tokens: those of them whose Mamba walks along the channels and has a parameter for each voxel; the network
    then takes images of the size `patch` only, give or take the padding, and others are a ValueError.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        mamba_stages: Sequence[int] | None = None,
        channel_tokens: Sequence[int] = (),
        patch: Sequence[int] | None = None,
        d_state: int = 16,
        expand: int = 2,
        residual: bool = True,
        **plan: object,
    ) -> None:
        super().__init__(in_channels, classes, **plan)
        stages = range(1, len(self.widths)) if mamba_stages is None else mamba_stages
        check_stages(stages, channel_tokens, len(self.widths))
        if channel_tokens and patch is None:
            raise ValueError(f"channel_tokens {list(channel_tokens)} need the patch they are planned for, got none")
        self.channel_tokens, self.planned = tuple(channel_tokens), None
        if channel_tokens:
            self.planned = self.padded(patch)
        for s in stages:
            size = self.voxels(s) if s in channel_tokens else self.widths[s]
            self.encoder.mamba_layers[s] = MambaLayer(size, d_state, expand, residual, s in channel_tokens)

    def voxels(self, stage: int) -> int:
        """Of the planned patch, at a stage."""
        return math.prod(size // t for size, t in zip(self.planned, self.scales[stage], strict=True))

    def padded(self, space: Sequence[int]) -> list[int]:
        padded = super().padded(space)
        if self.planned is not None and padded != self.planned:
            raise ValueError(
                f"this U-Mamba takes images of {by(self.planned)} voxels, since its stages {list(self.channel_tokens)} "
                f"have a parameter for each voxel; got {by(space)}, which pads to {by(padded)}; "
                "resize the image or cut it into such patches, or build the network with channel_tokens=()"
            )
        return padded


# Plans and sizes


def per_axis(values: Sequence[int | Sequence[int]], dim: int, name: str) -> list[tuple[int, ...]]:
    """A tuple of `dim` numbers for each stage. ValueError where a stage has more or fewer."""
    if dim not in (2, 3):
        raise ValueError(f"dim must be 2 or 3, got {dim}")
    stages = [(value,) * dim if isinstance(value, int) else tuple(value) for value in values]
    if any(len(stage) != dim for stage in stages):
        raise ValueError(f"{name} must be one number a stage or {dim}, one an axis; got {values}")
    return stages


def check_plan(strides: list[tuple[int, ...]], kernels: list[tuple[int, ...]]) -> None:
    if len(strides) < 2 or len(kernels) != len(strides):
        raise ValueError(
            f"strides and kernels must be of the same two stages or more, got {len(strides)} and {len(kernels)}"
        )
    if set(strides[0]) != {1}:
        raise ValueError(f"the stride of the first stage must be 1, or logits miss pixels; got {strides[0]}")
    if any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise ValueError(f"kernels must be odd, got {kernels}")


def check_stages(mamba_stages: Sequence[int], channel_tokens: Sequence[int], stages: int) -> None:
    if not set(mamba_stages) <= set(range(stages)):
        raise ValueError(f"mamba_stages must be among 0 ... {stages - 1}, got {list(mamba_stages)}")
    if not set(channel_tokens) <= set(mamba_stages):
        raise ValueError(f"channel_tokens must be among the mamba_stages {list(mamba_stages)}, got {channel_tokens}")


def pad_to(x: Tensor, space: Sequence[int]) -> Tensor:
    """(B, C, *smaller) -> (B, C, *space), mirrored at the far end of each axis, as often as it takes."""
    for axis, size in enumerate(space, start=2):
        if size > x.shape[axis]:
            x = x.index_select(axis, mirrored(x.shape[axis], size).to(x.device))
    return x


def mirrored(size: int, padded: int) -> Tensor:
    """0, 1, ..., size - 1, size - 2, ..., 1, 0, 1, ...: the first `padded` of them."""
    there = torch.arange(size)
    period = torch.cat([there, there[1:-1].flip(0)])
    return period[torch.arange(padded) % len(period)]


def by(space: Sequence[int]) -> str:
    """(320, 192) -> "320 x 192"."""
    return " x ".join(map(str, space))
