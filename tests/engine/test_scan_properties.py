"""Every kernel of the scan is the plain loop over positions, for shapes, options and threads that nobody chose.

The loop computes in float64, the kernels in float32. Triton runs in its interpreter, which has to be asked for before
triton is imported and must not stay in this process: run as a script, this file does its share.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.networks import scan
from trainer.networks.scan import native, selective_scan, ss2d_scan

PATHS = [*(() if native.obstacle() else (f"native {isa}" for isa in native.instruction_sets())), "torch"]
# float32 keeps 6e-8; a sum of a few hundred terms, of which the largest cancel, keeps some 1e-6 of the largest value
TOLERANCE = 5e-6
OPTIONAL = {"D": 5, "z": 6, "bias": 7}  # where they are among the arguments
QUIET = settings(derandomize=True, deadline=None, database=None)


@dataclass(frozen=True)
class Case:
    """A scan of sequences, or of an image along G directions."""

    image: bool
    batch: int
    groups: int
    channels: int  # of a group
    states: int
    length: int
    without: frozenset[str] = frozenset()  # of sequences
    softplus: bool = True  # of sequences
    grouped: bool = True  # B and C have an axis of groups
    last: bool = False  # of sequences: the last state is wanted, too
    rank: int = 0  # of an image's steps, 0 where each channel has its own
    threads: int = 1
    seed: int = 0


def cases(longest: int, widest: int, most: int) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        image=st.booleans(),
        batch=st.integers(1, 2),
        groups=st.integers(1, 4),
        channels=st.integers(2, widest),
        states=st.sampled_from([N for N in (1, 3, 8, 16, 64) if N <= most]),
        length=st.sampled_from((1, 2, 37)).filter(lambda L: L <= longest) | st.integers(1, longest),
        without=st.frozensets(st.sampled_from(sorted(OPTIONAL))),
        softplus=st.booleans(),
        grouped=st.booleans(),
        last=st.booleans(),
        rank=st.sampled_from((0, 1, 3, 6, 21)),
        threads=st.sampled_from((1, 2, 5)),
        seed=st.integers(0, 2**16),
    )


# The plain loop


def plain_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    softplus: bool,
    last: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """`selective_scan`, position by position, as its formula says."""
    step = delta if bias is None else delta + bias[:, None]
    step = F.softplus(step) if softplus else step
    B, C = (t.unsqueeze(1) if t.dim() == 3 else t for t in (B, C))
    B, C = (t.repeat_interleave(len(A) // t.shape[1], 1) for t in (B, C))  # (B, D, N, L)
    h, y = torch.zeros(len(u), *A.shape, dtype=u.dtype), []
    for x_l, d_l, B_l, C_l in zip(*(t.unbind(-1) for t in (u, step, B, C)), strict=True):
        h = torch.exp(d_l[..., None] * A) * h + (d_l * x_l)[..., None] * B_l  # (B, D, N)
        y.append((h * C_l).sum(-1))
    y = torch.stack(y, -1) if D is None else torch.stack(y, -1) + D[:, None] * u
    y = y if z is None else y * F.silu(z)
    return (y, h) if last else y


def plain_ss2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    positions: Tensor,
    weight: Tensor | None,
) -> Tensor:
    """`ss2d_scan`: each direction walks, and what it says is put back where it was said."""
    said = torch.zeros_like(x)
    dt = dt if weight is None else (dt[:, :, :, None] * weight).sum(-1)  # (B, L, K, D)
    for k, order in enumerate(positions):
        u, delta, B_k, C_k = (t.transpose(1, 2) for t in (x[:, order], dt[:, order, k], B[:, order, k], C[:, order, k]))
        y = plain_scan(u, delta, A[k], B_k, C_k, D[k], None, bias[k], True, False)
        said = said + y.transpose(1, 2)[:, order.argsort()]
    return said


# A case in numbers


def arguments(case: Case) -> tuple[list[Tensor | None], tuple[object, ...]]:
    """Tensors in float32, and what else a scan is told.

    What is multiplied and added up has one sign a tensor. A sum that cancels as a whole, as it may where there are few
    numbers, would show the rounding of float32 and not what a kernel makes of it.
    """
    generator = torch.Generator().manual_seed(case.seed)
    b, G, D, N, L = case.batch, case.groups, case.channels, case.states, case.length
    if case.image:
        state = (b, L, G, N)
        steps = (b, L, G, case.rank or D)
        shapes = [(b, L, D), steps, (G, D, N), state, state, (G, D), (G, D), (G, D, case.rank)]
    else:
        wide, state = (b, G * D, L), (b, G, N, L) if case.grouped else (b, N, L)
        shapes = [wide, wide, (G * D, N), state, state, (G * D,), wide, (G * D,)]
    sign = (-1.0) ** torch.randint(2, (len(shapes),), generator=generator)
    tensors = [s * (torch.rand(shape, generator=generator) + 0.5) for s, shape in zip(sign, shapes, strict=True)]
    bias = 6 if case.image else 7
    for i in (2, bias) if case.image and case.rank else (1, 2, bias):  # 1 is delta, which a rank adds up; 2 is A
        tensors[i] = torch.randn(shapes[i], generator=generator)
    tensors[2] = -tensors[2].exp()
    if case.image:
        tensors[7] = tensors[7] / case.rank if case.rank else None
        return tensors, (torch.stack([torch.randperm(L, generator=generator) for _ in range(G)]),)
    if not case.softplus:  # steps are positive in any network
        tensors[1], tensors[7] = tensors[1].abs(), tensors[7].abs()
    gone = {OPTIONAL[name] for name in case.without}
    return [None if i in gone else t for i, t in enumerate(tensors)], (case.softplus, case.last)


def outcome(function: Callable, tensors: list[Tensor | None], rest: tuple[object, ...]) -> list[Tensor]:
    """What a scan returns, and the gradients of a weighted sum of it."""
    tensors = [t if t is None else t.clone().requires_grad_() for t in tensors]
    outputs = function(*tensors, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    asked = [(torch.arange(o.numel()) % 7 + 1).reshape(o.shape).to(o.dtype) for o in outputs]  # exact in any type
    used = [t for t in tensors if t is not None]
    return [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, used, asked)]


def positions_last(ss2d: Callable) -> Callable:
    def scan(*arguments: Tensor | None) -> Tensor:
        *tensors, weight, positions = arguments
        return ss2d(*tensors, positions, weight)

    return scan


@cache
def expected(case: Case) -> list[Tensor]:
    tensors, rest = arguments(case)
    plain = positions_last(plain_ss2d) if case.image else plain_scan
    return outcome(plain, [t if t is None else t.double() for t in tensors], rest)


@contextmanager
def running(path: str, threads: int) -> Iterator[tuple[Callable, Callable]]:
    """The two forms of a kernel, on so many threads however small the scan is; images have their positions last."""
    if path == "triton":
        from trainer.networks.scan.triton_kernel import triton_scan, triton_ss2d

        yield triton_scan, positions_last(triton_ss2d)
        return
    kernel, _, isa = path.partition(" ")
    forced = {scan.VARIABLE: kernel, native.VARIABLE: isa}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with patch.dict(os.environ, forced), patch.object(native, "WORTH_A_THREAD", 1):
            yield selective_scan, positions_last(ss2d_scan)
    finally:
        torch.set_num_threads(before)


def check(path: str, case: Case) -> None:
    tensors, rest = arguments(case)
    with running(path, case.threads) as forms:
        got = outcome(forms[case.image], tensors, rest)
    for part, (a, b) in enumerate(zip(got, expected(case), strict=True)):
        error, largest = (a.double() - b).abs().max().item(), b.abs().max().item()
        assert error <= TOLERANCE * largest, f"part {part}: {error:.1e} of {largest:.1e}"


# What holds


@pytest.mark.parametrize("path", PATHS)
@settings(QUIET, max_examples=50)
@given(case=cases(longest=70, widest=40, most=64))
@example(case=Case(False, 1, 1, 3, 3, 3136, last=True))
@example(case=Case(True, 1, 2, 3, 1, 3136, threads=2))
@example(case=Case(True, 1, 4, 40, 16, 49, rank=6, threads=2))
def test_values_and_gradients_are_those_of_the_plain_loop(path: str, case: Case) -> None:
    check(path, case)


@pytest.mark.parametrize("path", PATHS)
@settings(QUIET, max_examples=15)
@given(case=cases(longest=40, widest=20, most=8), data=st.data())
def test_nan_in_nan_out(path: str, case: Case, data: st.DataObject) -> None:
    tensors, rest = arguments(case)
    which = data.draw(st.sampled_from([i for i, t in enumerate(tensors) if t is not None]))
    tensors[which].view(-1)[data.draw(st.integers(0, tensors[which].numel() - 1))] = torch.nan
    plain = (plain_scan, positions_last(plain_ss2d))[case.image](*tensors, *rest)
    with running(path, case.threads) as forms:
        y, *_ = outcome(forms[case.image], tensors, rest)
    y_plain = plain[0] if isinstance(plain, tuple) else plain
    assert y.isnan().any() or case.last  # the last state may be the only one to know
    assert torch.equal(y.isnan(), y_plain.isnan())


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_triton_in_its_interpreter_is_the_plain_loop() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]


@settings(QUIET, max_examples=8)
@given(case=cases(longest=20, widest=20, most=16))
@example(case=Case(True, 1, 2, 3, 64, 2))
@example(case=Case(True, 2, 2, 3, 4, 9, rank=3))
def triton_is_the_plain_loop(case: Case) -> None:
    check("triton", case)


def main() -> None:
    """Sequences are cut into up to three pieces."""
    from trainer.networks.scan import triton_kernel

    triton_kernel.segments = lambda programs, chunks, device: 1 + programs % 3
    triton_is_the_plain_loop()


if __name__ == "__main__":
    main()
