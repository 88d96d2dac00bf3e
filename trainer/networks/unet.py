"""UNet as in WSL4MIS, Mamba-UNet and Weak-Mamba-UNet.

References: Ronneberger et al., "U-Net", MICCAI 2015; Luo et al., WSL4MIS. The official code has settings for the
upsampling and the activation and passes neither on: they are always bilinear and LeakyReLU, and no settings here.

Glossary: B batch, C channels, K classes, H, W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.networks.blocks import Dropout, pad_to_multiple


class ConvBlock(nn.Module):
    """Twice convolution, BatchNorm, LeakyReLU, with dropout in between: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(),
            Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_conv(x)


class Down(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvBlock(in_channels, out_channels, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Up(nn.Module):
    """(B, 2C, H / 2, W / 2) and the skip (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(in_channels, out_channels, 1)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = ConvBlock(2 * out_channels, out_channels, dropout=0.0)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(self.conv1x1(x))], dim=1))


class Encoder(nn.Module):
    """`in_conv`, `down1`, `down2`, ...: the image -> features, finest first."""

    def __init__(self, in_channels: int, widths: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        self.in_conv = ConvBlock(in_channels, widths[0], dropout[0])
        for level in range(1, len(widths)):
            self.add_module(f"down{level}", Down(widths[level - 1], widths[level], dropout[level]))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.children():
            x = layer(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """`up1` (the deepest), `up2`, ..., `out_conv`: features, finest first -> logits."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        coarse_to_fine = list(reversed(widths))
        for level in range(1, len(widths)):
            self.add_module(f"up{level}", Up(coarse_to_fine[level - 1], coarse_to_fine[level]))
        self.out_conv = nn.Conv2d(widths[0], classes, 3, padding=1)

    def forward(self, features: list[Tensor]) -> Tensor:
        *ups, out_conv = self.children()
        x, *skips = reversed(features)
        for up, skip in zip(ups, skips, strict=True):
            x = up(x, skip)
        return out_conv(x)


class UNet(nn.Module):
    """(B, in_channels, H, W) -> logits (B, classes, H, W), any H and W.

    widths: channels of each level, finest first; dropout: of each encoder level.
    To train on a batch of one image, it must leave the deepest level more than one pixel: BatchNorm needs two values.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
    ) -> None:
        super().__init__()
        if len(dropout) != len(widths):
            raise ValueError(f"dropout must have one value for each of the {len(widths)} widths, got {len(dropout)}")
        self.encoder = Encoder(in_channels, widths, dropout)
        self.decoder = Decoder(widths, classes)
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, image: Tensor) -> Tensor:
        H, W = image.shape[-2:]
        return self.decoder(self.encoder(pad_to_multiple(image, self.multiple)))[..., :H, :W]


class ChannelDropout(Dropout):
    """Whole channels at a time."""

    def mask_shape(self, x: Tensor) -> torch.Size:
        return torch.Size([*x.shape[:2], *[1] * (x.dim() - 2)])


class TwoDecoderUNet(nn.Module):
    """UNet whose second decoder sees the features with half of their channels gone: UNet_CCT of WSL4MIS.

    (B, in_channels, H, W) -> logits (B, classes, H, W) of the main decoder; while training, a list of both decoders'.
    """

    decoders = 2

    def __init__(
        self,
        in_channels: int,
        classes: int,
        widths: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
        feature_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if len(dropout) != len(widths):
            raise ValueError(f"dropout must have one value for each of the {len(widths)} widths, got {len(dropout)}")
        self.encoder = Encoder(in_channels, widths, dropout)
        self.main_decoder = Decoder(widths, classes)
        self.aux_decoder1 = Decoder(widths, classes)
        self.feature_dropout = ChannelDropout(feature_dropout)
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        H, W = image.shape[-2:]
        features = self.encoder(pad_to_multiple(image, self.multiple))
        main = self.main_decoder(features)[..., :H, :W]
        if not self.training:
            return main
        return [main, self.aux_decoder1([self.feature_dropout(x) for x in features])[..., :H, :W]]
