"""mamba_ssm's CUDA kernel of the selective scan, behind our two forms. Optional: to install it takes a CUDA compiler.

Reference: https://github.com/state-spaces/mamba, `mamba_ssm.ops.selective_scan_interface`.
"""

from collections.abc import Callable
from functools import cache, reduce
from importlib import import_module

import torch
from torch import Tensor

from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.gathered import gathered_ss2d


@cache
def obstacle() -> str | None:
    """Why mamba_ssm cannot be imported, None where it can."""
    try:
        _selective_scan_fn()
    except ModuleNotFoundError as e:
        return f"{e.name} is not installed"
    except Exception as e:  # an extension that was compiled for another torch raises nearly anything
        return f"mamba_ssm does not import: {type(e).__name__}: {e}"
    return None


def _selective_scan_fn() -> Callable:
    return import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn


def mamba_ssm_scan(
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
    """`trainer.networks.scan.selective_scan` without its checks of shapes.

    All versions know these keywords. Their kernel wants one number format for what comes along L, and float32 for the
    rest; and it takes the last state for a constant, so where a gradient may come back through that, torch runs.
    """
    if return_last_state and torch.is_grad_enabled():
        return blocked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)
    along = [t for t in (u, delta, B, C, z) if t is not None]
    common = reduce(torch.promote_types, (t.dtype for t in along))
    u_, delta, B, C, z = (t if t is None else t.to(common) for t in (u, delta, B, C, z))
    A, D, delta_bias = (t if t is None else t.float() for t in (A, D, delta_bias))
    outcome = _selective_scan_fn()(
        u_,
        delta,
        A,
        B,
        C,
        D=D,
        z=z,
        delta_bias=delta_bias,
        delta_softplus=delta_softplus,
        return_last_state=return_last_state,
    )
    return (outcome[0].to(u.dtype), outcome[1]) if return_last_state else outcome.to(u.dtype)


def mamba_ssm_ss2d(*tensors: Tensor | None) -> Tensor:
    """`trainer.networks.scan.ss2d_scan` without its checks of shapes."""
    return gathered_ss2d(*tensors, scan=mamba_ssm_scan)
