"""Does a kernel compute the right thing on this machine: both forms of it against the torch path, on a tiny case.

Compilers, drivers and vendor kernels err; a network trained on wrong gradients does not say so.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.gathered import gathered_ss2d

TOLERANCE = 2e-5  # of the largest value; float32 kernels are within 2e-6
B, L, G, D, N = 2, 19, 2, 19, 5  # nothing is a multiple of a vector or a chunk


def find_mismatch(scan: Callable, ss2d: Callable, device: str = "cpu") -> str | None:
    """Compare the two forms of a kernel with torch in float64. Returns what differs, or None."""
    with torch.inference_mode(False), torch.enable_grad():
        return _differ(scan, blocked_scan, _sequence_case(device), (True, True)) or _differ(
            ss2d, gathered_ss2d, *_image_case(device)
        )


def _sequence_case(device: str) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias"""
    wide, state = (B, G * D, L), (B, G, N, L)
    return _numbers([wide, wide, (G * D, N), state, state, (G * D,), wide, (G * D,)], device)


def _image_case(device: str) -> tuple[list[Tensor], tuple[Tensor]]:
    """x, dt, A, B, C, D, dt_bias; and positions"""
    state = (B, L, G, N)
    positions = torch.stack([torch.arange(L), 7 * torch.arange(L) % L]).to(device)
    return _numbers([(B, L, D), (B, L, G, D), (G, D, N), state, state, (G, D), (G, D)], device), (positions,)


def _numbers(shapes: Sequence[tuple[int, ...]], device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    numbers[2] = -numbers[2].exp()  # A
    return numbers


def _differ(kernel: Callable, reference: Callable, tensors: list[Tensor], rest: tuple) -> str | None:
    got, expected = _outcome(kernel, tensors, rest), _outcome(reference, [t.double() for t in tensors], rest)
    for part, (a, b) in enumerate(zip(got, expected, strict=True)):
        error = ((a.double() - b).abs().max() / b.abs().max()).item()
        if not error <= TOLERANCE:  # NaN neither
            return f"number {part} of the outputs and gradients of {kernel.__name__} is off by {error:.1e}"
    return None


def _outcome(kernel: Callable, tensors: list[Tensor], rest: tuple) -> list[Tensor]:
    """What it returns, and the gradient of each tensor."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    outputs = kernel(*tensors, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    asked = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype, device=o.device).view(o.shape) for o in outputs]
    return [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, tensors, asked)]
