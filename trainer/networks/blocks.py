"""What several papers share: padding to any size, DropPath, patches in and out, and the U of token stages.

Tokens are channel-last throughout, (B, H, W, C), H and W counted in patches. Attributes have the names of the official
code (Swin-Unet, Mamba-UNet), so that its checkpoints load.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W') with H', W' the next multiples, padded below and to the right.

    Mirrored, so that texture goes on; where the image is too small for that, its last row or column is repeated.
    """
    H, W = x.shape[-2:]
    below, right = -H % multiple, -W % multiple
    x = _pad_last_axis(x, right)
    return _pad_last_axis(x.transpose(-1, -2), below).transpose(-1, -2) if below else x


def _pad_last_axis(x: Tensor, amount: int) -> Tensor:
    if amount == 0:
        return x
    return F.pad(x, (0, amount, 0, 0), mode="reflect" if amount < x.shape[-1] else "replicate")


def init_transformer(module: nn.Module) -> None:
    """For `Module.apply`: Linear truncated normal of std 0.02 bias 0; all else keeps PyTorch's init."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, a whole sample skips the branch with probability `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)  # rescaled: the expectation stays


class PatchEmbed(nn.Module):
    """(B, C_in, H, W) -> (B, H / patch, W / patch, C): one token a patch."""

    def __init__(self, in_channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


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
        p = self.scale
        x = self.expand(x).unflatten(-1, (p, p, -1))  # (B, H, W, p, p, C)
        x = x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)  # (B, pH, pW, C)
        return self.norm(x)


class Stage(nn.Module):
    """Blocks at one resolution, and then a change of resolution if there is one (`downsample` or `upsample`)."""

    def __init__(self, blocks: Sequence[nn.Module], **resample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        for name, module in resample.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        for name in ("downsample", "upsample"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x


class PatchUNet(nn.Module):
    """The U that Swin-Unet drew and Mamba-UNet kept: patches in, token stages down and up with skips, pixels out.

    `make_block(stage, index, drop_path)` gives the block `index` of the encoder stage `stage`, of `width * 2**stage`
    channels; a decoder stage has the depth and the drop paths of the encoder stage at its resolution.

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
    ) -> None:
        super().__init__()
        dims = [width * 2**stage for stage in range(len(depths))]
        deepest = len(depths) - 1
        rates = torch.linspace(0, drop_path, sum(depths)).split(list(depths))  # rising linearly along the encoder

        def blocks(stage: int) -> list[nn.Module]:
            return [make_block(stage, index, rate) for index, rate in enumerate(rates[stage].tolist())]

        def encoder(stage: int) -> Stage:
            return Stage(blocks(stage), **({"downsample": PatchMerging2D(dims[stage])} if stage < deepest else {}))

        def decoder(stage: int) -> Stage:
            expand = {"upsample": PatchExpand(dims[stage], dims[stage] // 2, scale=2)} if stage > 0 else {}
            return Stage(blocks(stage), **expand)

        upwards = range(deepest - 1, -1, -1)
        self.multiple = patch * 2**deepest
        self.patch_embed = PatchEmbed(in_channels, width, patch)
        self.layers = nn.ModuleList(encoder(stage) for stage in range(len(depths)))
        self.layers_up = nn.ModuleList([PatchExpand(dims[-1], dims[-1] // 2, scale=2), *map(decoder, upwards)])
        self.concat_back_dim = nn.ModuleList([nn.Identity(), *(nn.Linear(2 * dims[s], dims[s]) for s in upwards)])
        self.norm = nn.LayerNorm(dims[-1])
        self.norm_up = nn.LayerNorm(width)
        self.up = PatchExpand(width, width, scale=patch)
        self.output = nn.Conv2d(width, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)  # (B, H / patch, W / patch, C)
        inputs = []
        for layer in self.layers:
            inputs.append(x)
            x = layer(x)
        x = self.layers_up[0](self.norm(x))
        for layer, merge, skip in zip(self.layers_up[1:], self.concat_back_dim[1:], reversed(inputs[:-1]), strict=True):
            x = layer(merge(torch.cat([x, skip], dim=-1)))
        return self.output(self.up(self.norm_up(x)).permute(0, 3, 1, 2))  # (B, K, H, W)


def stem_channels(in_channels: int, repeat_grey: bool) -> int:
    """Input channels of the first convolution: three for a grey image that `any_size` will repeat."""
    return 3 if repeat_grey and in_channels == 1 else in_channels


def any_size(network: PatchUNet, image: Tensor, repeat_grey: bool) -> Tensor:
    """Logits (B, K, H, W) of an image (B, C, H, W) of any height and width; repeat_grey makes one channel three."""
    H, W = image.shape[-2:]
    if repeat_grey and image.shape[1] == 1:
        image = image.expand(-1, 3, -1, -1)
    return network(pad_to_multiple(image, network.multiple))[..., :H, :W]
