"""How long a scan takes, forward and backward: the C kernel against plain torch, through `ss2d_scan`.

    python benchmarks/scan.py

One thread, CPU time, the least of several runs that take turns. A scan element is one of batch, directions, channels,
positions and states. Only the ratios mean something on another machine.
"""

import os
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainer.networks.scan import VARIABLE, kernels, native, ss2d_scan

K = 4  # directions
SHAPES = {  # B, D, L, N
    "mambaunet 14 x 14": (1, 768, 196, 16),
    "mambaunet 28 x 28": (1, 384, 784, 16),
    "mambaunet 56 x 56": (1, 192, 3136, 16),
    "interactive 32 x 32": (4, 32, 1024, 4),
    "one state": (1, 192, 3136, 1),
}
SECONDS = 1.0  # for each kernel and shape


def main() -> None:
    torch.set_num_threads(1)
    print(kernels(), native.instruction_set())
    for name, shape in SHAPES.items():
        elements = K * shape[0] * shape[1] * shape[2] * shape[3]
        times = least({kernel: step(kernel, *shape) for kernel in ("native", "torch")})
        nanoseconds = {kernel: f"{1e9 * t / elements:.3f} ns" for kernel, t in times.items()}
        print(f"{name:20} {nanoseconds}, ratio {times['torch'] / times['native']:.1f}")


def step(kernel: str, B: int, D: int, L: int, N: int) -> Callable[[], None]:
    """Forward and backward of one scan by one kernel."""
    tensors = [t.requires_grad_() for t in numbers(B, D, L, N)]
    positions = walks(L)
    asked = torch.randn(B, L, D)

    def run() -> None:
        os.environ[VARIABLE] = kernel
        torch.autograd.grad(ss2d_scan(*tensors, positions), tensors, asked)

    return run


def numbers(B: int, D: int, L: int, N: int) -> Iterator[Tensor]:
    """x, dt, A, B, C, D and dt_bias, as a network begins."""
    yield torch.randn(B, L, D)
    yield torch.randn(B, L, K, D)
    yield -torch.arange(1.0, N + 1).repeat(K, D, 1)
    yield torch.randn(B, L, K, N)
    yield torch.randn(B, L, K, N)
    yield torch.ones(K, D)
    yield torch.full((K, D), -4.0)


def walks(L: int) -> Tensor:
    """(K, L): the rows and the columns of a square, there and back."""
    rows = torch.arange(L)
    columns = rows.view(round(L**0.5), -1).T.flatten()
    return torch.stack([rows, columns, rows.flip(0), columns.flip(0)])


def least(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Seconds of CPU time, each run's least."""
    for run in runs.values():
        run()
    times = {name: [] for name in runs}
    while sum(map(sum, times.values())) < SECONDS * len(runs):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
