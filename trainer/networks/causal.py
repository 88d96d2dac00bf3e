"""The short causal convolution in front of a Mamba layer's scan: torch's, or causal-conv1d's kernel where it is sound.

Reference: https://github.com/Dao-AILab/causal-conv1d; optional: to install it takes a CUDA compiler.

Glossary: B batch, E channels, L length, W width of the filters.
"""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks.scan.selftest import TOLERANCE, compare, first_beyond

WIDTHS = (2, 3, 4)  # of the filters that causal-conv1d knows


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(B, E, L), (E, 1, W), (E,) -> SiLU of each channel's convolution with what is at and before each position."""
    if obstacle(x.device, x.dtype, weight.shape[2]) is None:
        return vendor_conv(x, weight, bias)
    return plain_conv(x, weight, bias)


def plain_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    channels, _, width = weight.shape
    return F.silu(F.conv1d(x, weight, bias, padding=width - 1, groups=channels)[..., : x.shape[2]])  # cut: causal


def vendor_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.shape[1] % 8:  # its kernel for channels that lie together wants eight at a time
        x = x.contiguous()
    return _causal_conv1d_fn()(x, weight.squeeze(1), bias=bias, activation="silu")


def obstacle(device: torch.device | str, dtype: torch.dtype = torch.float32, width: int = 4) -> str | None:
    """Why causal-conv1d cannot run there, None where it can."""
    if torch.device(device).type != "cuda":
        return f"it runs on CUDA, not on {torch.device(device).type}"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device"
    if dtype == torch.float64:
        return "it computes in float32, not in float64"
    if width not in WIDTHS:
        return f"its filters are 2 to 4 wide, not {width}"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "it cannot be compiled or exported"
    return _missing() or _flaw(str(device))


@cache
def _missing() -> str | None:
    try:
        _causal_conv1d_fn()
    except ModuleNotFoundError as e:
        return f"{e.name} is not installed"
    except Exception as e:  # an extension that was compiled for another torch raises nearly anything
        return f"causal_conv1d does not import: {type(e).__name__}: {e}"
    return None


def _causal_conv1d_fn() -> Callable[..., Tensor]:
    return import_module("causal_conv1d").causal_conv1d_fn


@cache
def _flaw(device: str) -> str | None:
    """What the self-test says of the kernel, found out at its first use, and said aloud once."""
    try:
        mismatch = find_mismatch(device)
    except Exception as e:  # a vendor's kernel raises anything
        mismatch = f"{type(e).__name__}: {e}"
    if mismatch is None:
        return None
    flaw = f"its self-test failed: {mismatch}"
    warnings.warn(f"causal-conv1d is not used on {device}, {flaw}; please report this", stacklevel=2)
    return flaw


@torch.inference_mode(False)
@torch.enable_grad()
def find_mismatch(device: str) -> str | None:
    """Compare the kernel with torch in float64 on a tiny case. Returns what differs, or None."""
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator).to(device) for shape in ((2, 16, 19), (16, 1, 4), (16,))]
    return first_beyond(TOLERANCE, compare(vendor_conv, plain_conv, ("x", "weight", "bias"), tensors))
