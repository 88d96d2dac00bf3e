"""The selective scan: one signature, and the only place that decides which kernel runs.

Reference: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3.

Glossary: B batch, D channels, L length of the sequence, N size of the state, G groups of channels that share B and C.
"""

from torch import Tensor

from trainer.networks.scan.blocked import blocked_scan


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
    _check(u, delta, A, B, C)
    return blocked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
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


__all__ = ["selective_scan"]
