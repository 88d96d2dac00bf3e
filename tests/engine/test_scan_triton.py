"""The Triton kernel of the scan, in Triton's interpreter, which needs no GPU: values, gradients, any shape, any cut.

Run as a script, this file prints the error of each case. It is one, because the interpreter has to be asked for before
triton is imported, and must not stay in this process. benchmarks/gpu.py does the same on a GPU, at full size.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor

from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.gathered import gathered_ss2d

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")

IMAGES = {  # B, K, D, N, L and the number of segments
    "four directions, D 5, N 3, L 37": (1, 4, 5, 3, 37, 1),
    "cut into three": (1, 2, 5, 3, 37, 3),
    "two blocks of channels, N 16, L 2": (2, 1, 20, 16, 2, 1),
    "N 8, L 1": (1, 2, 3, 8, 1, 1),
    "three directions, D 33, N 1": (1, 3, 33, 1, 12, 1),
}
SEQUENCES = {  # softplus, last state; the number of segments
    "a sequence and its last state": (True, True, 1),
    "the same, cut into two": (True, True, 2),
    "no softplus, D, z nor bias": (False, False, 1),
}
# float32 keeps 6e-8; a sum of a few hundred terms, of which the largest cancel, keeps some 1e-6 of the largest value
TOLERANCE = 5e-6
HALVES = 2**-7  # between two numbers of bfloat16, to which y and most gradients are cut off (a GPU rounds them)


# In the interpreter


def numbers(*shapes: tuple[int, ...]) -> list[Tensor]:
    tensors = [torch.randn(shape) for shape in shapes]
    tensors[2] = -tensors[2].exp()  # A
    return tensors


def image(batch: int, K: int, D: int, N: int, L: int) -> tuple[list[Tensor], Tensor]:
    """x, dt, A, B, C, D, dt_bias, and as many orders of the positions."""
    state = (batch, L, K, N)
    tensors = numbers((batch, L, D), (batch, L, K, D), (K, D, N), state, state, (K, D), (K, D))
    return tensors, torch.stack([torch.randperm(L) for _ in range(K)])


def sequence(batch: int, G: int, D: int, N: int, L: int) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias for groups of D channels."""
    wide, state = (batch, G * D, L), (batch, G, N, L)
    return numbers(wide, wide, (G * D, N), state, state, (G * D,), wide, (G * D,))


def outcome(function: Callable, tensors: list[Tensor | None], *rest: object) -> list[Tensor]:
    """What a scan returns, and the gradients of a weighted sum of it."""
    tensors = [t if t is None else t.clone().requires_grad_() for t in tensors]
    outputs = function(*tensors, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    asked = [(torch.arange(o.numel()) % 7 - 3).reshape(o.shape).to(o.dtype) for o in outputs]  # exact in any type
    used = [t for t in tensors if t is not None]
    return [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, used, asked)]


def error(scan: Callable, reference: Callable, tensors: list[Tensor | None], *rest: object) -> float:
    """The largest, of the largest value, against the reference in float64 on the same numbers."""
    expected = outcome(reference, [t if t is None else t.double() for t in tensors], *rest)
    got = outcome(scan, tensors, *rest)
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, expected, strict=True))


def cases() -> dict[str, float | bool]:
    from trainer.networks.scan import triton_kernel
    from trainer.networks.scan.triton_kernel import triton_scan, triton_ss2d

    found: dict[str, float | bool] = {}
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for name, (*shape, cut) in IMAGES.items():
        triton_kernel.segments = lambda programs, chunks, device, cut=cut: cut
        tensors, positions = image(*shape)
        found[name] = error(triton_ss2d, gathered_ss2d, tensors, positions)
    for name, (softplus, last, cut) in SEQUENCES.items():
        triton_kernel.segments = lambda programs, chunks, device, cut=cut: cut
        tensors = sequence(1, 2, 3, 2, 17)
        tensors = tensors if softplus else [*tensors[:5], None, None, None]
        found[name] = error(triton_scan, blocked_scan, tensors, softplus, last)
    triton_kernel.segments = lambda programs, chunks, device: 1

    tensors, positions = image(1, 2, 5, 3, 12)
    halves = [t.bfloat16() if i in (0, 1, 3, 4) else t for i, t in enumerate(tensors)]  # as autocast hands them over
    with torch.autocast("cpu", torch.bfloat16):
        got = outcome(triton_ss2d, halves, positions)
    found["bfloat16"] = error(triton_ss2d, gathered_ss2d, halves, positions)
    found["types stay"] = [t.dtype for t in got] == [halves[0].dtype, *(t.dtype for t in halves)]

    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    wide = [t if t.dim() < 4 else torch.cat([t, t], dim=-1)[..., : t.shape[-1]] for t in tensors]
    expected = outcome(triton_ss2d, tensors, positions)
    for name, others in (("same bits twice", tensors), ("any strides", strided), ("rows with gaps", wide)):
        again = outcome(triton_ss2d, others, positions)
        found[name] = all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))

    with torch.no_grad():
        tensors[1][0, 3, 0, 2] = torch.nan
        got, expected = (scan(*tensors, positions).isnan() for scan in (triton_ss2d, gathered_ss2d))
    found["NaN in, NaN out"] = bool(expected.any()) and torch.equal(got, expected)
    return found


# Here


@pytest.fixture(scope="module")
def found() -> dict[str, float | bool]:
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@needs_triton
@pytest.mark.parametrize("case", [*IMAGES, *SEQUENCES])
def test_values_and_gradients_are_those_of_float64(case: str, found: dict) -> None:
    assert found[case] <= TOLERANCE


@needs_triton
def test_bfloat16_is_computed_in_float32(found: dict) -> None:
    assert found["types stay"]
    assert TOLERANCE < found["bfloat16"] <= HALVES


@needs_triton
@pytest.mark.parametrize("case", ["same bits twice", "any strides", "rows with gaps", "NaN in, NaN out"])
def test_it_is(case: str, found: dict) -> None:
    assert found[case]


@needs_triton
def test_it_compiles_for_a_gpu_that_is_not_here() -> None:
    """The interpreter forgives what the compiler does not: types above all."""
    code = "import test_scan_triton; test_scan_triton.compile_for(80)"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=os.path.dirname(__file__)
    )
    assert run.returncode == 0, run.stderr


def compile_for(capability: int) -> None:
    """All kernels, for bfloat16 and N = 4, cut into segments and with a last state."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from trainer.networks.scan import triton_kernel as kernels

    flags = {"SOFTPLUS": True, "SPLIT": True, "KEEP": True, "LAST": True, "REVERSE": True}
    constants = {**flags, "T": 8, "CHANNELS": 16, "STATES": 4}
    halves, numbers = {"x", "dt", "B", "C", "dy", "ddt"}, {"L", "G", "K", "Q", "N", "channels", "length", "batch"}
    numbers |= {"segments", *(f"{t}_{of}" for t in ("dt", "ddt", "B", "C") for of in ("token", "sequence"))}
    for name in ("_find_ends", "_find_ends_back", "_join", "_forward", "_backward"):
        kernel = getattr(kernels, name)
        types = {
            a: "constexpr" if a in constants else "i32" if a in numbers else "*i64" if a == "order" else "*fp32"
            for a in kernel.arg_names
        } | {a: "*bf16" for a in halves.intersection(kernel.arg_names)}
        known = {a: constants[a] for a in kernel.arg_names if a in constants}
        options = {"num_warps": 1, "enable_fp_fusion": True}
        triton.compile(ASTSource(kernel, types, known), target=GPUTarget("cuda", capability, 32), options=options)


def test_the_engine_does_not_import_triton() -> None:
    code = "import sys, trainer, trainer.networks; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    print(json.dumps(cases()))
