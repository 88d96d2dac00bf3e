"""The Swin Transformer block on a grid of any height and width.

Reference: Liu et al., "Swin Transformer", ICCV 2021.

Glossary: B batch, H, W tokens of the grid, C channels, h, w tokens of a window, n = h w, nW windows of a grid.

The official block is built for one grid, which must be a multiple of the window. Here the grid may have any size: it
is padded to whole windows and the padding masked; along an axis shorter than the window, the window shrinks to the axis
and nothing is shifted. Where the official block is defined, the result is the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.blocks import DropPath

CACHED = ("attn_mask", "attn.relative_position_index")  # buffers of official checkpoints; recomputed here


class WindowAttention(nn.Module):
    """Attention among the tokens of a window with a learned bias for each relative position."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, size: tuple[int, int], mask: Tensor | None) -> Tensor:
        """(B, nW, n, C) with windows of `size` = (h, w), mask (nW, n, n) to be added -> (B, nW, n, C)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, nW, n, 3, heads, C / heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)  # (B, nW, heads, n, C / heads) each
        bias = self.position_bias(size)[None]  # (1, heads, n, n)
        if mask is not None:
            bias = bias + mask[:, None]  # (nW, heads, n, n)
        return self.proj(attend(q, k, v, bias).transpose(2, 3).flatten(3))

    def position_bias(self, size: tuple[int, int]) -> Tensor:
        """(heads, n, n): what the table says of each query minus key, for a window of `size`."""
        table = self.relative_position_bias_table
        rows, columns = (torch.arange(length, device=table.device) for length in size)
        dr = rows[:, None] - rows + self.window - 1  # (h, h), from 0
        dc = columns[:, None] - columns + self.window - 1  # (w, w)
        index = dr[:, None, :, None] * (2 * self.window - 1) + dc[:, None]  # (h, w, h, w)
        n = size[0] * size[1]
        return table[index.flatten()].view(n, n, self.heads).permute(2, 0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v of q, k, v (B, nW, heads, n, d) and bias (nW or 1, heads, n, n), as q is."""
    if q.device.type == "cpu" and bias.requires_grad:
        # PyTorch's fused attention gives a bias no gradient on a CPU; what it does instead made forward and backward
        # 1.2 to 1.6 times as long as this (7 x 7 windows, 224 pixels). Without gradients it takes 0.6 of the time.
        attention = (q * q.shape[-1] ** -0.5) @ k.mT + bias  # (B, nW, heads, n, n)
        return attention.softmax(dim=-1).to(v.dtype) @ v
    bias = bias.to(q.dtype)
    if len(bias) > 1:
        bias = bias.expand(q.shape[0], *bias.shape).flatten(0, 1)  # (B nW, heads, n, n); len(q) fixes B where traced
    x = F.scaled_dot_product_attention(*(t.flatten(0, 1) for t in (q, k, v)), attn_mask=bias)
    return x.unflatten(0, q.shape[:2])


class Mlp(nn.Module):
    """Linear, GELU, Linear along the last axis."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """(B, H, W, C) -> (B, H, W, C): attention inside windows, shifted by `shift` tokens, then an MLP, both residual."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.register_load_state_dict_pre_hook(_drop_cached)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x: Tensor) -> Tensor:
        grid = H, W = x.shape[1:3]
        size = h, w = min(self.window, H), min(self.window, W)
        shift = tuple(self.shift if length > self.window else 0 for length in grid)
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % h)).roll((-shift[0], -shift[1]), (1, 2))
        padded = x.shape[1:3]
        mask = region_mask(grid, padded, size, shift, x.device)
        x = join_windows(self.attn(split_windows(x, size), size, mask), padded, size)
        return x.roll(shift, (1, 2))[:, :H, :W]


def split_windows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> (B, nW, n, C)."""
    h, w = size
    return x.unflatten(2, (-1, w)).unflatten(1, (-1, h)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(x: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(B, nW, n, C) -> (B, H, W, C)."""
    (H, W), (h, w) = grid, size
    return x.unflatten(2, (h, w)).unflatten(1, (H // h, W // w)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def region_mask(
    grid: tuple[int, int], padded: tuple[int, int], size: tuple[int, int], shift: tuple[int, int], device: torch.device
) -> Tensor | None:
    """(nW, n, n): -100 between tokens that only the cyclic shift or the padding brought together, 0 elsewhere.

    -100 rather than -inf as in the official code; it also keeps a row of nothing but padding finite.
    """
    if grid == padded and shift == (0, 0):
        return None
    rows, columns = (_regions(*axis, device) for axis in zip(grid, padded, size, shift, strict=True))
    regions = rows[:, None] * 4 + columns  # (H, W)
    of = split_windows(regions[None, :, :, None], size)[0, :, :, 0]  # (nW, n)
    return (of[:, :, None] != of[:, None, :]) * -100.0


def _regions(length: int, padded: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(padded,) numbers of what belongs together along one shifted axis: 0, 1, 2 what came round, 3 padding."""
    position = torch.arange(padded, device=device)
    region = (position >= padded - window).long() + (position >= padded - shift).long()
    return region.masked_fill((position + shift) % padded >= length, 3)


def _drop_cached(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Strict loading accepts state dicts with the official code's cached constants and without them."""
    for name in CACHED:
        state_dict.pop(prefix + name, None)
