"""VM-UNet: a U of visual state-space blocks whose skips are added.

Reference: Ruan and Xiang, "VM-UNet: Vision Mamba UNet for Medical Image Segmentation", 2024. As in the official code,
the deepest skip is added at its own resolution, and the finest features have none.

Glossary: B batch, K classes, H, W pixels, C channels, N size of the state (`d_state`).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from trainer.networks.blocks import (
    ConvHead,
    PatchExpand,
    Stage,
    any_size,
    drop_path_rates,
    encoder_stages,
    init_transformer,
    stem_channels,
    token_stem,
)
from trainer.networks.vss import VSSBlock, vss_blocks


class AddingUNet(nn.Module):
    """The U itself: encoder and decoder are the blocks of each stage, top to bottom and bottom to top.

    forward: (B, in_channels, H, W) -> logits (B, classes, H, W); H and W multiples of `self.multiple`.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder: Sequence[Sequence[VSSBlock]],
        decoder: Sequence[Sequence[VSSBlock]],
        dims: Sequence[int],
        patch: int,
        conv_ends: bool,
    ) -> None:
        super().__init__()
        width = dims[0]
        self.multiple = patch * 2 ** (len(dims) - 1)
        self.patch_embed = token_stem(in_channels, width, patch, conv_ends)
        self.layers = encoder_stages(encoder, dims)
        self.layers_up = nn.ModuleList([Stage(decoder[0])])
        for blocks, dim in zip(decoder[1:], reversed(dims[:-1]), strict=True):
            self.layers_up.append(Stage(blocks, upsample_first=True, upsample=PatchExpand(2 * dim, dim, scale=2)))
        if conv_ends:
            self.head = ConvHead(width, classes)
        else:
            self.final_up = PatchExpand(width, width // patch, scale=patch)
            self.final_conv = nn.Conv2d(width // patch, classes, 1)
        self.conv_ends = conv_ends

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_ends:
            tokens, half = self.patch_embed(x)
            return self.head(self.token_stages(tokens), half)
        x = self.token_stages(self.patch_embed(x))
        return self.final_up.to_pixels(x, self.final_conv)  # (B, K, H, W)

    def token_stages(self, x: Tensor) -> Tensor:
        """(B, H / patch, W / patch, C) -> the same shape, down the U and up again."""
        inputs = []
        for layer in self.layers:
            inputs.append(x)
            x = layer(x)
        x = self.layers_up[0](x)
        for layer, skip in zip(self.layers_up[1:], reversed(inputs[1:]), strict=True):
            x = layer(x + skip)
        return x


class VMUNet(nn.Module):
    """(B, in_channels, H, W) -> logits (B, classes, H, W), any H and W.

    width: channels of the first stage, doubled at each next one; depths: blocks of each stage, finest first;
    depths_decoder: of each decoder stage, deepest first; d_state: size of the state;
    expand: inner channels of a block per channel; patch: pixels along a token; drop_path: rate of the deepest blocks.
    conv_ends: convolutions in the place of the patches at both ends, to learn sooner from scratch.
    repeat_grey: an image of one channel is repeated to three, as the official code does and its checkpoints need.
    sigmoid: of one class, forward gives the probability and not the logit, as the official code does.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        depths_decoder: Sequence[int] = (2, 2, 2, 1),
        d_state: int = 16,
        expand: int = 2,
        patch: int = 4,
        drop_path: float = 0.2,
        conv_ends: bool = False,
        repeat_grey: bool = False,
        sigmoid: bool = False,
    ) -> None:
        super().__init__()
        if len(depths_decoder) != len(depths):
            raise ValueError(f"depths_decoder must have {len(depths)} values as depths has, got {len(depths_decoder)}")
        if sigmoid and classes != 1:
            raise ValueError(f"sigmoid is for one class, got {classes}; leave it out to get logits")
        encoder, decoder = drop_path_rates(depths, 0.0, drop_path), drop_path_rates(depths_decoder, drop_path, 0.0)
        dims = [width * 2**stage for stage in range(len(depths))]
        self.repeat_grey, self.sigmoid = repeat_grey, sigmoid
        self.vmunet = AddingUNet(
            stem_channels(in_channels, repeat_grey),
            classes,
            [vss_blocks(dim, d_state, expand, rates) for dim, rates in zip(dims, encoder, strict=True)],
            [vss_blocks(dim, d_state, expand, rates) for dim, rates in zip(reversed(dims), decoder, strict=True)],
            dims,
            patch,
            conv_ends,
        )
        self.apply(init_transformer)

    def forward(self, image: Tensor) -> Tensor:
        logits = any_size(self.vmunet, image, self.repeat_grey)
        return logits.sigmoid() if self.sigmoid else logits
