"""The selective scan in Triton, forward and backward, for CUDA: bfloat16, float16 or float32 in, float32 inside.

A program walks along one sequence with the state of a few channels in registers. It goes in chunks of T positions, all
of whose rows it asks for before it computes. Forward keeps the state in front of each chunk, backward computes the
others again. Where the sequences and channels are too few to fill a GPU, each sequence is cut into segments: what a
segment does to a state is h -> exp(A sum(d)) h + end, so that a first pass finds `end`, a short loop joins the
segments, and then all of them run at once. No atomics: whatever several programs contribute to is written in parts
and added up in a fixed order, so that the same input gives the same bits.

Reference: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3.3.

Glossary: B batch, L positions, G groups of channels with an x of their own, K directions, Q = G K sequences of a batch
item, D channels of a group, N size of the state, T positions of a chunk, S segments; token: the row b L + position.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainer.networks.scan.steps import wide_steps

PROGRAMS = 8  # for each multiprocessor, before sequences are cut
MOST_SEGMENTS, LEAST_CHUNKS = 64, 4  # of a sequence, and of a segment
LOG2E = tl.constexpr(1.4426950408889634)  # e^x = 2^(x log2 e), and the hardware's exponential is 2^x


# The two forms


def triton_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    return_last_state: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """`trainer.networks.scan.selective_scan` without its checks of shapes."""
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    G = B.shape[1]
    x, dt = (t.transpose(1, 2).unflatten(2, (G, -1)) for t in (u, delta))  # (B, L, G, D)
    B, C = (t.permute(0, 3, 1, 2) for t in (B, C))  # (B, L, G, N)
    A, D, bias = (t if t is None else t.unflatten(0, (G, -1)) for t in (A, D, delta_bias))
    order = torch.arange(u.shape[2], device=u.device)[None]  # (1, L)
    y, last = _scan(x, dt, A, B, C, D, bias, order, delta_softplus, return_last_state)
    y = y.flatten(2).transpose(1, 2)
    y = y if z is None else (y * F.silu(z.float())).to(u.dtype)
    return (y, last.flatten(1, 2)) if return_last_state else y


def triton_ss2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    positions: Tensor,
    dt_weight: Tensor | None = None,
) -> Tensor:
    """`trainer.networks.scan.ss2d_scan` without its checks of shapes; wrong positions write beyond the arrays."""
    dt = wide_steps(dt, dt_weight)
    y, _ = _scan(x.unsqueeze(2), dt, A, B, C, D, dt_bias, positions, True, False)
    return y.squeeze(2)


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    bias: Tensor | None,
    order: Tensor,
    softplus: bool,
    keep_last: bool,
) -> tuple[Tensor, Tensor | None]:
    """x (B, L, G, D), dt (B, L, Q, D), A (Q, D, N), B and C (B, L, Q, N), D and bias (Q, D), order (K, L)
    -> y (B, L, G, D) of x's dtype and the last state (B, Q, D, N) or None; any strides."""
    A = A.float().contiguous()
    D, bias = (A.new_zeros(A.shape[:2]) if t is None else t.float().contiguous() for t in (D, bias))
    keep_starts = torch.is_grad_enabled() and any(t.requires_grad for t in (x, dt, A, B, C, D, bias))
    dt, B, C = (t if _has_rows(t) else t.contiguous() for t in (dt, B, C))
    return _TritonScan.apply(x.contiguous(), dt, A, B, C, D, bias, order.contiguous(), softplus, keep_last, keep_starts)


def _has_rows(t: Tensor) -> bool:
    """(B, L, Q, D): one stride for batch and position together, and the last axis without gaps."""
    batch, length, _, last = t.shape
    return (last == 1 or t.stride(3) == 1) and (1 in (batch, length) or t.stride(0) == length * t.stride(1))


def _strides(t: Tensor) -> tuple[int, int]:
    """Of a token and of a sequence."""
    return t.stride(0 if t.shape[1] == 1 else 1), t.stride(2)


# Launches


class Tile(NamedTuple):
    """What one program has in hand, and how many warps work on it."""

    T: int
    channels: int
    states: int  # N, rounded up to a power of two
    warps: int


def tile(D: int, N: int) -> Tile:
    """Eight numbers of the state a thread, as backward has T states in registers; and rows of 32 bytes or more."""
    states = triton.next_power_of_2(N)
    channels = max(16, min(64, 256 // states, triton.next_power_of_2(D)))
    return Tile(8, channels, states, max(1, channels * states // 256))


def segments(programs: int, chunks: int, device: torch.device) -> int:
    """Into how many pieces a sequence is to be cut, so that all multiprocessors have work."""
    if device.type != "cuda":
        return 1
    wanted = PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count // programs
    return max(1, min(wanted, chunks // LEAST_CHUNKS, MOST_SEGMENTS))


class _Plan:
    """How a scan of these shapes is cut up, and what its kernels have in common."""

    def __init__(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, order: Tensor, softplus: bool) -> None:
        (batch, L, G, D), K, N = x.shape, len(order), A.shape[-1]
        self.tile = tile(D, N)
        self.blocks = triton.cdiv(D, self.tile.channels)  # of channels
        self.programs, self.chunks = batch * G * K * self.blocks, triton.cdiv(L, self.tile.T)
        self.length = triton.cdiv(self.chunks, segments(self.programs, self.chunks, x.device))  # of a segment
        self.segments = triton.cdiv(self.chunks, self.length)
        self.device, self.states = x.device, (batch, G * K, self.segments, D, N)
        self.sizes = (L, G, K, D, N, self.length)
        self.strides = (*_strides(dt), *_strides(B), *_strides(C))
        self.constants = {
            "SOFTPLUS": softplus,
            "T": self.tile.T,
            "CHANNELS": self.tile.channels,
            "STATES": self.tile.states,
            "num_warps": self.tile.warps,
            "enable_fp_fusion": True,  # one rounding for a multiplication and an addition
        }

    def here(self) -> AbstractContextManager:
        """Kernels run on the device that is current."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def join(self, ends: Tensor, totals: Tensor, A: Tensor, last: Tensor | None, reverse: bool) -> None:
        """Replace what each segment ends with by what it begins with."""
        _, G, K, D, N, _ = self.sizes
        constants = {k: self.constants[k] for k in ("CHANNELS", "STATES", "num_warps", "enable_fp_fusion")}
        _join[(self.programs,)](
            ends, totals, A, last, G * K, D, N, self.segments, REVERSE=reverse, LAST=last is not None, **constants
        )


class _TritonScan(torch.autograd.Function):
    """`_scan`, once all tensors lie as the kernels want them. Nothing here is subject to autocast."""

    @staticmethod
    def forward(ctx, x, dt, A, B, C, D, bias, order, softplus: bool, keep_last: bool, keep_starts: bool):
        plan = _Plan(x, dt, A, B, C, order, softplus)
        batch, L, G, channels = x.shape
        K, N, split = len(order), A.shape[-1], plan.segments > 1
        y = torch.empty_like(x) if K == 1 else x.new_empty(batch, L, G, K, channels, dtype=torch.float32)
        last = A.new_empty(batch, *A.shape) if keep_last else None
        starts = A.new_empty(batch, G * K, plan.chunks, channels, N) if keep_starts else None
        before = A.new_empty(plan.states) if split else None
        totals = A.new_empty(plan.states[:-1]) if split else None
        with plan.here():
            if split:
                grid = (plan.programs, plan.segments)
                _find_ends[grid](
                    x, dt, A, B, bias, order, before, totals, *plan.sizes, *plan.strides[:4], **plan.constants
                )
                plan.join(before, totals, A, None, False)
            _forward[(plan.programs, plan.segments)](
                *(x, dt, A, B, C, D, bias, order, before, y, starts, last),
                *plan.sizes,
                *plan.strides,
                SPLIT=split,
                KEEP=keep_starts,
                LAST=keep_last,
                **plan.constants,
            )
        if keep_starts:
            ctx.save_for_backward(x, dt, A, B, C, D, bias, order, starts, totals)
            ctx.softplus = softplus
        return (y if K == 1 else y.sum(3).to(x.dtype)), last

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, bias, order, starts, totals = ctx.saved_tensors
        plan = _Plan(x, dt, A, B, C, order, ctx.softplus)
        batch, L, G, channels = x.shape
        K, N, split = len(order), A.shape[-1], plan.segments > 1
        dy = dy.contiguous()
        dlast = None if dlast is None else dlast.contiguous()
        dx = torch.empty_like(x) if K == 1 else x.new_empty(batch, L, G, K, channels, dtype=torch.float32)
        ddt = torch.empty_like(dt)
        ddt = ddt if _has_rows(ddt) else torch.empty_like(dt, memory_format=torch.contiguous_format)
        dB, dC = A.new_empty(2, plan.blocks, batch, L, G * K, N)
        dA, (dD, dbias) = A.new_empty(plan.states), A.new_empty(2, *plan.states[:-1])
        after = A.new_empty(plan.states) if split else None
        with plan.here():
            if split:
                grid = (plan.programs, plan.segments)
                _find_ends_back[grid](
                    *(dt, A, C, bias, order, dy, after),
                    *plan.sizes,
                    *plan.strides[:2],
                    *plan.strides[4:],
                    **plan.constants,
                )
                plan.join(after, totals, A, dlast, True)
            _backward[(plan.programs, plan.segments)](
                *(x, dt, A, B, C, D, bias, order, starts, after, dy, dlast, dx, ddt, dA, dB, dC, dD, dbias),
                batch,
                *plan.sizes,
                *plan.strides,
                *_strides(ddt),
                SPLIT=split,
                LAST=dlast is not None,
                **plan.constants,
            )
        dA, dD, dbias = (t.sum((0, 2)) for t in (dA, dD, dbias))
        dB, dC = dB.sum(0).to(B.dtype), dC.sum(0).to(C.dtype)
        return (dx if K == 1 else dx.sum(3).to(x.dtype)), ddt, dA, dB, dC, dD, dbias, *[None] * 4


# Kernels


@triton.jit
def _softplus(v):
    """ln(1 + e^v), exact where it is small too: a network's steps begin near 0.001."""
    e = tl.exp(-tl.abs(v))
    series = e * (1 - e * (1 / 2 - e * (1 / 3 - e * (1 / 4 - e * (1 / 5 - e / 6)))))
    return tl.maximum(v, 0.0) + tl.where(e < 0.1, series, tl.log(1 + e))


@triton.jit
def _slope(step):
    """The derivative of softplus where its value is `step`: 1 - e^-step."""
    series = step * (1 - step * (1 / 2 - step * (1 / 6 - step * (1 / 24 - step / 120))))
    return tl.where(step < 0.1, series, 1 - tl.exp(-step))


@triton.jit
def _row(pointer, offset, index, size):
    return tl.load(pointer + offset + index, mask=index < size, other=0.0).to(tl.float32)


@triton.jit
def _cells(item, d, n, channels, N):
    """Offsets of the (D, N) cells of one item of an (..., D, N) array."""
    return item.to(tl.int64) * channels * N + d[:, None] * N + n[None, :]


@triton.jit
def _place(A, Q, channels, N, CHANNELS: tl.constexpr, STATES: tl.constexpr):
    """What this program has: b, q, a block of channels, the channels d and the states n, which of these there are,
    and which of their cells; and A there."""
    blocks = tl.cdiv(channels, CHANNELS)
    sequence, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    b, q, d, n = sequence // Q, sequence % Q, block * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, STATES)
    inside = d < channels
    both = inside[:, None] & (n < N)[None, :]
    return b, q, block, d, n, inside, both, tl.load(A + _cells(q, d, n, channels, N), mask=both, other=0.0)


@triton.jit
def _visit(order, dt, shift, b, q, d, l, L, K, channels, N, dt_token, dt_sequence, SOFTPLUS: tl.constexpr):
    """Step l of a sequence: the token that it visits, its step size, and how many channels and states to read and
    write there. Behind the end there are none, and a step of 0 leaves the state as it is."""
    token = b.to(tl.int64) * L + tl.load(order + (q % K) * L + l, mask=l < L, other=0)
    D_here, N_here = tl.where(l < L, channels, 0), tl.where(l < L, N, 0)
    step = _row(dt, token * dt_token + q * dt_sequence, d, D_here) + shift
    if SOFTPLUS:
        step = _softplus(step)
    return token, tl.where(l < L, step, 0.0), D_here, N_here


@triton.jit
def _find_ends(
    x, dt, A, B, bias, order, ends, totals,  # (B, L, G, D), (B, L, Q, D), (Q, D, N), ...; ends (B, Q, S, D, N)
    L, G, K, channels, N, length, dt_token, dt_sequence, B_token, B_sequence,
    SOFTPLUS: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """The state each segment ends with if it begins with 0, and the sum of its steps."""
    b, q, _, d, n, inside, both, rates = _place(A, G * K, channels, N, CHANNELS, STATES)
    rate, segment = rates * LOG2E, tl.program_id(1)
    shift = tl.load(bias + q * channels + d, mask=inside, other=0.0)
    h = tl.zeros((CHANNELS, STATES), tl.float32)
    total = tl.zeros((CHANNELS,), tl.float32)
    for chunk in range(segment * length, tl.minimum(segment * length + length, tl.cdiv(L, T))):
        rows = ()
        for t in tl.static_range(T):
            token, step, D_here, N_here = _visit(
                order, dt, shift, b, q, d, chunk * T + t, L, K, channels, N, dt_token, dt_sequence, SOFTPLUS
            )
            row_x = _row(x, (token * G + q // K) * channels, d, D_here)
            row_B = _row(B, token * B_token + q * B_sequence, n, N_here)
            rows += ((row_x, step, row_B),)
        for t in tl.static_range(T):
            row_x, step, row_B = rows[t]
            h = tl.exp2(step[:, None] * rate) * h + (step * row_x)[:, None] * row_B[None, :]
            total += step
    item = (b * G * K + q) * tl.num_programs(1) + segment
    tl.store(ends + _cells(item, d, n, channels, N), h, mask=both)
    tl.store(totals + item.to(tl.int64) * channels + d, total, mask=inside)


@triton.jit
def _find_ends_back(
    dt, A, C, bias, order, dy, ends,
    L, G, K, channels, N, length, dt_token, dt_sequence, C_token, C_sequence,
    SOFTPLUS: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """What each segment asks of the state in front of it if nothing is asked of the one behind it."""
    b, q, _, d, n, inside, both, rates = _place(A, G * K, channels, N, CHANNELS, STATES)
    rate, segment = rates * LOG2E, tl.program_id(1)
    shift = tl.load(bias + q * channels + d, mask=inside, other=0.0)
    asked = tl.zeros((CHANNELS, STATES), tl.float32)
    first = segment * length
    behind = tl.minimum(first + length, tl.cdiv(L, T))
    for i in range(0, behind - first):
        chunk = behind - 1 - i
        rows = ()
        for t in tl.static_range(T):
            token, step, D_here, N_here = _visit(
                order, dt, shift, b, q, d, chunk * T + t, L, K, channels, N, dt_token, dt_sequence, SOFTPLUS
            )
            row_C = _row(C, token * C_token + q * C_sequence, n, N_here)
            row_dy = _row(dy, (token * G + q // K) * channels, d, D_here)
            rows += ((step, row_C, row_dy),)
        for t in tl.static_range(T):
            step, row_C, row_dy = rows[T - 1 - t]
            asked = tl.exp2(step[:, None] * rate) * (asked + row_dy[:, None] * row_C[None, :])
    item = (b * G * K + q) * tl.num_programs(1) + segment
    tl.store(ends + _cells(item, d, n, channels, N), asked, mask=both)


@triton.jit
def _join(
    ends, totals, A, last, Q, channels, N, segments,
    REVERSE: tl.constexpr, LAST: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Walk over the segments, forwards from 0, or backwards from `last` (B, Q, D, N) or 0; in place."""
    b, q, _, d, n, inside, both, rates = _place(A, Q, channels, N, CHANNELS, STATES)
    h = tl.zeros((CHANNELS, STATES), tl.float32)
    if LAST:
        h = tl.load(last + _cells(b * Q + q, d, n, channels, N), mask=both, other=0.0)
    for i in range(0, segments):
        segment = i
        if REVERSE:
            segment = segments - 1 - i
        item = (b * Q + q) * segments + segment
        end = tl.load(ends + _cells(item, d, n, channels, N), mask=both, other=0.0)
        total = tl.load(totals + item.to(tl.int64) * channels + d, mask=inside, other=0.0)
        tl.store(ends + _cells(item, d, n, channels, N), h, mask=both)
        h = tl.exp2(total[:, None] * (rates * LOG2E)) * h + end


@triton.jit
def _forward(
    x, dt, A, B, C, D, bias, order, before, y, starts, last,
    L, G, K, channels, N, length, dt_token, dt_sequence, B_token, B_sequence, C_token, C_sequence,
    SPLIT: tl.constexpr, KEEP: tl.constexpr, LAST: tl.constexpr,
    SOFTPLUS: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """One segment: y (B, L, G, K, D), and where wanted the state in front of each chunk and behind the last."""
    b, q, _, d, n, inside, both, rates = _place(A, G * K, channels, N, CHANNELS, STATES)
    rate, segment = rates * LOG2E, tl.program_id(1)
    shift = tl.load(bias + q * channels + d, mask=inside, other=0.0)
    skip = tl.load(D + q * channels + d, mask=inside, other=0.0)
    sequence, chunks = b * G * K + q, tl.cdiv(L, T)
    h = tl.zeros((CHANNELS, STATES), tl.float32)
    if SPLIT:
        item = sequence * tl.num_programs(1) + segment
        h = tl.load(before + _cells(item, d, n, channels, N), mask=both, other=0.0)
    for chunk in range(segment * length, tl.minimum(segment * length + length, chunks)):
        if KEEP:
            tl.store(starts + _cells(sequence * chunks + chunk, d, n, channels, N), h, mask=both)
        rows = ()
        for t in tl.static_range(T):
            token, step, D_here, N_here = _visit(
                order, dt, shift, b, q, d, chunk * T + t, L, K, channels, N, dt_token, dt_sequence, SOFTPLUS
            )
            row_x = _row(x, (token * G + q // K) * channels, d, D_here)
            row_B = _row(B, token * B_token + q * B_sequence, n, N_here)
            row_C = _row(C, token * C_token + q * C_sequence, n, N_here)
            rows += ((token, row_x, step, row_B, row_C),)
        for t in tl.static_range(T):
            token, row_x, step, row_B, row_C = rows[t]
            h = tl.exp2(step[:, None] * rate) * h + (step * row_x)[:, None] * row_B[None, :]
            row_y = tl.sum(h * row_C[None, :], axis=1) + skip * row_x
            tl.store(y + ((token * G * K + q) * channels) + d, row_y, mask=d < tl.where(chunk * T + t < L, channels, 0))
    if LAST:
        if segment == tl.num_programs(1) - 1:
            tl.store(last + _cells(sequence, d, n, channels, N), h, mask=both)


@triton.jit
def _backward(
    x, dt, A, B, C, D, bias, order, starts, after, dy, dlast, dx, ddt, dA, dB, dC, dD, dbias,
    batch, L, G, K, channels, N, length, dt_token, dt_sequence, B_token, B_sequence, C_token, C_sequence,
    ddt_token, ddt_sequence,
    SPLIT: tl.constexpr, LAST: tl.constexpr,
    SOFTPLUS: tl.constexpr, T: tl.constexpr, CHANNELS: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """One segment: dx (B, L, G, K, D), ddt, dA (B, Q, S, D, N), dB, dC (blocks, B, L, Q, N), dD, dbias (B, Q, S, D).

    The long sums are sums of the sums over chunks, which keeps their rounding errors as small as those of the rest.
    """
    b, q, block, d, n, inside, both, rates = _place(A, G * K, channels, N, CHANNELS, STATES)
    segment = tl.program_id(1)
    shift = tl.load(bias + q * channels + d, mask=inside, other=0.0)
    skip = tl.load(D + q * channels + d, mask=inside, other=0.0)
    sequence, chunks = b * G * K + q, tl.cdiv(L, T)
    item = sequence * tl.num_programs(1) + segment
    asked = tl.zeros((CHANNELS, STATES), tl.float32)  # of the state by what comes later
    if SPLIT:
        asked = tl.load(after + _cells(item, d, n, channels, N), mask=both, other=0.0)
    elif LAST:
        asked = tl.load(dlast + _cells(sequence, d, n, channels, N), mask=both, other=0.0)
    sum_A = tl.zeros((CHANNELS, STATES), tl.float32)
    sum_D = tl.zeros((CHANNELS,), tl.float32)
    sum_bias = tl.zeros((CHANNELS,), tl.float32)
    first = segment * length
    behind = tl.minimum(first + length, chunks)
    for i in range(0, behind - first):
        chunk = behind - 1 - i
        h = tl.load(starts + _cells(sequence * chunks + chunk, d, n, channels, N), mask=both, other=0.0)
        rows = ()
        for t in tl.static_range(T):
            token, step, D_here, N_here = _visit(
                order, dt, shift, b, q, d, chunk * T + t, L, K, channels, N, dt_token, dt_sequence, SOFTPLUS
            )
            row_x = _row(x, (token * G + q // K) * channels, d, D_here)
            row_B = _row(B, token * B_token + q * B_sequence, n, N_here)
            rows += ((token, row_x, step, row_B),)
        states = (h,)  # in front of each position, and behind the last
        for t in tl.static_range(T):
            token, row_x, step, row_B = rows[t]
            h = tl.exp2(step[:, None] * (rates * LOG2E)) * h + (step * row_x)[:, None] * row_B[None, :]
            states += (h,)
        chunk_A = tl.zeros((CHANNELS, STATES), tl.float32)
        chunk_D = tl.zeros((CHANNELS,), tl.float32)
        chunk_bias = tl.zeros((CHANNELS,), tl.float32)
        for t in tl.static_range(T):
            token, row_x, step, row_B = rows[T - 1 - t]
            l = chunk * T + (T - 1 - t)
            D_here, N_here = tl.where(l < L, channels, 0), tl.where(l < L, N, 0)
            row_C = _row(C, token * C_token + q * C_sequence, n, N_here)
            row_dy = _row(dy, (token * G + q // K) * channels, d, D_here)
            asked += row_dy[:, None] * row_C[None, :]
            row_dC = tl.sum(row_dy[:, None] * states[T - t], axis=0)
            row_dB = tl.sum(asked * (step * row_x)[:, None], axis=0)
            fed = tl.sum(asked * row_B[None, :], axis=1)  # gradient of d x
            asked *= tl.exp2(step[:, None] * (rates * LOG2E))
            log = asked * states[T - 1 - t]  # gradient of d A
            row_ddt = tl.where(l < L, fed * row_x + tl.sum(log * rates, axis=1), 0.0)
            if SOFTPLUS:
                row_ddt *= _slope(step)
            chunk_A += log * step[:, None]
            chunk_D += row_dy * row_x
            chunk_bias += row_ddt
            part = ((block.to(tl.int64) * batch * L + token) * G * K + q) * N
            tl.store(dB + part + n, row_dB, mask=n < N_here)
            tl.store(dC + part + n, row_dC, mask=n < N_here)
            tl.store(ddt + token * ddt_token + q * ddt_sequence + d, row_ddt, mask=d < D_here)
            tl.store(dx + (token * G * K + q) * channels + d, fed * step + skip * row_dy, mask=d < D_here)
        sum_A += chunk_A
        sum_D += chunk_D
        sum_bias += chunk_bias
    tl.store(dA + _cells(item, d, n, channels, N), sum_A, mask=both)
    tl.store(dD + item.to(tl.int64) * channels + d, sum_D, mask=inside)
    tl.store(dbias + item.to(tl.int64) * channels + d, sum_bias, mask=inside)
