"""SS2D and the VSS block: the selective scan on images.

Reference: Liu et al., "VMamba: Visual State Space Model", NeurIPS 2024, in the version of January 2024.

Glossary: B batch, H, W tokens of the grid, L = H W, C channels (`d_model`), E = expand C inner channels,
N size of the state (`d_state`), R = ceil(C / 16) rank of the step size, K = 4 directions.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.blocks import DropPath
from trainer.networks.mamba import init_a_log, init_dt_bias, init_skip
from trainer.networks.scan import ss2d_scan

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
        y = self.scan(x.flatten(2).transpose(1, 2), directions(H, W, x.device))  # (B, L, E)
        return self.out_proj(self.out_norm(y.unflatten(1, (H, W))) * F.silu(z))

    def scan(self, x: Tensor, positions: Tensor) -> Tensor:
        """(B, L, E) along (K, L) -> (B, L, E), each direction with its own parameters, their sum at each pixel.

        What is said of a pixel does not depend on when a direction comes there: the projections are those of the
        pixels as they lie, and only the scan itself walks.
        """
        rates = F.linear(x, self.x_proj_weight.flatten(0, 1)).unflatten(2, (K, -1))  # (B, L, K, R + 2 N)
        dt, B, C = rates.split([self.rank, self.d_state, self.d_state], dim=-1)
        return ss2d_scan(
            x,
            dt,  # (B, L, K, R)
            -self.A_logs.float().exp().unflatten(0, (K, -1)),  # (K, E, N)
            B,
            C,
            self.Ds.unflatten(0, (K, -1)),
            self.dt_projs_bias,
            positions,
            self.dt_projs_weight,
        )


def directions(H: int, W: int, device: torch.device) -> Tensor:
    """(K, L): which pixel comes when, along the rows, along the columns, and both backwards."""
    rows = torch.arange(H * W, device=device)
    columns = rows.view(H, W).T.flatten()
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


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


def vss_blocks(dim: int, d_state: int, expand: int, drop_path: Sequence[float]) -> list[VSSBlock]:
    """The blocks of a stage, one for each rate of `drop_path`."""
    return [VSSBlock(dim, d_state, expand, rate) for rate in drop_path]
