"""Does a kernel compute the right thing on this machine: both forms of it against the torch path, on a tiny case.

Compilers, drivers and vendor kernels err; a network trained on wrong gradients does not say so.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.gathered import gathered_ss2d

TOLERANCE = 2e-5  # of the largest value; float32 kernels are within 2e-6
B, L, G, D, N, R = 2, 35, 2, 19, 5, 3  # nothing is a multiple of a vector or a chunk
SEQUENCE = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
IMAGE = ("x", "dt", "A", "B", "C", "D", "dt_bias")


@torch.inference_mode(False)  # whatever is going on where a kernel is first asked for
@torch.enable_grad()
def find_mismatch(scan: Callable, ss2d: Callable, device: str = "cpu") -> str | None:
    """Compare the two forms of a kernel with torch in float64. Returns what differs, or None."""
    return first_beyond(TOLERANCE, _compare_forms(scan, ss2d, device))


@torch.inference_mode(False)
@torch.enable_grad()
def largest_error(scan: Callable, ss2d: Callable, device: str = "cpu") -> float:
    """Of all results and gradients of the two forms, each measured by its own largest value."""
    return max(error for _, error in _compare_forms(scan, ss2d, device))


def _compare_forms(scan: Callable, ss2d: Callable, device: str) -> Iterator[tuple[str, float]]:
    wide, state = (B, G * D, L), (B, G, N, L)
    tensors = _numbers([wide, wide, (G * D, N), state, state, (G * D,), wide, (G * D,)], device)
    for keep_last in (False, True):
        yield from compare(scan, blocked_scan, SEQUENCE, tensors, True, keep_last)
    state = (B, L, G, N)
    tensors = _numbers([(B, L, D), (B, L, G, D), (G, D, N), state, state, (G, D), (G, D)], device)
    positions = torch.stack([torch.arange(L), 3 * torch.arange(L) % L]).to(device)
    yield from compare(ss2d, gathered_ss2d, IMAGE, tensors, positions)
    tensors = _numbers([(B, L, D), (B, L, G, R), (G, D, N), state, state, (G, D), (G, D), (G, D, R)], device)
    ranked = (_positions_before_last(form) for form in (ss2d, gathered_ss2d))
    yield from compare(*ranked, (*IMAGE, "dt_weight"), tensors, positions)


def _positions_before_last(ss2d: Callable) -> Callable:
    """As `compare` calls it: first what has a gradient, the weight of the steps too, and then the positions."""

    def run(*arguments: Tensor) -> Tensor:
        *tensors, dt_weight, positions = arguments
        return ss2d(*tensors, positions, dt_weight)

    run.__name__ = ss2d.__name__
    return run


def _numbers(shapes: Sequence[tuple[int, ...]], device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    numbers[2] = -numbers[2].exp()  # A
    return numbers


def compare(
    kernel: Callable, reference: Callable, names: Sequence[str], tensors: list[Tensor], *rest: object
) -> Iterator[tuple[str, float]]:
    """Each result of a kernel, and gradient of the named tensors: what it is, and how far it is from the reference in
    float64, as a part of the largest value."""
    got, expected = _outcome(kernel, tensors, *rest), _outcome(reference, [t.double() for t in tensors], *rest)
    parts = [*("y", "last state")[: len(got) - len(names)], *(f"gradient of {name}" for name in names)]
    for part, a, b in zip(parts, got, expected, strict=True):
        yield f"{part} of {kernel.__name__}", ((a.double() - b).abs().max() / b.abs().max()).item()


def first_beyond(tolerance: float, errors: Iterable[tuple[str, float]]) -> str | None:
    wrong = (f"{part} is off by {error:.1e}" for part, error in errors if not error <= tolerance)  # NaN neither
    return next(wrong, None)


def _outcome(kernel: Callable, tensors: list[Tensor], *rest: object) -> list[Tensor]:
    """What it returns, and the gradient of each tensor."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    outputs = kernel(*tensors, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    weights = (torch.linspace(-1, 1, o.numel(), dtype=o.dtype, device=o.device).view(o.shape) for o in outputs)
    loss = sum((o * w).sum() for o, w in zip(outputs, weights, strict=True))
    return [*(o.detach() for o in outputs), *torch.autograd.grad(loss, tensors)]
