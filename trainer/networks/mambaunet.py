"""MambaUNet: SwinUNet's U with visual state-space blocks.

Reference: Wang et al., "Mamba-UNet: UNet-Like Pure Visual Mamba for Medical Image Segmentation", 2024, and
"Weak-Mamba-UNet", 2024. A decoder stage is as deep as the encoder stage at its resolution.

Glossary: B batch, K classes, H, W pixels, C channels, N size of the state (`d_state`).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from trainer.networks.blocks import PatchUNet, any_size, init_transformer, stem_channels
from trainer.networks.vss import VSSBlock


class MambaUNet(nn.Module):
    """(B, in_channels, H, W) -> logits (B, classes, H, W), any H and W.

    width: channels of the first stage, doubled at each next one; depths: blocks of each stage;
    d_state: size of the state; expand: inner channels of a block per channel;
    patch: pixels along a token; drop_path: rate of the deepest encoder block.
    conv_ends: convolutions in the place of the patches at both ends, to learn sooner from scratch (`PatchUNet`).
    repeat_grey: an image of one channel is repeated to three, as the official code does and its checkpoints need.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        d_state: int = 16,
        expand: int = 2,
        patch: int = 4,
        drop_path: float = 0.2,
        conv_ends: bool = False,
        repeat_grey: bool = False,
    ) -> None:
        super().__init__()

        def make_block(stage: int, index: int, rate: float) -> VSSBlock:
            return VSSBlock(width * 2**stage, d_state, expand, rate)

        self.repeat_grey = repeat_grey
        stem = stem_channels(in_channels, repeat_grey)
        self.mamba_unet = PatchUNet(make_block, stem, classes, width, depths, patch, drop_path, conv_ends)
        self.apply(init_transformer)

    def forward(self, image: Tensor) -> Tensor:
        return any_size(self.mamba_unet, image, self.repeat_grey)
