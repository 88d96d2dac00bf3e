"""SwinUNet: a U of Swin Transformer blocks.

Reference: Cao et al., "Swin-Unet: Unet-like Pure Transformer for Medical Image Segmentation", ECCV workshops 2022
(`swin_tiny_patch4_window7_224_lite`). The official code ignores its own setting of the decoder's depths, so there is
none here: a decoder stage is as deep as the encoder stage at its resolution.

Glossary: B batch, K classes, H, W pixels, C channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from trainer.networks.blocks import PatchUNet, any_size, init_transformer, stem_channels
from trainer.networks.swin import SwinBlock


class SwinUNet(nn.Module):
    """(B, in_channels, H, W) -> logits (B, classes, H, W), any H and W.

    width: channels of the first stage, doubled at each next one; depths, heads: blocks and attention heads of a stage;
    window: tokens along an attention window; mlp_ratio: hidden channels of a block's MLP per channel;
    patch: pixels along a token; drop_path: rate of the deepest encoder block.
    conv_ends: convolutions in the place of the patches at both ends, to learn sooner from scratch (`PatchUNet`).
    repeat_grey: an image of one channel is repeated to three, as the official code does and its checkpoints need.
    img_size: None, or the side in pixels that an official checkpoint was built for: there, a stage with a grid smaller
    than the window has windows of that grid, and a smaller table of position biases. It limits no input.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        mlp_ratio: float = 4.0,
        patch: int = 4,
        drop_path: float = 0.2,
        conv_ends: bool = False,
        repeat_grey: bool = False,
        img_size: int | None = None,
    ) -> None:
        super().__init__()
        if len(heads) != len(depths):
            raise ValueError(f"heads must have one value for each of the {len(depths)} depths, got {len(heads)}")
        dims = [width * 2**stage for stage in range(len(depths))]
        if any(dim % n for dim, n in zip(dims, heads, strict=True)):
            raise ValueError(f"the stages have {dims} channels, which heads={tuple(heads)} do not divide")

        def make_block(stage: int, index: int, rate: float) -> SwinBlock:
            side = window if img_size is None else min(window, img_size // patch // 2**stage)
            shift = side // 2 if index % 2 else 0  # every other block looks across the borders of the windows
            return SwinBlock(dims[stage], heads[stage], side, shift, mlp_ratio, rate)

        self.repeat_grey = repeat_grey
        stem = stem_channels(in_channels, repeat_grey)
        self.swin_unet = PatchUNet(make_block, stem, classes, width, depths, patch, drop_path, conv_ends)
        self.apply(init_transformer)

    def forward(self, image: Tensor) -> Tensor:
        return any_size(self.swin_unet, image, self.repeat_grey)
