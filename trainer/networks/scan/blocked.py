"""The selective scan in plain torch: any device, time and memory linear in L.

A block of T positions is computed at once but for the recurrence itself, one addcmul a position; T is chosen so that a
block stays in the cache. Forward keeps only the state in front of each block, backward computes the rest again.

Glossary: B batch, G groups, D channels of a group, L positions, N size of the state, T positions of a block.
Inside, the position is the slowest axis and the channel the fastest, (L, B, G, D) and (L, B, G, N, D): one step of the
recurrence is one contiguous piece of memory, and every product runs along D.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_ELEMENTS = 2**17  # numbers of one (T, B, G, N, D) array: half a megabyte, so that a few fit the cache


def blocked_scan(
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
    """`trainer.networks.scan.selective_scan` without its checks of shapes. Both results can be differentiated, once."""
    precision = torch.float64 if u.dtype == torch.float64 else torch.float32
    with torch.autocast(u.device.type, enabled=False):
        x, step, A, B, C = (t.to(precision) for t in (u, delta, A, B, C))
        if delta_bias is not None:
            step = step + delta_bias.to(precision)[:, None]
        if delta_softplus:
            step = F.softplus(step)
        y, last = _scan_groups(x, step, A, B, C)
        if D is not None:
            y = y + x * D.to(precision)[:, None]
        if z is not None:
            y = y * F.silu(z.to(precision))
    y = y.to(u.dtype)
    return (y, last) if return_last_state else y


def _scan_groups(x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """(B, D, L) x2, (D, N), (B, [G,] N, L) x2 -> y (B, D, L) and the last state (B, D, N)."""
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    G = B.shape[1]
    x, step = (t.permute(2, 0, 1).unflatten(2, (G, -1)) for t in (x, step))  # (L, B, G, D)
    B, C = (t.permute(3, 0, 1, 2) for t in (B, C))  # (L, B, G, N)
    A = A.unflatten(0, (G, -1)).transpose(1, 2)  # (G, N, D)
    walk = scan_node if _exporting() else _BlockedScan.apply
    y, last = walk(*(t.contiguous() for t in (x, step, A, B, C)))
    return y.flatten(2).permute(1, 2, 0), last.transpose(2, 3).flatten(1, 2)


def _exporting() -> bool:
    """Whether torch.export looks on, and torch.compile does not."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


@torch.library.custom_op("scribblemamba::scan", mutates_args=())
def scan_node(x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """`_BlockedScan` as one node of an exported graph, which would hold each of its L steps otherwise."""
    return _BlockedScan.apply(x, step, A, B, C)


@scan_node.register_fake
def _(x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(x.shape[1], *A.shape)


def _block_length(state: int, length: int) -> int:
    """T, for a state of so many numbers: long blocks for small states, 16 at least to save boundaries rarely."""
    return min(length, 64, max(16, BLOCK_ELEMENTS // state))


class _BlockedScan(torch.autograd.Function):
    """y_l = C_l . h_l with h_l = exp(step_l A) h_(l-1) + step_l B_l x_l, and h_L; layouts as in the glossary."""

    @staticmethod
    def forward(ctx, x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        L, batch, G, D = x.shape
        N = A.shape[1]
        T = _block_length(batch * G * N * D, L)
        starts = x.new_empty(-(-L // T), batch, G, N, D)  # the state in front of each block
        h = x.new_empty(T, batch, G, N, D)
        y, state = torch.empty_like(x), torch.zeros_like(h[0])
        for block, start in enumerate(starts):
            start.copy_(state)
            here = slice(block * T, block * T + T)
            decay, gain = _decay_and_gain(x[here], step[here], A, B[here])
            state = _recur(start, decay, gain, h)
            torch.sum(torch.mul(h[: len(decay)], C[here].unsqueeze(4), out=gain), 3, out=y[here])
        ctx.save_for_backward(x, step, A, B, C, starts)
        return y, state.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, dlast: Tensor) -> tuple[Tensor, ...]:
        return _backward(*ctx.saved_tensors, dy.contiguous(), dlast)


def _backward(
    x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, starts: Tensor, dy: Tensor, dlast: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of x, step, A, B and C. Sums of products rather than matmul: faster at these sizes, and never TF32."""
    T = _block_length(starts[0].numel(), len(x))
    dx, dstep, dB, dC = (torch.empty_like(t) for t in (x, step, B, C))
    dA = torch.zeros_like(A)
    before, dh = (x.new_empty(T + extra, *starts.shape[1:]) for extra in (1, 0))  # before[t + 1] is the state after t
    carry = dlast  # what later positions ask of the state at the end of a block
    for block in reversed(range(len(starts))):
        here = slice(block * T, block * T + T)
        decay, gain = _decay_and_gain(x[here], step[here], A, B[here])  # (T, B, G, N, D) each
        n = len(decay)
        before[0] = starts[block]
        _recur(before[0], decay, gain, before[1:])
        asked = torch.mul(dy[here].unsqueeze(3), C[here].unsqueeze(4))  # of the state by y
        carry = _recur_back(carry, decay, asked, dh)
        torch.sum(torch.mul(before[1 : n + 1], dy[here].unsqueeze(3), out=gain), 4, out=dC[here])
        torch.sum(torch.mul(dh[:n], (step[here] * x[here]).unsqueeze(3), out=gain), 4, out=dB[here])
        dfed = torch.mul(dh[:n], B[here].unsqueeze(4), out=gain).sum(3)  # of step x
        dlog = decay.mul_(dh[:n]).mul_(before[:n])  # of step A
        torch.mul(dfed, step[here], out=dx[here])
        torch.addcmul(torch.mul(dlog, A, out=gain).sum(3), dfed, x[here], out=dstep[here])
        dA += dlog.mul_(step[here].unsqueeze(3)).sum((0, 1))
    return dx, dstep, dA, dB, dC


def _decay_and_gain(x: Tensor, step: Tensor, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """exp(step A) and B step x of one block, (T, B, G, N, D) each."""
    return (step.unsqueeze(3) * A).exp_(), (step * x).unsqueeze(3) * B.unsqueeze(4)


def _recur(state: Tensor, decay: Tensor, gain: Tensor, h: Tensor) -> Tensor:
    """h[t] = decay[t] h[t-1] + gain[t]; returns the last one, a view of h."""
    for a, b, out in zip(decay.unbind(), gain.unbind(), h[: len(decay)].unbind(), strict=True):
        state = torch.addcmul(b, a, state, out=out)
    return state


def _recur_back(carry: Tensor, decay: Tensor, asked: Tensor, dh: Tensor) -> Tensor:
    """dh[t] = asked[t] + decay[t+1] dh[t+1], `carry` beyond the end; returns the carry for the block before."""
    decays, asks, outs = decay.unbind(), asked.unbind(), dh[: len(decay)].unbind()
    later = torch.add(asks[-1], carry, out=outs[-1])
    for t in reversed(range(len(asks) - 1)):
        later = torch.addcmul(asks[t], decays[t + 1], later, out=outs[t])
    return decays[0] * later
