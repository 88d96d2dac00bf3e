"""What the scan and a training step cost: python -m trainer.bench scan|step|memory|all [--out FILE.json] [--quick]

One torch thread, CPU time, the least of several runs that take turns. Only ratios of times of one report mean something
on another machine. The Blelloch scan is that of the package mambapy (pip install mambapy), left out where it is
missing. benchmarks/plot_bench.py draws a report.

Glossary: B batch, L positions, K = 4 directions, D channels of a direction, N size of the state; an element is one of
B K L D N. Nanoseconds are per element.
"""

import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from unittest.mock import patch

import psutil
import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.config import PRESETS
from trainer.files import replacing
from trainer.networks import AXES, NETWORKS, build, vss
from trainer.networks.scan import VARIABLE, kernels, native, selective_scan, ss2d_scan
from trainer.networks.scan.gathered import gathered_ss2d
from trainer.networks.scan.steps import wide_steps

console = Console(stderr=True)  # the report may go to the standard output

K = vss.K
SHAPES = {"56 x 56": (192, 3136), "28 x 28": (384, 784), "14 x 14": (768, 196), "7 x 7": (1536, 49)}  # D, L
STATES = (1, 16)
# Of vectors, for as many elements as they have lanes, 9 for an exponential or a logarithm: for each state; and once for
# all N of them, forward 1 for the bias, 22 for softplus, 2 for dt x and D x; backward these 23 again, 3 for softplus's
# slope, 9 for dt x, the gradients of x and dt, and the sums of those of D and the bias.
OPERATIONS = {"forward": 12, "both": 31}
OPERATIONS_OF_A_STEP = {"forward": 25, "both": 60}
LANES = {"avx512": 16, "avx2": 8, "sse2": 4, "neon": 4, "vector": 4}
CLASSES = 4
BLELLOCH_MEMORY = 5100  # MiB for each image of 224 pixels in a step of the official MambaUNet
TURN = 0.05  # seconds that short runs share in their turn

Run = Callable[[], object]
Times = dict[str, float]  # seconds of CPU time


@dataclass(frozen=True)
class Bench:
    """Measure the scan, training steps, or their memory, and write a JSON report."""

    what: Annotated[Literal["scan", "step", "memory", "all"], tyro.conf.Positional]
    """The selective scan alone, the training steps of the networks, their memory, or all of it."""
    out: Path | None = None
    """The report; without it, it is printed."""
    quick: bool = False
    """Small sizes, one turn: to see that everything runs."""


def main() -> None:
    options = tyro.cli(Bench, description=__doc__)
    report = bench(options)
    text = json.dumps(report, indent=1) + "\n"
    if options.out is None:
        print(text, end="")
        return
    with replacing(options.out) as file:
        file.write_text(text)
    console.print(f"{options.out}")


def bench(options: Bench) -> dict:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    report = {"date": date.today().isoformat(), "machine": machine(), "quick": options.quick}
    parts = {"scan": bench_scan, "step": bench_step, "memory": bench_memory}
    return report | {name: part(options.quick) for name, part in parts.items() if options.what in (name, "all")}


def machine() -> dict:
    return {
        "system": platform.platform(),
        "torch": torch.__version__,
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "kernels": kernels(),
        "instruction set": native.instruction_set() if native.obstacle() is None else None,
        "mambapy": "installed" if has_mambapy() else "not installed: no row for the Blelloch scan",
    }


def least(runs: dict[str, Run], turns: int) -> Times:
    """Each run's least time; they take turns, and a short one runs as often as fits into its turn."""
    times = dict.fromkeys(runs, math.inf)
    for _ in range(turns):
        for name, run in runs.items():
            begun = time.process_time()
            while True:
                start = time.process_time()
                run()
                times[name] = min(times[name], time.process_time() - start)
                if turns == 1 or time.process_time() - begun > TURN:
                    break
    return times


def ratios(times: Times, to: str) -> Times:
    return {name: rounded(seconds / times[to]) for name, seconds in times.items() if name != to}


def rounded(value: float) -> float:
    """Three digits: the rest is noise."""
    return float(f"{value:.3g}")


# The scan


def bench_scan(quick: bool) -> dict:
    shapes = {"4 x 4": (16, 16)} if quick else SHAPES
    return {f"{name}, N {N}": scan_figures(D, L, N, quick) for N in STATES for name, (D, L) in shapes.items()}


def scan_figures(D: int, L: int, N: int, quick: bool) -> dict:
    """Nanoseconds an element of every scan and floor; and as multiples of our fastest, and that of the floors."""
    console.print(f"scan: {K} directions, D {D}, L {L}, N {N}", style="dim")
    best = f"{usable()[0]} fused"
    runs, turns = scans(numbers(1, D, L, N), square(L)), 1 if quick else 3
    forward = least({name: forward_of(*run) for name, run in runs.items()}, turns)
    both = least({name: both_of(*run) for name, run in runs.items()}, turns)
    figures = {"elements": K * D * L * N}
    for direction, times in (("forward", forward), ("both", both)):
        floor = floors(direction, D, L, N, quick)
        every = times | {f"floor: {name}": seconds for name, seconds in floor.items()}
        figures[direction] = {
            "nanoseconds": {name: rounded(1e9 * t / figures["elements"]) for name, t in every.items()},
            f"times {best}": ratios(times, best),
            f"{best} times the floor": {name: rounded(times[best] / t) for name, t in floor.items()},
            "the floor that binds": max(floor, key=floor.get),
        }
    return figures


def numbers(B: int, D: int, L: int, N: int) -> list[Tensor]:
    """x, dt, A, B, C, D and dt_bias of `ss2d_scan`, as a network begins."""
    tensors = [
        torch.randn(B, L, D),
        torch.randn(B, L, K, D),
        -torch.arange(1.0, N + 1).repeat(K, D, 1),
        torch.randn(B, L, K, N),
        torch.randn(B, L, K, N),
        torch.ones(K, D),
        torch.full((K, D), -4.0),
    ]
    return [t.requires_grad_() for t in tensors]


def square(L: int) -> Tensor:
    return vss.directions(math.isqrt(L), math.isqrt(L), torch.device("cpu"))


def scans(tensors: list[Tensor], positions: Tensor) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Every scan and its arguments, laid out as it likes them; only the fused ones walk through `positions`."""
    x, dt, A, B, C, D, bias = tensors
    dt, B, C = (t[:, positions.T, torch.arange(K)] for t in (dt, B, C))  # each direction in its own order
    walked = [x[:, positions.T], dt, A, B, C, D, bias]  # (B, L, K, D)
    u, delta = (t.flatten(2).transpose(1, 2) for t in walked[:2])  # (B, K D, L)
    sequences = [u, delta, A.flatten(0, 1), B.permute(0, 2, 3, 1), C.permute(0, 2, 3, 1), D.flatten(), bias.flatten()]
    walked, sequences = ([t.detach().contiguous().requires_grad_() for t in ts] for ts in (walked, sequences))
    found = {}
    for name in usable():
        found[f"{name} fused"] = forced(name, lambda *ts: ss2d_scan(*ts, positions)), tensors
        found[f"{name} selective_scan"] = forced(name, of_sequences), sequences
    if has_mambapy():
        found["blelloch"] = blelloch_scan, walked
    return found | {"plain loop": (plain_scan, walked)}


def usable() -> list[str]:
    """Our kernels that run on this processor."""
    return [name for name in ("native", "torch") if kernels()[name] == "usable"]


def of_sequences(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    return selective_scan(u, delta, A, B, C, D, None, bias, True)


def forced(kernel: str, scan: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*tensors: Tensor) -> Tensor:
        with patch.dict(os.environ, {VARIABLE: kernel}):
            return scan(*tensors)

    return run


def forward_of(scan: Callable[..., Tensor], tensors: list[Tensor]) -> Run:
    """As in training: what backward needs is kept."""
    return lambda: scan(*tensors)


def both_of(scan: Callable[..., Tensor], tensors: list[Tensor]) -> Run:
    with torch.no_grad():
        asked = torch.randn_like(scan(*tensors))
    return lambda: torch.autograd.grad(scan(*tensors), tensors, asked)


# What it is compared with: x, dt (B, L, K, D), A (K, D, N), B, C (B, L, K, N), D, bias (K, D) -> y (B, L, K, D)


def plain_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """Position by position, as the formula says."""
    step = F.softplus(dt + bias)
    h, y = torch.zeros(x.shape[0], *A.shape), []
    for x_l, d_l, B_l, C_l in zip(*(t.unbind(1) for t in (x, step, B, C)), strict=True):
        h = torch.exp(d_l[..., None] * A) * h + (d_l * x_l)[..., None] * B_l[:, :, None]
        y.append((h * C_l[:, :, None]).sum(-1))
    return torch.stack(y, 1) + D * x


def has_mambapy() -> bool:
    return importlib.util.find_spec("mambapy") is not None


def blelloch_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor) -> Tensor:
    """As mambapy does it: all factors at once, then a tree over the positions."""
    from mambapy.pscan import pscan

    step = F.softplus(dt + bias)
    decay = torch.exp(step[..., None] * A)  # (B, L, K, D, N)
    gain = (step * x)[..., None] * B[:, :, :, None]
    h = pscan(decay.flatten(2, 3), gain.flatten(2, 3)).unflatten(2, (K, -1))
    return (h @ C[..., None]).squeeze(4) + D * x


# The floors


def floors(direction: str, D: int, L: int, N: int, quick: bool) -> Times:
    """Seconds below which no such scan can stay: of the memory that it must touch, and of its arithmetic, of the states
    alone and with what is computed once for all of them, which at N = 1 is most of it."""
    rate, lanes = peak_rate(quick)
    bytes_moved = 4 * L * D * {"forward": K + 2, "both": 3 * K + 5}[direction]  # x, dt, y; again, dy, dx, ddt
    found = {"memory": bytes_moved / copy_rate(bytes_moved, quick)}
    if rate:
        states, step = OPERATIONS[direction] * N, OPERATIONS_OF_A_STEP[direction]
        found["arithmetic"] = states * K * D * L / lanes / rate
        found["arithmetic with softplus"] = (states + step) * K * D * L / lanes / rate
    return found


def peak_rate(quick: bool) -> tuple[float, int]:
    """Vector multiply-adds a second, and the lanes of a vector, of the instruction set in use; 0 where unknown."""
    lanes = LANES.get(native.instruction_set(), 0) if native.obstacle() is None else 0
    rounds = 10_000 if quick else 1_000_000
    count = native.peak_fma(lanes, 1) * rounds if lanes else 0
    seconds = least({"peak": lambda: native.peak_fma(lanes, rounds)}, 3)["peak"] if count else 1.0
    return count / seconds, lanes


def copy_rate(size: int, quick: bool) -> float:
    """Bytes read and written a second by torch's copy between two arrays that together have this size."""
    source, target = torch.randn(2, size // 8)
    return size / least({"copy": lambda: target.copy_(source)}, 1 if quick else 3)["copy"]


# The training steps: forward, a loss, backward; no optimiser


def bench_step(quick: bool) -> dict:
    report = {size: step_figures(size, quick) for size in ("small", "official")}
    return report | {"mambaunet": mambaunet_figures(quick)}


def step_figures(size: str, quick: bool) -> dict:
    """Milliseconds of each network, and how many times the UNet's that is."""
    batch, pixels = step_shape(size, quick)
    console.print(f"steps: the {size} networks, batch {batch}, {pixels} pixels", style="dim")
    names = [name for name in NETWORKS if 2 in AXES.get(name, (2,))]
    names = PRESETS["interactive"].networks if quick else names
    runs = {name: step_of(new_network(name, "small" if quick else size), batch, pixels) for name in names}
    times = least(runs, 1 if quick else 3)
    return {"batch": batch, "pixels": pixels, "milliseconds": milliseconds(times), "times unet": ratios(times, "unet")}


def step_shape(size: str, quick: bool) -> tuple[int, int]:
    if quick:
        return 1, 32
    return (4, 128) if size == "small" else (1, 224)


def milliseconds(times: Times) -> Times:
    return {name: rounded(1e3 * seconds) for name, seconds in times.items()}


def new_network(name: str, size: str) -> nn.Module:
    return build(name, 1, CLASSES, size=size).to(memory_format=torch.channels_last).train()


def step_of(network: nn.Module, batch: int, pixels: int) -> Run:
    image = torch.randn(batch, 1, pixels, pixels)
    target = torch.randint(CLASSES, (batch, pixels, pixels))

    def run() -> None:
        network.zero_grad()
        outputs = network(image)
        outputs = outputs if isinstance(outputs, list) else [outputs]  # of several decoders
        sum(F.cross_entropy(logits, target) for logits in outputs).backward()

    return run


# MambaUNet with other scans


def mambaunet_figures(quick: bool) -> dict:
    """The official MambaUNet's step with each scan and with none, in our layout and in the published one."""
    batches = (1,) if quick else (1, 2)
    return {f"batch {batch}": mambaunet_step(batch, quick) for batch in batches}


def mambaunet_step(batch: int, quick: bool) -> dict:
    console.print(f"steps: mambaunet, batch {batch}, with other scans", style="dim")
    names = [name for name in VARIANTS if offered(name) and (batch == 1 or name not in SLOW)]
    size, pixels = ("small", 32) if quick else ("official", 224)
    ours = new_network("mambaunet", size)
    theirs = new_network("mambaunet", size).to(memory_format=torch.contiguous_format)
    networks = {name: theirs if name == "no scan, published layout" else ours for name in names}
    times = least({name: varied(name, step_of(networks[name], batch, pixels)) for name in names}, 1 if quick else 3)
    best = usable()[0]
    over = {name: rounded(times[best] / seconds) for name, seconds in times.items() if name != best}
    return {"pixels": pixels, "milliseconds": milliseconds(times), f"{best} over": over}


def offered(name: str) -> bool:
    return has_mambapy() if name == "blelloch" else name in usable() or name.startswith("no scan")


def varied(name: str, run: Run) -> Run:
    """The run, with the scan of that name in MambaUNet."""

    def wrapped() -> None:
        with VARIANTS[name]():
            run()

    return wrapped


def with_kernel(name: str) -> Callable:
    return lambda: patch.dict(os.environ, {VARIABLE: name})


def with_blelloch() -> Callable:
    return patch.object(vss, "ss2d_scan", lambda *tensors: gathered_ss2d(*tensors, scan=blelloch_sequences))


def with_no_scan() -> Callable:
    """The projection of the steps stays, as it does in the published layout."""

    def none(*tensors: Tensor) -> Tensor:
        x, dt, *others, _positions, weight = tensors
        return _NoScan.apply(x, wide_steps(dt, weight), *others)

    return patch.object(vss, "ss2d_scan", none)


def published_layout() -> Callable:
    return patch.object(vss.SS2D, "forward", published_forward)


VARIANTS: dict[str, Callable] = {  # each gives a context
    "native": with_kernel("native"),
    "torch": with_kernel("torch"),
    "blelloch": with_blelloch,
    "no scan, our layout": with_no_scan,
    "no scan, published layout": published_layout,
}
SLOW = ("torch", "blelloch")


def blelloch_sequences(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, _z: None, bias: Tensor, *_: bool
) -> Tensor:
    """`blelloch_scan` as `gathered_ss2d` calls a scan."""
    x, dt = (t.transpose(1, 2).unflatten(2, (K, -1)) for t in (u, delta))
    B, C = (t.permute(0, 3, 1, 2) for t in (B, C))
    A, D, bias = (t.unflatten(0, (K, -1)) for t in (A, D, bias))
    return blelloch_scan(x, dt, A, B, C, D, bias).flatten(2).transpose(1, 2)


class _NoScan(torch.autograd.Function):
    """y = x, and gradients of 0 for all else, so that what leads to them is computed all the same."""

    @staticmethod
    def forward(ctx, x: Tensor, *others: Tensor) -> Tensor:
        ctx.others = [(t.shape, t.device) for t in others]
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, ...]:
        return dy, *(torch.zeros(shape, device=device) for shape, device in ctx.others)


def published_forward(self: vss.SS2D, x: Tensor, scan: Callable[..., Tensor] = _NoScan.apply) -> Tensor:
    """SS2D.forward by way of a scan of sequences (B, K E, L): stack, flip and transpose, there and back."""
    H, W = x.shape[1:3]
    x, z = self.in_proj(x).chunk(2, dim=-1)
    x = F.silu(self.conv2d(x.permute(0, 3, 1, 2).contiguous()))  # (B, E, H, W)
    there = torch.stack([x.flatten(2), x.transpose(2, 3).flatten(2)], 1)
    u = torch.cat([there, there.flip(-1)], 1)  # (B, K, E, L)
    rates = torch.einsum("bkel,kce->bkcl", u, self.x_proj_weight)
    dt, B, C = rates.split([self.rank, self.d_state, self.d_state], dim=2)
    dt = torch.einsum("bkrl,ker->bkel", dt, self.dt_projs_weight).contiguous()
    A, bias = -self.A_logs.float().exp(), self.dt_projs_bias.flatten()
    y = scan(u.flatten(1, 2), dt.flatten(1, 2), A, B.contiguous(), C.contiguous(), self.Ds, bias)
    y = y.unflatten(1, (K, -1))
    back = y[:, 2:].flip(-1)
    columns, columns_back = (t.unflatten(2, (W, H)).transpose(2, 3).flatten(2) for t in (y[:, 1], back[:, 1]))
    y = y[:, 0] + back[:, 0] + columns + columns_back  # (B, E, L)
    y = y.transpose(1, 2).contiguous().unflatten(1, (H, W))
    return self.out_proj(self.out_norm(y) * F.silu(z))


# Memory


def bench_memory(quick: bool) -> dict:
    """MiB that a step needs beyond network and images, at its peak; each in a process of its own."""
    console.print("memory of a step", style="dim")
    if quick:
        return {"unet small, batch 1": memory_of("unet", "small", 1, usable()[0], quick)}
    sizes, names = ("small", "official"), PRESETS["interactive"].networks
    found = {
        f"{name} {size}, batch 4": memory_of(name, size, 4, usable()[0], quick) for size in sizes for name in names
    }
    return found | {"mambaunet official, batch 4, by scan": memory_by_scan(4)}


def memory_by_scan(batch: int) -> dict:
    """Of the official MambaUNet: ours, torch's, and Blelloch's where there is memory for it."""
    found: dict[str, object] = {name: memory_of("mambaunet", "official", batch, name, False) for name in usable()}
    if has_mambapy():
        needed, free = batch * BLELLOCH_MEMORY + 512, free_memory()  # and torch itself
        found["blelloch"] = f"left out: it needs {needed} MiB, {free} are free"
        if needed <= free:
            found["blelloch"] = memory_of("mambaunet", "official", batch, "blelloch", False)
            found["blelloch over " + usable()[0]] = rounded(found["blelloch"] / found[usable()[0]])
    return found


def free_memory() -> int:
    """MiB that a new process can have."""
    return psutil.virtual_memory().available // 2**20


def memory_of(name: str, size: str, batch: int, scan: str, quick: bool) -> int:
    call = f"from trainer.bench import print_memory; print_memory({name!r}, {size!r}, {batch}, {scan!r}, {quick})"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the step of {name} {size}, batch {batch}, scan {scan}, failed: {done.stderr[-500:]}")
    return int(done.stdout)


def print_memory(name: str, size: str, batch: int, scan: str, quick: bool) -> None:
    """In a process of its own: the MiB by which one step raises the peak."""
    torch.set_num_threads(1)
    run = varied(scan, step_of(new_network(name, size), batch, step_shape(size, quick)[1]))
    before = peak_memory()
    run()
    print(round((peak_memory() - before) / 2**20))


def peak_memory() -> int:
    """Bytes of this process at its peak. Of Linux's two counts this one does not include the parent's."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
