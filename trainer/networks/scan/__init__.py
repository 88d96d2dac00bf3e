"""The selective scan: one signature for sequences, one for images, and the only place that decides which kernel runs.

Reference: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3.

Glossary: B batch, D channels, L length of the sequence, N size of the state, G groups of channels that share B and C,
K directions across an image.
"""

import os
import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from trainer.networks.scan import mamba_ssm_kernel, native
from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.gathered import gathered_ss2d
from trainer.networks.scan.mamba_ssm_kernel import mamba_ssm_scan, mamba_ssm_ss2d
from trainer.networks.scan.native import native_scan, native_ss2d
from trainer.networks.scan.selftest import find_mismatch, largest_error

VARIABLE = "SCRIBBLEMAMBA_SCAN"  # forces a kernel by its name
OLDEST_TRITON = (3, 3)  # the first whose functions hold tuples of tensors


def _triton(form: str) -> Callable:
    """A form of our Triton kernel; triton is imported when it first runs."""

    def run(*arguments: object) -> Tensor | tuple[Tensor, Tensor]:
        from trainer.networks.scan import triton_kernel

        return getattr(triton_kernel, form)(*arguments)

    run.__name__ = form
    return run


KERNELS = {  # the two forms of the scan
    "mamba_ssm": (mamba_ssm_scan, mamba_ssm_ss2d),
    "triton": (_triton("triton_scan"), _triton("triton_ss2d")),
    "native": (native_scan, native_ss2d),
    "torch": (blocked_scan, gathered_ss2d),
}
# The fastest first. mamba_ssm knows sequences only: of an image, each direction would have to be gathered for it, and
# its output and gradients gathered back, which moves more memory than the scan. Ours walks where the pixels lie.
SEQUENCES = ("mamba_ssm", "triton", "native", "torch")
IMAGES = ("triton", "mamba_ssm", "native", "torch")


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Walk along L with a state that forgets and takes in as the input says.

    h_l = exp(d_l A) h_(l-1) + d_l B_l u_l from h = 0, y_l = C_l . h_l + D u_l, times SiLU(z_l) where z is given;
    d = delta + delta_bias, through softplus if asked. Argument for argument mamba_ssm's `selective_scan_fn`.

    u, delta, z: (B, D, L); A: (D, N), real, negative; B, C: (B, N, L), or (B, G, N, L) where channel d belongs to
    group d // (D / G); D, delta_bias: (D,). Any strides, any L >= 1.

    Returns y (B, D, L) of u's dtype, and with `return_last_state` also h_L (B, D, N). The arithmetic is float32,
    under autocast too; float64 where u is float64. Raises ValueError where shapes do not fit or A is complex.
    """
    _check(u, delta, A, B, C, D, delta_bias)
    arguments = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    if _inside_compiled_cuda(u):
        return torch.compiler.disable(selective_scan)(*arguments)
    scan, _ = KERNELS[_choose(u.device, u.dtype, SEQUENCES)]
    return scan(*arguments)


def ss2d_scan(
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
    """K scans over one x, each in an order of its own with parameters of its own, added up where they meet.

    Direction k visits `positions[k]`, a permutation of 0..L-1; x, dt, B and C stay where they are. Each step takes it
    from a position m to a position l: h_l = exp(d_l A) h_m + d_l B_l x_l, y_l = C_l . h_l + D x_l, where
    d = softplus(dt + dt_bias). With a `dt_weight`, dt has a rank R and d = softplus(dt_weight dt + dt_bias): the native
    kernel makes the steps where it uses them, and neither they nor their gradients are ever in memory.

    x: (B, L, D); dt: (B, L, K, D); A: (K, D, N); B, C: (B, L, K, N); D, dt_bias: (K, D); positions: (K, L), int64;
    with dt_weight (K, D, R), dt: (B, L, K, R).

    Returns y (B, L, D) of x's dtype. The arithmetic is that of `selective_scan`. Raises ValueError where shapes do not
    fit or where `positions` on a processor are no permutations.
    """
    _check_ss2d(x, dt, A, B, C, D, dt_bias, positions, dt_weight)
    arguments = (x, dt, A, B, C, D, dt_bias, positions, dt_weight)
    if _inside_compiled_cuda(x):
        return torch.compiler.disable(ss2d_scan)(*arguments)
    _, scan = KERNELS[_choose(x.device, x.dtype, IMAGES)]
    return scan(*arguments)


# Which kernel


def kernel_name(device: torch.device | str, names: tuple[str, ...] = IMAGES) -> str:
    """The kernel that scans images, or SEQUENCES, there in float32. Raises as they do where a forced one cannot."""
    return _choose(torch.device(device), torch.float32, names)


def kernels(device: torch.device | str = "cpu") -> dict[str, str]:
    """Each kernel's name, and "usable" or why it cannot run there, the fastest first."""
    return {name: _obstacle(name, torch.device(device), torch.float32) or "usable" for name in IMAGES}


def kernel_error(name: str, device: torch.device | str = "cpu") -> float:
    """The largest error of a usable kernel in its self-test, as a part of the largest value, against float64."""
    return largest_error(*KERNELS[name], str(device))


def _inside_compiled_cuda(x: Tensor) -> bool:
    """torch.compile keeps out of CUDA kernels of others: it runs them between two parts that it compiled."""
    return x.is_cuda and torch.compiler.is_dynamo_compiling()


def _choose(device: torch.device, dtype: torch.dtype, names: tuple[str, ...]) -> str:
    forced = os.environ.get(VARIABLE)
    if forced and forced not in names:
        raise ValueError(f"{VARIABLE} knows {', '.join(names)}, got {forced!r}")
    if not forced:
        return next(name for name in names if _obstacle(name, device, dtype) is None)
    if obstacle := _obstacle(forced, device, dtype):
        raise RuntimeError(f"{VARIABLE}={forced}, but {obstacle}; unset it, or set it to torch")
    return forced


def _obstacle(name: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a kernel cannot run, None where it can."""
    if name == "torch":
        return None
    home = "cpu" if name == "native" else "cuda"
    if device.type != home:
        return f"it runs on {'the processor' if home == 'cpu' else 'CUDA'}, not on {device.type}"
    if dtype == torch.float64:
        return "it computes in float32, not in float64"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "it cannot be compiled or exported"
    if name == "native":
        return native.obstacle() or _flaw(name, native.instruction_set())
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    missing = _triton_obstacle() if name == "triton" else mamba_ssm_kernel.obstacle()
    return missing or _flaw(name, str(device), str(device))


@cache
def _triton_obstacle() -> str | None:
    """Why triton cannot be used, None where it can."""
    try:
        import triton
    except ModuleNotFoundError:
        return "triton is not installed"
    except Exception as e:  # a broken installation raises nearly anything
        return f"triton does not import: {type(e).__name__}: {e}"
    if tuple(map(int, triton.__version__.split(".")[:2])) < OLDEST_TRITON:
        return f"triton {triton.__version__} is too old; install {OLDEST_TRITON[0]}.{OLDEST_TRITON[1]} or newer"
    return None


@cache
def _flaw(name: str, variant: str, device: str = "cpu") -> str | None:
    """What the self-test says of a kernel, found out at its first use, and said aloud once."""
    try:
        mismatch = find_mismatch(*KERNELS[name], device)
    except Exception as e:  # a compiler or a vendor's kernel raises anything
        mismatch = f"{type(e).__name__}: {e}"
    if mismatch is None:
        return None
    flaw = f"its self-test failed: {mismatch}"
    warnings.warn(f"the scan kernel {name} ({variant}) is not used, {flaw}; please report this", stacklevel=2)
    return flaw


# Shapes


def _check(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None
) -> None:
    batch, channels, length = u.shape
    if delta.shape != u.shape:
        raise ValueError(f"delta must have the shape of u, {tuple(u.shape)}, got {tuple(delta.shape)}")
    if A.is_complex() or A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be real of shape ({channels}, N), got {A.dtype} of shape {tuple(A.shape)}")
    groups = B.shape[1:2] if B.dim() == 4 else ()
    expected = (batch, *groups, A.shape[1], length)
    if B.shape != expected or C.shape != expected:
        raise ValueError(f"B and C must have the shape {expected}, got {tuple(B.shape)} and {tuple(C.shape)}")
    if groups and channels % groups[0]:
        raise ValueError(f"the groups of B and C must divide the {channels} channels of u, got {groups[0]}")
    if any(t is not None and t.shape != (channels,) for t in (D, delta_bias)):
        raise ValueError(f"D and delta_bias must have the shape ({channels},)")


def _check_ss2d(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    dt_bias: Tensor,
    positions: Tensor,
    dt_weight: Tensor | None,
) -> None:
    (batch, length, channels), directions, N = x.shape, len(positions), A.shape[-1]
    state, width = (batch, length, directions, N), channels if dt_weight is None else dt_weight.shape[-1]
    shapes = {"dt": (dt, (batch, length, directions, width)), "A": (A, (directions, channels, N))}
    if dt_weight is not None:
        shapes["dt_weight"] = dt_weight, (directions, channels, width)
    shapes |= {"B": (B, state), "C": (C, state), "D": (D, (directions, channels))}
    shapes |= {"dt_bias": (dt_bias, (directions, channels)), "positions": (positions, (directions, length))}
    for name, (tensor, shape) in shapes.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have the shape {shape}, got {tuple(tensor.shape)}")
    if positions.dtype != torch.int64:
        raise ValueError(f"positions must be int64, got {positions.dtype}")


__all__ = ["kernel_error", "kernel_name", "kernels", "selective_scan", "ss2d_scan"]
