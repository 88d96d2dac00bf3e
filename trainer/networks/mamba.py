"""The Mamba layer: a gated sequence model around the selective scan.

Reference: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3.4.

Glossary: B batch, L length, C channels (`d_model`), E = expand C inner channels, N size of the state (`d_state`),
R = ceil(C / 16) rank of the step size (`dt_rank`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.causal import causal_conv
from trainer.networks.scan import selective_scan


def init_a_log(channels: int, d_state: int) -> nn.Parameter:
    """(channels, N), ln of 1..N in each row: the states forget at N different rates (S4D-real)."""
    return _no_weight_decay(torch.arange(1, d_state + 1).float().log().repeat(channels, 1))


def init_skip(channels: int) -> nn.Parameter:
    """D (channels,), one: the scan passes its input on."""
    return _no_weight_decay(torch.ones(channels))


def init_dt_bias(*shape: int, low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> Tensor:
    """Biases whose softplus, the first step sizes, is log-uniform between `low` and `high`."""
    dt = torch.empty(shape).uniform_(math.log(low), math.log(high)).exp_().clamp_(min=floor)
    return dt + torch.log(-torch.expm1(-dt))  # inverse of softplus


def _no_weight_decay(values: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(values)
    parameter._no_weight_decay = True  # for optimisers that look; none of the official trainers does
    return parameter


class Mamba(nn.Module):
    """(B, L, C) -> (B, L, C), causal; neither norm nor residual inside."""

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.d_state, self.rank = d_state, rank
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = init_a_log(inner, d_state)
        self.D = init_skip(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(init_dt_bias(inner))

    def forward(self, x: Tensor) -> Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (B, L, E) each
        x = causal_conv(x.transpose(1, 2), self.conv1d.weight, self.conv1d.bias).transpose(1, 2)
        dt, B, C = self.x_proj(x).split([self.rank, self.d_state, self.d_state], dim=-1)
        y = selective_scan(
            x.transpose(1, 2),  # (B, E, L)
            F.linear(dt, self.dt_proj.weight).transpose(1, 2),  # its bias goes in below, in float32
            -self.A_log.float().exp(),
            B.transpose(1, 2),  # (B, N, L)
            C.transpose(1, 2),
            self.D,
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
        )
        return self.out_proj(y.transpose(1, 2))
