"""nnMamba: residual 3-D convolutions with a Mamba beside them, to segment, to find landmarks and to classify volumes.

Reference: Gong et al., "nnMamba: 3D Biomedical Image Segmentation, Classification and Landmark Detection with State
Space Model", arXiv 2402.03526. Attributes have the names of the official code, so that its checkpoints load.

Glossary: B batch, C channels, c = `width` channels at half resolution, K classes, D, H, W voxels, L = D H W.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.blocks import Conv3d, Dropout, any_size_deep
from trainer.networks.mamba import Mamba

COARSEST = 16  # the deepest stage is at 1/16


class DoubleConv(nn.Module):
    """Twice convolution, BatchNorm, ReLU: (B, C_in, D, H, W) -> (B, C, D / stride, H / stride, W / stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            Conv3d(in_channels, channels, 3, stride, padding=1),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
            Conv3d(channels, channels, 3, padding=1),
            nn.BatchNorm3d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class MambaLayer(nn.Module):
    """The whole volume as one sequence of voxels, row by row: (B, C, D, H, W) -> the same shape.

    four_way: the mean of four readings, along the voxels and along the channels, each forwards and backwards (the
    paper's "channel-spatial siamese"), with the same weights; otherwise a single reading.
    residual: adds what the sequence model was given and convolves the sum.
    """

    def __init__(self, channels: int, d_state: int = 16, four_way: bool = False, residual: bool = True) -> None:
        super().__init__()
        self.four_way, self.residual = four_way, residual
        self.nin = Conv3d(channels, channels, 1, bias=False)
        if residual:
            self.nin2 = Conv3d(channels, channels, 1, bias=False)
            self.norm2 = nn.BatchNorm3d(channels)
        self.norm = nn.BatchNorm3d(channels)
        self.mamba = Mamba(channels, d_state=d_state)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.nin(x)))
        tokens = x.flatten(2).transpose(1, 2)  # (B, L, C)
        tokens = self.read_four_ways(tokens) if self.four_way else self.mamba(tokens)
        y = tokens.transpose(1, 2).reshape(x.shape)
        return F.relu(self.norm2(self.nin2(y + x))) if self.residual else y

    def read_four_ways(self, tokens: Tensor) -> Tensor:
        ways = ((), (2,), (1,), (1, 2))  # axes to reverse
        read = self.mamba(torch.cat([tokens.flip(axes) for axes in ways]))  # (4B, L, C), one scan
        return sum(y.flip(axes) for y, axes in zip(read.unflatten(0, (4, -1)), ways, strict=True)) / 4


class ResidualBlock(nn.Module):
    """ReLU(convolutions(x) + x), or with a Mamba layer M beside the convolutions, ReLU(convolutions(x) + M(x) + x)."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, mamba_layer: MambaLayer | None = None) -> None:
        super().__init__()
        self.conv1 = Conv3d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.conv2 = Conv3d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm3d(channels)
        self.downsample = nn.Identity()
        if stride != 1:
            shortcut = Conv3d(in_channels, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm3d(channels))
        self.mamba_layer = mamba_layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.downsample(x)
        return F.relu(y if self.mamba_layer is None else y + self.mamba_layer(x))


def residual_stage(in_channels: int, blocks: int, mamba_layer: MambaLayer | None = None) -> nn.Sequential:
    """(B, C, D, H, W) -> (B, 2C, D / 2, H / 2, W / 2); all blocks but the first share the one Mamba layer."""
    channels = 2 * in_channels
    others = (ResidualBlock(channels, channels, mamba_layer=mamba_layer) for _ in range(blocks - 1))
    return nn.Sequential(ResidualBlock(in_channels, channels, stride=2), *others)


class Gate(nn.Module):
    """Scales each channel of a skip, (B, C, D, H, W), by a number between 0 and 1 that all its voxels vote for."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.layer1 = nn.Linear(channels, hidden)
        self.layer2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.layer2(F.relu(self.layer1(x.mean(dim=(2, 3, 4))))))  # (B, C)
        return x * scale[:, :, None, None, None]


class NnMambaSeg(nn.Module):
    """(B, in_channels, D, H, W) -> logits (B, classes, D, H, W), any D, H and W. For landmarks, a class is a landmark.

    four_way, residual: of the Mamba layers. The paper has both; the official training code has neither.
    deep_supervision: while training, a list of logits, finest first, at 1, 1/2, 1/4 and 1/8 of the size (rounded up).
    official_head: the released networks end in two convolutions of `classes` channels, each with BatchNorm and ReLU: no
        logit is below zero, and channels that a ReLU silenced learn no more. Otherwise, one plain convolution.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 32,
        blocks: int = 3,
        four_way: bool = True,
        residual: bool = True,
        deep_supervision: bool = False,
        official_head: bool = False,
    ) -> None:
        super().__init__()

        def stage(channels: int) -> nn.Sequential:
            return residual_stage(channels, blocks, MambaLayer(2 * channels, four_way=four_way, residual=residual))

        c = width
        self.deep_supervision = deep_supervision
        self.in_conv = DoubleConv(in_channels, c, stride=2)
        self.att1, self.layer1 = Gate(c), stage(c)
        self.att2, self.layer2 = Gate(2 * c), stage(2 * c)
        self.att3, self.layer3 = Gate(4 * c), stage(4 * c)
        self.conv5 = DoubleConv(8 * c + 4 * c, 4 * c)
        self.conv6 = DoubleConv(4 * c + 2 * c, 2 * c)
        self.conv7 = DoubleConv(2 * c + c, c)
        self.conv8 = DoubleConv(c, classes) if official_head else Conv3d(c, classes, 3, padding=1)
        if deep_supervision:
            self.ds1_cls_conv = Conv3d(c, classes, 1)
            self.ds2_cls_conv = Conv3d(2 * c, classes, 1)
            self.ds3_cls_conv = Conv3d(4 * c, classes, 1)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        logits = self.all_scales(image)
        return logits if self.deep_supervision and self.training else logits[0]

    def all_scales(self, image: Tensor) -> list[Tensor]:
        """The logits of every head there is, finest first, in training or not."""
        check_volume(image, self.training)
        return any_size_deep(self.heads, image, COARSEST)

    def heads(self, image: Tensor) -> list[Tensor]:
        features = self.decode(image)
        logits = [self.conv8(doubled(features[0]))]
        if self.deep_supervision:
            heads = (self.ds1_cls_conv, self.ds2_cls_conv, self.ds3_cls_conv)
            logits += [head(x) for head, x in zip(heads, features, strict=True)]
        return logits

    def decode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of the way up, finest first: (B, c, D / 2, ...), (B, 2c, D / 4, ...), (B, 4c, D / 8, ...)."""
        c1 = self.in_conv(image)  # (B, c, D / 2, H / 2, W / 2)
        c2 = self.layer1(c1)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)  # (B, 8c, D / 16, H / 16, W / 16)
        c5 = self.conv5(torch.cat([doubled(c4), self.att3(c3)], dim=1))
        c6 = self.conv6(torch.cat([doubled(c5), self.att2(c2)], dim=1))
        c7 = self.conv7(torch.cat([doubled(c6), self.att1(c1)], dim=1))
        return c7, c6, c5


class MambaSequence(nn.Module):
    """(B, L, C) -> (B, L, C): x + Mamba(ReLU(x)), the paper's "channel-sequential learning"."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mamba = Mamba(channels, d_state=8, d_conv=2, expand=2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mamba(F.relu(x))


class NnMambaEncoder(nn.Module):
    """(B, in_channels, D, H, W) -> logits (B, classes) of the whole volume, any D, H and W.

    The means of the last three stages, of 2c, 4c and 8c channels, go into a perceptron. sequence_head: as in the
    paper, a Mamba first reads them as a sequence of 1 + 2 + 4 steps of 2c channels, from fine to coarse.
    """

    def __init__(
        self, in_channels: int, classes: int, width: int = 32, blocks: int = 3, sequence_head: bool = False
    ) -> None:
        super().__init__()
        self.in_conv = DoubleConv(in_channels, width, stride=2)
        self.mamba_layer_stem = MambaLayer(width, d_state=8)
        self.layer1 = residual_stage(width, blocks)
        self.layer2 = residual_stage(2 * width, blocks)
        self.layer3 = residual_stage(4 * width, blocks)
        self.mamba_seq = MambaSequence(2 * width) if sequence_head else None
        self.mlp = nn.Sequential(nn.Linear(14 * width, width), nn.ReLU(), Dropout(0.5), nn.Linear(width, classes))

    def forward(self, image: Tensor) -> Tensor:
        check_volume(image, self.training)
        x = self.in_conv(image)
        x = x + self.mamba_layer_stem(x)
        means = []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            means.append(x.mean(dim=(2, 3, 4)))
        return self.mlp(torch.cat(means, dim=1) if self.mamba_seq is None else self.read(means))

    def read(self, means: list[Tensor]) -> Tensor:
        """(B, 2c), (B, 4c), (B, 8c) -> (B, 14c), after the Mamba has read them."""
        channels = means[0].shape[1]  # 2c
        steps = torch.cat([mean.unflatten(1, (channels, -1)) for mean in means], dim=2)  # (B, 2c, 1 + 2 + 4)
        return self.mamba_seq(steps.transpose(1, 2)).transpose(1, 2).flatten(1)


def doubled(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, C, 2D, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="trilinear")


def check_volume(image: Tensor, training: bool) -> None:
    """ValueError where nnMamba cannot read the image, or where its batch norms would have nothing to compare."""
    if image.dim() != 5:
        raise ValueError(
            f"nnmamba takes volumes (batch, channels, D, H, W), got {tuple(image.shape)}; use a 2-D network for slices"
        )
    size = tuple(image.shape[2:])
    if training and len(image) * math.prod(-(-n // COARSEST) for n in size) == 1:
        raise ValueError(
            f"nnmamba cannot train on a single volume of at most {COARSEST} voxels along each axis: at 1/{COARSEST} "
            f"of the size its batch norms see one value, got {size}; use larger patches or a batch of two"
        )
