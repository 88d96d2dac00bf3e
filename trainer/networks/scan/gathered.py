"""Directions across one image in plain torch: each walked through a scan of sequences, what they say added up again.

Walking in an order is a gather of rows. Its gradient is a gather too, in the inverse order: nothing is scattered.

Glossary: B batch, L positions, K directions, D channels, N size of the state.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.steps import wide_steps


def gathered_ss2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    positions: Tensor,
    dt_weight: Tensor | None = None,
    scan: Callable[..., Tensor] = blocked_scan,
) -> Tensor:
    """`trainer.networks.scan.ss2d_scan` without its checks of shapes, by way of any scan of sequences."""
    dt = wide_steps(dt, dt_weight)
    batch, length, K, _ = dt.shape
    order = _walk(positions, batch)  # (L B K)
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
    walked = _Gather.apply(x.flatten(0, 1), order, inverse, K)  # (L B K, D)
    dt, B, C = (_Gather.apply(t.flatten(0, 2), order, inverse, 1) for t in (dt, B, C))
    u, delta, B, C = (t.unflatten(0, (length, batch, K)) for t in (walked, dt, B, C))
    y = scan(
        u.flatten(2).permute(1, 2, 0),  # (B, K D, L)
        delta.flatten(2).permute(1, 2, 0),
        A.flatten(0, 1),
        B.permute(1, 2, 3, 0),  # (B, K, N, L)
        C.permute(1, 2, 3, 0),
        D.flatten(),
        None,
        dt_bias.flatten(),
        True,
        False,
    )
    y = y.permute(2, 0, 1).reshape(length * batch * K, -1)
    return _Gather.apply(y, inverse, order, 1).unflatten(0, (batch, length, K)).sum(2)


def _walk(positions: Tensor, batch: int) -> Tensor:
    """(K, L) -> (L B K): the row of a (B, L, K, ...) array at which direction k of a batch item is, step after step."""
    K, length = positions.shape
    items, directions = (torch.arange(n, device=positions.device) for n in (batch, K))
    return ((items[:, None] * length + positions.T[:, None]) * K + directions).flatten()


class _Gather(torch.autograd.Function):
    """rows[order], where each row of `rows` stands for `copies` rows of what `order` speaks of."""

    @staticmethod
    def forward(ctx, rows: Tensor, order: Tensor, inverse: Tensor, copies: int) -> Tensor:
        ctx.inverse, ctx.copies = inverse, copies
        return rows.index_select(0, order if copies == 1 else order // copies)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = gradient.index_select(0, ctx.inverse)
        return gradient if ctx.copies == 1 else gradient.unflatten(0, (-1, ctx.copies)).sum(1), None, None, None
