"""Nothing but exponentials, in registers: how many a second a GPU can do, which no scan can exceed."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl

BLOCK, PROGRAMS = 1024, 4096


@triton.jit
def _exponentials(out, rounds, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = place.to(tl.float32) * 1e-9
    for _ in range(rounds):
        v = tl.exp2(-v)
    tl.store(out + place, v)


def exponentials(rounds: int, device: str) -> tuple[Callable[[], None], int]:
    """A run of them, and their number."""
    programs = PROGRAMS if device == "cuda" else 1
    out = torch.empty(programs * BLOCK, device=device)
    return lambda: _exponentials[(programs,)](out, rounds, BLOCK=BLOCK), rounds * programs * BLOCK
