"""Swin-UMamba and Swin-UMamba-dagger: the encoder of VMamba-tiny under two decoders.

Reference: Liu et al., "Swin-UMamba: Mamba-based UNet with ImageNet-based pretraining", MICCAI 2024. `SwinUMamba` has a
decoder of convolutions, `SwinUMambaD` (dagger) one of visual state-space blocks with half of the parameters.

Glossary: B batch, K classes, H, W pixels, C channels, N size of the state (`d_state`).
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.blocks import (
    PatchEmbed,
    PatchExpand,
    PatchMerging2D,
    Stage,
    any_size_deep,
    drop_path_rates,
    init_he,
    init_transformer,
)
from trainer.networks.vss import vss_blocks


class VSSEncoder(nn.Module):
    """(B, C_in, H, W) -> the tokens (B, H', W', C) of each stage, finest first; H, W multiples of `self.multiple`."""

    def __init__(
        self,
        in_channels: int,
        dims: Sequence[int],
        depths: Sequence[int],
        d_state: int,
        expand: int,
        patch: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        rates = drop_path_rates(depths, 0.0, drop_path)
        self.multiple = patch * 2 ** (len(dims) - 1)
        self.patch_embed = PatchEmbed(in_channels, dims[0], patch)
        self.layers = nn.ModuleList(
            Stage(vss_blocks(dim, d_state, expand, stage)) for dim, stage in zip(dims, rates, strict=True)
        )
        self.downsamples = nn.ModuleList(map(PatchMerging2D, dims[:-1]))
        self.apply(init_transformer)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [self.layers[0](self.patch_embed(x))]
        for downsample, layer in zip(self.downsamples, self.layers[1:], strict=True):
            features.append(layer(downsample(features[-1])))
        return features


def named(**modules: nn.Module) -> nn.Sequential:
    """Modules in a row under these names: the wrappers around single layers that the official keys show."""
    return nn.Sequential(OrderedDict(modules))


def conv(in_channels: int, out_channels: int, kernel: int, bias: bool = False) -> nn.Sequential:
    return named(conv=nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias))


class ResBlock(nn.Module):
    """Two convolutions with InstanceNorm and a residual: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv(in_channels, out_channels, 3)
        self.conv2 = conv(out_channels, out_channels, 3)
        if in_channels != out_channels:
            self.conv3 = conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(F.instance_norm(self.conv1(x)), 0.01)
        y = F.instance_norm(self.conv2(y))
        skip = F.instance_norm(self.conv3(x)) if hasattr(self, "conv3") else x
        return F.leaky_relu(y + skip, 0.01)


class UpBlock(nn.Module):
    """(B, C_in, H / 2, W / 2) and the skip (B, C_out, H, W) -> (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.transp_conv = named(conv=nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False))
        self.conv_block = ResBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv_block(torch.cat([self.transp_conv(x), skip], dim=1))


class SwinUMamba(nn.Module):
    """(B, in_channels, H, W) -> logits (B, classes, H, W), any H and W.

    width: channels of the first stage of tokens, doubled at each next one; the stem before it has half of them.
    depths: blocks of each stage; d_state: size of the state; expand: inner channels of a block per channel;
    drop_path: rate of the deepest block.
    deep_supervision: while training, forward gives a list of logits, finest first, at 1, 1/2, 1/4, ... of the image's
    resolution. Official checkpoints have the heads for it in any case.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 9, 2),
        d_state: int = 16,
        expand: int = 2,
        drop_path: float = 0.2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        dims = [width * 2**stage for stage in range(len(depths))]
        widths = [width // 2, *dims]  # of the skips, from full resolution down
        into_skips = [in_channels, width // 2, *dims[:-1]]
        into_decoder = [*widths[1:], dims[-1]]
        self.deep_supervision, self.levels = deep_supervision, range(len(widths))
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 7, stride=2, padding=3), nn.InstanceNorm2d(widths[0], affine=True)
        )
        self.vssm_encoder = VSSEncoder(widths[0], dims, depths, d_state, expand, patch=2, drop_path=drop_path)
        self.multiple = 2 * self.vssm_encoder.multiple
        for level in self.levels:
            self.add_module(f"encoder{level + 1}", named(layer=ResBlock(into_skips[level], widths[level])))
            self.add_module(f"decoder{level + 2}", UpBlock(into_decoder[level], widths[level]))
        self.decoder1 = named(layer=ResBlock(widths[0], widths[0]))
        with_head = widths[:-1] if deep_supervision else widths[:1]  # the deepest level never has one
        self.out_layers = nn.ModuleList(named(conv=conv(dim, classes, 1, bias=True)) for dim in with_head)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        outputs = any_size_deep(self.heads, image, self.multiple)
        return outputs if self.training and self.deep_supervision else outputs[0]

    def heads(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, H, W), H and W multiples of `multiple` -> logits of every head there is, finest first."""
        half = self.stem(x)
        *features, x = [x, half, *(tokens.permute(0, 3, 1, 2) for tokens in self.vssm_encoder(half))]
        decoded = []
        for level in reversed(self.levels):
            skip = getattr(self, f"encoder{level + 1}")(features[level])
            x = getattr(self, f"decoder{level + 2}")(x, skip)
            decoded.insert(0, x)
        decoded[0] = self.decoder1(x)
        return [head(x) for head, x in zip(self.out_layers, decoded, strict=False)]


class VSSDecoder(nn.Module):
    """Tokens of each stage, finest first -> logits of the pixels, and with `every_head` of each stage but the deepest.

    dims: channels of the encoder's stages; depths: blocks of the decoder's, deepest first.
    """

    def __init__(
        self,
        dims: Sequence[int],
        classes: int,
        depths: Sequence[int],
        d_state: int,
        expand: int,
        patch: int,
        drop_path: float,
        every_head: bool,
    ) -> None:
        super().__init__()
        upwards, rates = dims[-2::-1], drop_path_rates(depths, drop_path, 0.0)
        self.expand_layers = nn.ModuleList(PatchExpand(2 * dim, dim, scale=2) for dim in upwards)
        self.expand_layers.append(PatchExpand(dims[0], dims[0], scale=patch))
        self.concat_back_dim = nn.ModuleList(nn.Linear(2 * dim, dim) for dim in upwards)
        self.stages = nn.ModuleList(
            Stage(vss_blocks(dim, d_state, expand, stage)) for dim, stage in zip(upwards, rates, strict=True)
        )
        self.seg_layers = nn.ModuleList(nn.Conv2d(dim, classes, 1) if every_head else nn.Identity() for dim in upwards)
        self.seg_layers.append(nn.Conv2d(dims[0], classes, 1))
        self.every_head = every_head

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        x, *skips = reversed(features)
        *expands, to_pixels = self.expand_layers
        decoded = []
        for expand, merge, stage, skip in zip(expands, self.concat_back_dim, self.stages, skips, strict=True):
            x = stage(merge(torch.cat([expand(x), skip], dim=-1)))
            decoded.append(x)
        decoded.append(to_pixels(x))
        finest_first = list(zip(self.seg_layers, decoded, strict=True))[::-1]
        return [head(x.permute(0, 3, 1, 2)) for head, x in (finest_first if self.every_head else finest_first[:1])]


class SwinUMambaD(nn.Module):
    """(B, in_channels, H, W) -> logits (B, classes, H, W), any H and W.

    width: channels of the first stage, doubled at each next one; depths: blocks of each stage;
    depths_decoder: of each decoder stage, deepest first, one stage fewer; d_state: size of the state;
    expand: inner channels of a block per channel; patch: pixels along a token; drop_path: rate of the deepest blocks.
    deep_supervision: while training, forward gives a list of logits, finest first, at 1, 1/patch, 1/(2 patch), ... of
    the image's resolution. Official checkpoints have the heads for it in any case.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 9, 2),
        depths_decoder: Sequence[int] = (2, 2, 2),
        d_state: int = 16,
        expand: int = 2,
        patch: int = 4,
        drop_path: float = 0.2,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if len(depths_decoder) != len(depths) - 1:
            wanted = f"{len(depths) - 1} values, one fewer than depths"
            raise ValueError(f"depths_decoder must have {wanted}, got {len(depths_decoder)}")
        dims = [width * 2**stage for stage in range(len(depths))]
        self.deep_supervision = deep_supervision
        self.vssm_encoder = VSSEncoder(in_channels, dims, depths, d_state, expand, patch, drop_path)
        self.decoder = VSSDecoder(dims, classes, depths_decoder, d_state, expand, patch, drop_path, deep_supervision)
        self.multiple = self.vssm_encoder.multiple
        self.apply(init_transformer)
        self.apply(init_he)  # convolutions, also those along the channels inside the blocks

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        outputs = any_size_deep(self.heads, image, self.multiple)
        return outputs if self.training and self.deep_supervision else outputs[0]

    def heads(self, x: Tensor) -> list[Tensor]:
        """(B, C_in, H, W), H and W multiples of `multiple` -> logits of every head there is, finest first."""
        return self.decoder(self.vssm_encoder(x))
