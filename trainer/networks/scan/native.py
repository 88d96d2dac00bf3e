"""The selective scan by our C kernel: float32 on any processor, in Python threads, without OpenMP.

The shared library has no Python in it: it is called by ctypes, which lets go of the interpreter's lock meanwhile.
Sources and their glossary: native/scan.h. setup.py builds it where there is a compiler.
"""

import ctypes
import logging
import math
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count, takewhile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

log = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("libscan.dll" if sys.platform == "win32" else "libscan.so")
VARIABLE = "SCRIBBLEMAMBA_ISA"  # forces an instruction set: avx512, avx2, sse2, neon, plain
FORWARD_CHANNELS, BACKWARD_CHANNELS = 64, 128  # of a task; a task of backward writes its own dB and dC, N of them
WORTH_A_THREAD = 2**17  # scan elements, some 50 microseconds

NUMBERS = "batch length groups directions channels states rank slices softplus".split()
STRIDES = "dt_row dt_sequence b_row b_sequence c_row c_sequence".split()
TENSORS = "order x dt W A B C D bias y starts last dy dlast dx ddt dW dA dB dC dD dbias".split()


class _Scan(ctypes.Structure):
    """`Scan` of native/scan.h."""

    _fields_ = [(name, ctypes.c_int64) for name in NUMBERS + STRIDES] + [(name, ctypes.c_void_p) for name in TENSORS]

    def point(self, **tensors: Tensor | None) -> None:
        """Set the pointers, and keep the tensors alive as long as this."""
        self.tensors = [*getattr(self, "tensors", ()), *tensors.values()]
        for name, tensor in tensors.items():
            setattr(self, name, None if tensor is None else tensor.data_ptr())


# The library


@cache
def library() -> ctypes.CDLL:
    """Raises OSError where it was not built, or by another version."""
    if not LIBRARY.exists():
        raise OSError(f"{LIBRARY.name} was not built; install a C compiler and run pip install again")
    loaded = ctypes.CDLL(str(LIBRARY))
    loaded.scan_name.restype = ctypes.c_char_p
    loaded.scan_size.restype = loaded.scan_starts.restype = ctypes.c_int64
    loaded.scan_starts.argtypes = [ctypes.c_int, ctypes.c_void_p]
    for kernel in (loaded.scan_forward, loaded.scan_backward):
        kernel.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    if loaded.scan_size() != ctypes.sizeof(_Scan):
        raise OSError(f"{LIBRARY} is of another version of the package; run pip install again")
    return loaded


@cache
def obstacle() -> str | None:
    """Why the library cannot be used, None where it can."""
    try:
        library()
    except OSError as e:
        log.warning("the selective scan runs in plain torch, about ten times slower: %s", e)
        return str(e)
    return None


@cache
def instruction_sets() -> dict[str, int]:
    """The variants that this processor can run, the fastest first, and their numbers in the library."""
    names = takewhile(bool, map(library().scan_name, count()))
    return {name.decode(): number for number, name in enumerate(names) if library().scan_runs(number)}


def instruction_set() -> str:
    """The variant in use. Raises RuntimeError where the one that SCRIBBLEMAMBA_ISA asks for cannot run."""
    known = instruction_sets()
    name = os.environ.get(VARIABLE) or next(iter(known))
    if name not in known:
        raise RuntimeError(f"{VARIABLE}={name}, but this machine can run {', '.join(known)}")
    return name


def peak_fma(lanes: int, rounds: int) -> int:
    """Nothing but multiply-adds of so many lanes, for a benchmark to time; their number, 0 where there are none."""
    probe = library().scan_peak_fma
    probe.argtypes, probe.restype = [ctypes.c_int64, ctypes.c_int64], ctypes.c_int64
    return probe(lanes, rounds)


# Threads


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One a process: the threads of a parent do not survive a fork."""
    return ThreadPoolExecutor(threads, thread_name_prefix="scan")


def _run(kernel: Callable[[int, object, int, int], int], variant: int, scan: _Scan) -> None:
    """All tasks of a scan, each thread taking the next one; the result does not depend on the number of threads."""
    tasks = scan.batch * scan.groups * scan.slices
    elements = scan.batch * scan.groups * scan.directions * scan.length * scan.channels * scan.states
    threads = min(torch.get_num_threads(), tasks, 1 + elements // WORTH_A_THREAD)

    def work(first: int, last: int) -> int:
        return kernel(variant, ctypes.byref(scan), first, last)

    if threads == 1:
        failed = work(0, tasks)
    else:
        failed = any(list(_pool(os.getpid(), torch.get_num_threads()).map(work, range(tasks), range(1, tasks + 1))))
    if failed:
        raise MemoryError(f"no memory for the selective scan's work space; channels {scan.channels}, N {scan.states}")


# The two forms


def native_scan(
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
    order = torch.arange(u.shape[2])[None]  # (1, L)
    y, last = _scan(x, dt, A, B, C, D, bias, order, delta_softplus, return_last_state)
    y = y.flatten(2).transpose(1, 2)
    y = (y if z is None else y * F.silu(z.float())).to(u.dtype)
    return (y, last.transpose(2, 3).flatten(1, 2)) if return_last_state else y


def native_ss2d(
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
    """`trainer.networks.scan.ss2d_scan` without its checks of shapes."""
    _check_permutations(positions)
    y, _ = _scan(x.unsqueeze(2), dt, A, B, C, D, dt_bias, positions, True, False, dt_weight)
    return y.squeeze(2).to(x.dtype)


def _check_permutations(positions: Tensor) -> None:
    """(K, L): the kernel trusts them, a wrong one would have it write beyond its arrays."""
    length = positions.shape[1]
    inside = positions.min() >= 0 and positions.max() < length
    if not inside or not torch.zeros_like(positions).scatter_(1, positions, 1).all():
        raise ValueError(f"positions must be permutations of 0..{length - 1}")


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
    W: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """x (B, L, G, D), dt (B, L, Q, D) or, with W (Q, D, R), (B, L, Q, R), A (Q, D, N), B and C (B, L, Q, N),
    D and bias (Q, D), order (K, L), Q = G K
    -> y (B, L, G, D) and the last state (B, Q, N, D) or None; any strides, float32 inside."""
    D, bias = (A.new_zeros(A.shape[:2]) if t is None else t for t in (D, bias))
    x, dt, A, B, C, D, bias = tensors = [t.float() for t in (x, dt, A, B, C, D, bias)]
    if W is not None:
        tensors.append(W := W.float().contiguous())
    if any(t.device.type != "cpu" for t in [*tensors, order]):
        raise ValueError(
            f"all tensors of a scan must be on one device, got {', '.join(str(t.device) for t in tensors)}"
        )
    keep_starts = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if W is None and dt.stride() != torch.empty_like(dt).stride():  # its gradient is to lie as it does itself
        dt = dt.contiguous()
    dt, B, C = (t if _has_rows(t) else t.contiguous() for t in (dt, B, C))
    x, D, bias = (t.contiguous() for t in (x, D, bias))
    return _NativeScan.apply(x, dt, W, A, B, C, D, bias, order.contiguous(), softplus, keep_last, keep_starts)


def _has_rows(t: Tensor) -> bool:
    """(B, L, Q, D): one stride for batch and position together, and the last axis without gaps."""
    batch, length, _, last = t.shape
    return (last == 1 or t.stride(3) == 1) and (batch == 1 or t.stride(0) == length * _row_stride(t))


def _row_stride(t: Tensor) -> int:
    return t.stride(0) if t.shape[1] == 1 else t.stride(1)


class _NativeScan(torch.autograd.Function):
    """`_scan`, once all tensors are float32 and lie as the kernel wants them."""

    @staticmethod
    def forward(ctx, x, dt, W, A, B, C, D, bias, order, softplus: bool, keep_last: bool, keep_starts: bool):
        variant = instruction_sets()[instruction_set()]
        A = (A * math.log2(math.e)).transpose(1, 2).contiguous()  # (Q, N, D): the kernel's exponential is 2^x
        scan = _describe(x, dt, W, A, B, C, D, bias, order, softplus)
        scan.slices = -(-x.shape[3] // FORWARD_CHANNELS)
        y, last = torch.empty_like(x), x.new_empty(len(x), *A.shape) if keep_last else None
        starts = x.new_empty(library().scan_starts(variant, ctypes.byref(scan))) if keep_starts else None
        scan.point(y=y, last=last, starts=starts)
        _run(library().scan_forward, variant, scan)
        if keep_starts:
            ctx.save_for_backward(x, dt, W, A, B, C, D, bias, order, starts)
            ctx.variant, ctx.softplus = variant, softplus
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, dlast: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, starts = ctx.saved_tensors
        x, dt, W, A, *_ = inputs
        scan = _describe(*inputs, ctx.softplus)
        scan.slices = -(-x.shape[3] // (BACKWARD_CHANNELS if A.shape[1] > 1 else FORWARD_CHANNELS))
        dx, dA = torch.empty_like(x), x.new_empty(len(x), *A.shape)
        ddt = torch.empty_like(dt) if W is None else x.new_empty(scan.slices, *dt.shape)
        dW = None if W is None else x.new_empty(len(x), *W.shape)
        dB, dC = x.new_empty(2, scan.slices, *dt.shape[:3], A.shape[1])
        dD, dbias = x.new_empty(2, len(x), dt.shape[2], x.shape[3])
        dlast = None if dlast is None else dlast.contiguous()
        scan.point(starts=starts, dy=dy.contiguous(), dlast=dlast)
        scan.point(dx=dx, ddt=ddt, dW=dW, dA=dA, dB=dB, dC=dC, dD=dD, dbias=dbias)
        _run(library().scan_backward, ctx.variant, scan)
        dA, dB, dC, dD, dbias = map(_total, (dA, dB, dC, dD, dbias))
        if W is not None:
            ddt, dW = _total(ddt), _total(dW)
        return dx, ddt, dW, dA.transpose(1, 2), dB, dC, dD, dbias, *[None] * 4


def _total(parts: Tensor) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _describe(
    x: Tensor,
    dt: Tensor,
    W: Tensor | None,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    order: Tensor,
    softplus: bool,
) -> _Scan:
    (batch, length, groups, channels), rank = x.shape, 0 if W is None else W.shape[2]
    scan = _Scan(batch, length, groups, len(order), channels, A.shape[1], rank, 1, softplus)
    for name, t in (("dt", dt), ("b", B), ("c", C)):
        setattr(scan, f"{name}_row", _row_stride(t))
        setattr(scan, f"{name}_sequence", t.stride(2))
    scan.point(order=order, x=x, dt=dt, W=W, A=A, B=B, C=C, D=D, bias=bias)
    return scan
