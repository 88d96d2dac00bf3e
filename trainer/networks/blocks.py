"""What several papers share: padding to any size, dropout, patches in and out, and the U of token stages.

Tokens are channel-last throughout, (B, H, W, C), H and W counted in patches. Attributes have the names of the official
code (Swin-Unet, Mamba-UNet), so that its checkpoints load.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, *space) -> (B, C, *space'), each axis of space as long as the next multiple; what is added comes last.

    Mirrored, so that texture goes on; where the image is too small for that, its last row or column is repeated.
    """
    for axis in range(x.dim() - 1, 1, -1):
        amount = -x.shape[axis] % multiple
        if amount:
            x = _pad_last_axis(x.transpose(axis, -1), amount).transpose(axis, -1)
    return x


def _pad_last_axis(x: Tensor, amount: int) -> Tensor:
    others = (0, 0) * (x.dim() - 3)  # the axes of space before the last
    return F.pad(x, (0, amount, *others), mode="reflect" if amount < x.shape[-1] else "replicate")


def init_transformer(module: nn.Module) -> None:
    """For `Module.apply`: Linear truncated normal of std 0.02 bias 0; all else keeps PyTorch's init."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_he(module: nn.Module) -> None:
    """For `Module.apply`: Conv2d normal after He et al. 2015 for LeakyReLU(0.01), bias 0; all else keeps its init."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Conv3d(nn.Conv3d):
    """PyTorch's, made safe: in bfloat16 on a CPU, two slices or one pixel a slice are convolved in float32.

    There oneDNN's weight gradient reads memory that nobody wrote (torch 2.13, AVX512-BF16, found by trying).
    """

    def forward(self, x: Tensor) -> Tensor:
        D, H, W = x.shape[-3:]
        if x.device.type == "cpu" and (D == 2 or H * W == 1):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.to(self.weight.dtype))
        return super().forward(x)


class Dropout(nn.Module):
    """In training, each element is zero with probability `rate`; the others grow, so that the expectation stays.

    Unlike PyTorch's it may have a random generator of its own: networks that train side by side in threads then draw
    the same numbers in every run, and the host program's generator is left alone. See `seed_dropout`.
    """

    generator: torch.Generator | None = None

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(self.mask_shape(x)).bernoulli_(1 - self.rate, generator=self.generator)
        return x * kept / (1 - self.rate)

    def mask_shape(self, x: Tensor) -> torch.Size:
        return x.shape


class DropPath(Dropout):
    """Stochastic depth (Huang et al. 2016): in training, a whole sample skips the branch with probability `rate`."""

    def mask_shape(self, x: Tensor) -> torch.Size:
        return torch.Size([len(x), *[1] * (x.dim() - 1)])


def seed_dropout(network: nn.Module, seed: int) -> None:
    """Give the Dropout and DropPath of a network one generator, which starts at `seed`."""
    generator = torch.Generator(next(network.parameters()).device).manual_seed(seed)
    for module in network.modules():
        if isinstance(module, Dropout):
            module.generator = generator


def drop_path_rates(depths: Sequence[int], first: float, last: float) -> list[list[float]]:
    """The rates of the blocks of each stage, changing linearly from the very first block to the very last."""
    return [stage.tolist() for stage in torch.linspace(first, last, sum(depths)).split(list(depths))]


class PatchEmbed(nn.Module):
    """(B, C_in, H, W) -> (B, H / patch, W / patch, C): one token a patch."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class ConvStem(nn.Module):
    """(B, C_in, H, W) -> tokens (B, H / 4, W / 4, C), and features (B, C / 2, H / 2, W / 2) for the way back.

    Convolutions instead of patches: a transformer that sees them learns sooner (Xiao et al., arXiv 2106.14881).
    """

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.to_half = conv_norm(in_channels, width // 2, stride=2)
        self.to_quarter = conv_norm(width // 2, width, stride=2)
        self.proj = nn.Conv2d(width, width, 1)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.to_half(x)
        return self.norm(self.proj(self.to_quarter(half)).permute(0, 2, 3, 1)), half


class ConvHead(nn.Module):
    """Tokens (B, H / 4, W / 4, C) and the stem's features (B, C / 2, H / 2, W / 2) -> logits (B, classes, H, W)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.merge = conv_norm(width + width // 2, width // 2)
        self.output = nn.Conv2d(width // 2, classes, 3, padding=1)

    def forward(self, x: Tensor, half: Tensor) -> Tensor:
        x = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear")
        x = self.output(self.merge(torch.cat([x, half], dim=1)))
        return F.interpolate(x, scale_factor=2, mode="bilinear")


def token_stem(in_channels: int, width: int, patch: int, conv_ends: bool) -> nn.Module:
    """What makes tokens of pixels: a ConvStem where the network has convolutions at its ends, else a PatchEmbed."""
    if conv_ends and patch != 4:
        raise ValueError(f"conv_ends replace patches of 4 pixels, got patch={patch}")
    return ConvStem(in_channels, width) if conv_ends else PatchEmbed(in_channels, width, patch)


def conv_norm(in_channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.01)
    )


class PatchMerging2D(nn.Module):
    """(B, H, W, C) -> (B, H // 2, W // 2, 2C): four neighbours become one token; odd sizes lose their last line."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        x = x[:, :H, :W].unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, row, W / 2, column, C)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # (B, H / 2, W / 2, 4C), the row faster than the column
        return self.reduction(self.norm(x))


class PatchExpand(nn.Module):
    """(B, H, W, C) -> (B, scale H, scale W, out): a token becomes scale x scale tokens."""

    def __init__(self, dim: int, out: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.lay_out(self.norm(self.grow(x)))

    def grow(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, scale, scale, out), still without norm."""
        return self.expand(x).unflatten(-1, (self.scale, self.scale, -1))

    def to_pixels(self, x: Tensor, head: nn.Conv2d) -> Tensor:
        """(B, H, W, C) -> (B, classes, scale H, scale W): `head`, of 1 x 1 pixels, on the tokens of `forward`.

        It comes before they are laid out, as all that is said of one token may: there is less to move.
        """
        logits = F.linear(self.norm(self.grow(x)), head.weight.flatten(1), head.bias)
        return self.lay_out(logits).permute(0, 3, 1, 2)

    def lay_out(self, x: Tensor) -> Tensor:
        """(B, H, W, scale, scale, C) -> (B, scale H, scale W, C)."""
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class Stage(nn.Module):
    """Blocks at one resolution and, if there is one, a change of resolution: `downsample` or `upsample`.

    It comes after the blocks, or before them where upsample_first.
    """

    def __init__(self, blocks: Sequence[nn.Module], *, upsample_first: bool = False, **resample: nn.Module) -> None:
        super().__init__()
        self.upsample_first = upsample_first
        self.blocks = nn.ModuleList(blocks)
        for name, module in resample.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsample_first:
            x = self.upsample(x)
        for block in self.blocks:
            x = block(x)
        return x if self.upsample_first else self.resample(x)

    def resample(self, x: Tensor) -> Tensor:
        for name in ("downsample", "upsample"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x


def encoder_stages(blocks: Iterable[Sequence[nn.Module]], dims: Sequence[int]) -> nn.ModuleList:
    """A stage of these blocks for each of `dims`, their channels; all but the last end in a PatchMerging2D."""
    return nn.ModuleList(
        Stage(made) if dim == dims[-1] else Stage(made, downsample=PatchMerging2D(dim))
        for made, dim in zip(blocks, dims, strict=True)
    )


class PatchUNet(nn.Module):
    """The U that Swin-Unet drew and Mamba-UNet kept: patches in, token stages down and up with skips, pixels out.

    `make_block(stage, index, drop_path)` gives the block `index` of the encoder stage `stage`, of `width * 2**stage`
    channels; a decoder stage has the depth and the drop paths of the encoder stage at its resolution. `conv_ends` puts
    convolutions in the place of the patches at both ends (patches of 4 pixels only): from scratch and in a few hundred
    iterations that is the difference between a rough blob and an outline.

    forward: (B, in_channels, H, W) -> logits (B, classes, H, W); H and W multiples of `self.multiple`.
    """

    def __init__(
        self,
        make_block: Callable[[int, int, float], nn.Module],
        in_channels: int,
        classes: int,
        width: int,
        depths: Sequence[int],
        patch: int,
        drop_path: float,
        conv_ends: bool,
    ) -> None:
        super().__init__()
        dims = [width * 2**stage for stage in range(len(depths))]
        deepest = len(depths) - 1
        rates = drop_path_rates(depths, 0.0, drop_path)

        def blocks(stage: int) -> list[nn.Module]:
            return [make_block(stage, index, rate) for index, rate in enumerate(rates[stage])]

        def decoder(stage: int) -> Stage:
            expand = {"upsample": PatchExpand(dims[stage], dims[stage] // 2, scale=2)} if stage > 0 else {}
            return Stage(blocks(stage), **expand)

        upwards = range(deepest - 1, -1, -1)
        self.multiple = patch * 2**deepest
        self.patch_embed = token_stem(in_channels, width, patch, conv_ends)
        self.layers = encoder_stages(map(blocks, range(len(depths))), dims)
        self.layers_up = nn.ModuleList([PatchExpand(dims[-1], dims[-1] // 2, scale=2), *map(decoder, upwards)])
        self.concat_back_dim = nn.ModuleList([nn.Identity(), *(nn.Linear(2 * dims[s], dims[s]) for s in upwards)])
        self.norm = nn.LayerNorm(dims[-1])
        self.norm_up = nn.LayerNorm(width)
        if conv_ends:
            self.head = ConvHead(width, classes)
        else:
            self.up = PatchExpand(width, width, scale=patch)
            self.output = nn.Conv2d(width, classes, 1, bias=False)
        self.conv_ends = conv_ends

    def forward(self, x: Tensor) -> Tensor:
        if self.conv_ends:
            tokens, half = self.patch_embed(x)
            return self.head(self.norm_up(self.token_stages(tokens)), half)
        x = self.norm_up(self.token_stages(self.patch_embed(x)))
        return self.up.to_pixels(x, self.output)  # (B, K, H, W)

    def token_stages(self, x: Tensor) -> Tensor:
        """(B, H / patch, W / patch, C) -> the same shape, down the U and up again."""
        inputs = []
        for layer in self.layers:
            inputs.append(x)
            x = layer(x)
        x = self.layers_up[0](self.norm(x))
        for layer, merge, skip in zip(self.layers_up[1:], self.concat_back_dim[1:], reversed(inputs[:-1]), strict=True):
            x = layer(merge(torch.cat([x, skip], dim=-1)))
        return x


def stem_channels(in_channels: int, repeat_grey: bool) -> int:
    """Input channels of the first convolution: three for a grey image that `any_size` will repeat."""
    return 3 if repeat_grey and in_channels == 1 else in_channels


def any_size(network: nn.Module, image: Tensor, repeat_grey: bool) -> Tensor:
    """Logits (B, K, H, W) of an image (B, C, H, W) of any height and width; repeat_grey makes one channel three.

    network: takes heights and widths that are multiples of its `multiple`.
    """
    if repeat_grey and image.shape[1] == 1:
        image = image.expand(-1, 3, -1, -1)
    return any_size_deep(lambda padded: [network(padded)], image, network.multiple)[0]


def any_size_deep(heads: Callable[[Tensor], list[Tensor]], image: Tensor, multiple: int) -> list[Tensor]:
    """The outputs of `heads`, at several resolutions, of an image (B, C, *space) of any size.

    heads: takes sizes that are multiples of `multiple`. An output whose pixels are s of the image's wide is cut to
    (B, K, ceil(H / s), ceil(W / s)), and so in 3-D.
    """
    padded = pad_to_multiple(image, multiple)
    outputs = heads(padded)
    scales = [padded.shape[-1] // x.shape[-1] for x in outputs]
    return [_cut(x, [math.ceil(n / s) for n in image.shape[2:]]) for x, s in zip(outputs, scales, strict=True)]


def _cut(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first `size` of x (B, C, *space)."""
    return x[(..., *(slice(n) for n in size))]
