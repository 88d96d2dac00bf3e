"""SS2D and the VSS block: the selective scan on images.

Reference: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024, in the version of January 2024.

Glossary: B batch, H, W tokens of the grid, L = H W, C channels (`d_model`), E = expand C inner channels,
N size of the state (`d_state`), R = ceil(C / 16) rank of the step size, K = 4 directions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.blocks import DropPath
from trainer.networks.mamba import init_a_log, init_dt_bias, init_skip
from trainer.networks.scan import selective_scan

K = 4


class SS2D(nn.Module):
    """(B, H, W, C) -> (B, H, W, C): four scans across the image, along rows and columns, there and back."""

    def __init__(self, d_model: int, d_state: int = 16, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.d_state, self.rank = d_state, rank
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.x_proj_weight = _uniform(K, rank + 2 * d_state, inner)
        self.dt_projs_weight = _uniform(K, inner, rank)
        self.dt_projs_bias = nn.Parameter(init_dt_bias(K, inner))
        self.A_logs = init_a_log(K * inner, d_state)
        self.Ds = init_skip(K * inner)
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[1:3]
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (B, H, W, E) each
        x = F.silu(self.conv2d(x.permute(0, 3, 1, 2)))  # (B, E, H, W)
        y = merge_directions(self.scan(walk_directions(x)), H, W)  # (B, H, W, E)
        return self.out_proj(self.out_norm(y) * F.silu(z))

    def scan(self, x: Tensor) -> Tensor:
        """(L, B, K, E) -> (L, B, K, E), each direction with its own parameters; one call for all."""
        rates = torch.einsum("lbke,kre->lbkr", x, self.x_proj_weight)
        dt, B, C = rates.split([self.rank, self.d_state, self.d_state], dim=-1)
        delta = torch.einsum("lbkr,ker->lbke", dt, self.dt_projs_weight)
        y = selective_scan(
            x.flatten(2).permute(1, 2, 0),  # (B, K E, L)
            delta.flatten(2).permute(1, 2, 0),
            -self.A_logs.float().exp(),  # (K E, N)
            B.permute(1, 2, 3, 0),  # (B, K, N, L)
            C.permute(1, 2, 3, 0),
            self.Ds,
            delta_bias=self.dt_projs_bias.flatten(),
            delta_softplus=True,
        )
        return y.permute(2, 0, 1).unflatten(2, (K, -1))


def walk_directions(x: Tensor) -> Tensor:
    """(B, E, H, W) -> (L, B, K, E): along the rows, along the columns, and both backwards.

    The position comes first because a scan walks along it: all that belongs to one step lies together in memory.
    """
    rows = x.permute(2, 3, 0, 1).flatten(0, 1)  # (L, B, E)
    columns = x.permute(3, 2, 0, 1).flatten(0, 1)
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)], dim=2)


def merge_directions(y: Tensor, H: int, W: int) -> Tensor:
    """(L, B, K, E) -> (B, H, W, E): the sum of the four at each pixel."""
    rows, columns, rows_back, columns_back = y.unbind(2)
    rows = (rows + rows_back.flip(0)).unflatten(0, (H, W))
    columns = (columns + columns_back.flip(0)).unflatten(0, (W, H))
    return (rows + columns.transpose(0, 1)).permute(2, 0, 1, 3)


def _uniform(*shape: int) -> nn.Parameter:
    """A stack of Linear weights with PyTorch's own bound, fan_in ** -0.5."""
    bound = shape[-1] ** -0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class VSSBlock(nn.Module):
    """(B, H, W, C) -> (B, H, W, C): norm and SS2D, residual; there is no MLP."""

    def __init__(self, dim: int, d_state: int, expand: int, drop_path: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = SS2D(dim, d_state, expand)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.self_attention(self.ln_1(x)))
