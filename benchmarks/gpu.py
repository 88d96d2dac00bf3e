"""Is the scan right on this GPU, how near is it to the GPU's limits, and how long would a training by the paper take?

    python benchmarks/gpu.py            on a CUDA machine: minutes; writes benchmarks/results/gpu-<device>-<date>.json
    python benchmarks/gpu.py --tune     also tries other tiles of the Triton kernel
    python benchmarks/gpu.py --tiny     anywhere, in seconds: the same on toys, Triton in its interpreter

Errors are the largest one over the largest value, against torch in float64 on the same numbers, for y and for every
gradient. Times are the median of several runs. The limits are measured here too: a copy, and exponentials in
registers. Whatever cannot run leaves its reason in the file.
"""

import dataclasses
import datetime
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from trainer.config import PRESETS, Config
from trainer.inference import autocast
from trainer.networks import build
from trainer.networks.scan import KERNELS, kernels
from trainer.networks.scan.gathered import gathered_ss2d
from trainer.networks.vss import K, directions
from trainer.objectives import OBJECTIVES, Batch
from trainer.run import new_optimiser
from trainer.sample import IGNORE

ITERATIONS = 30_000  # of the paper
CLASSES = 4
TOLERANCE = 5e-6  # float32 keeps 6e-8; a sum of a few hundred terms, of which the largest cancel, some 1e-6
NAMES = ("x", "dt", "A", "B", "C", "D", "dt_bias")  # the tensors of a scan


@dataclass(frozen=True)
class Sizes:
    """How much is measured. A shape is the number of channels and the side of the square of tokens."""

    shapes: tuple[tuple[int, int], ...] = ((192, 56), (384, 28), (768, 14), (1536, 7))  # of MambaUNet at 224 pixels
    states: tuple[int, ...] = (1, 16)
    batch: int = 24
    checked: int = 2  # of the batch, against float64
    pixels: int = 224
    size: str = "official"
    repeats: int = 20
    copied: int = 2**28  # floats
    rounds: int = 2**14  # of exponentials
    compiled: bool = True
    tiles: tuple[tuple[int, int, int], ...] = tuple(product((4, 8, 16), (16, 32, 64), (4, 8, 16, 32)))
    """Of the Triton kernel: positions of a chunk, channels, programs for each multiprocessor."""


TINY = Sizes(((6, 2),), (1, 4), 1, 1, 32, "small", 1, 2**16, 4, False, ((4, 16, 1),))


@dataclass(frozen=True)
class Options:
    """Check and time the scan and the training step."""

    tiny: bool = False
    """Toys, on a processor too."""
    tune: bool = False
    """Time Triton with other tiles."""
    out: Path = Path(__file__).parent / "results"
    """Folder of the JSON file."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        raise SystemExit("torch finds no CUDA device here; to try the script on a processor, add --tiny")
    if device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported
    results = measured(TINY if options.tiny else Sizes(), device, options.tune)
    options.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", results["device"].lower()).strip("-")
    file = options.out / f"gpu-{name}-{results['date']}{'-tiny' if options.tiny else ''}.json"
    file.write_text(json.dumps(rounded(results), indent=1) + "\n")
    print(f"{results['verdict']}\nwritten to {file}")


def measured(sizes: Sizes, device: str, tune: bool) -> dict[str, object]:
    """All there is to say; each part is printed as soon as it is known."""
    results: dict[str, object] = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "kernels": usable(device),
        "sizes": dataclasses.asdict(sizes),
    }
    parts = {"limits": limits, "errors": errors, "scans": scans, "steps": steps} | ({"tiles": tiles} if tune else {})
    for name, part in parts.items():
        results[name] = part(sizes, device, results["limits"]) if part is scans else part(sizes, device)
        print(name, json.dumps(rounded(results[name]), indent=1), flush=True)
    return results | {"verdict": verdict(results)}


def usable(device: str) -> dict[str, str]:
    """Each kernel of the device and "usable" or why not. On a processor, Triton's interpreter counts too."""
    found = {name: answer for name, answer in kernels(device).items() if name != "native"}
    if device == "cpu":
        found["triton"] = "usable" if find_spec("triton") else "triton is not installed"
    return found


def candidates(device: str) -> list[str]:
    return [name for name, answer in usable(device).items() if answer == "usable"]


def attempted(part: Callable[[], dict[str, object]]) -> dict[str, object]:
    """What it returns, or why it failed: one thing that a machine cannot do must not cost the rest."""
    try:
        return part()
    except Exception as e:  # a compiler's, a driver's, out of memory: anything, and all of it is told
        return {"reason": f"{type(e).__name__}: {str(e)[:500]}"}
    finally:
        torch.cuda.empty_cache()


# Time


def seconds(run: Callable[[], object], device: str, repeats: int) -> float:
    """The median, after a few runs to warm up."""
    for _ in range(min(3, repeats)):
        run()
    return statistics.median((once_on_cuda if device == "cuda" else once)(run) for _ in range(repeats))


def once(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def once_on_cuda(run: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3


# Limits of the machine


def limits(sizes: Sizes, device: str) -> dict[str, object]:
    """Bytes a second of a copy, read and written; exponentials a second."""
    return {"bytes": attempted(lambda: copied(sizes, device)), "exponentials": attempted(lambda: raised(sizes, device))}


def copied(sizes: Sizes, device: str) -> dict[str, object]:
    source = torch.ones(sizes.copied, device=device)
    target = torch.empty_like(source)
    return {"per_second": 2 * 4 * sizes.copied / seconds(lambda: target.copy_(source), device, sizes.repeats)}


def raised(sizes: Sizes, device: str) -> dict[str, object]:
    from exp_probe import exponentials  # needs triton

    run, number = exponentials(sizes.rounds, device)
    return {"per_second": number / seconds(run, device, sizes.repeats)}


# The scan


def errors(sizes: Sizes, device: str) -> dict[str, object]:
    """{shape: {kernel: {"y": error, ...}}} of the fused form, in float32."""
    return {
        label: {name: attempted(partial(compared, name, shape, sizes.checked, device)) for name in candidates(device)}
        for label, shape in shapes(sizes)
    }


def compared(kernel: str, shape: tuple[int, int, int], batch: int, device: str) -> dict[str, object]:
    tensors, positions = numbers(shape, batch, device, torch.float32)
    got = outcome(KERNELS[kernel][1], tensors, positions)
    expected = outcome(gathered_ss2d, [t.double() for t in tensors], positions)
    found = {
        name: ((a.double() - b).abs().max() / b.abs().max()).item()
        for name, a, b in zip(("y", *NAMES), got, expected, strict=True)
    }
    return found | {"right": all(error <= TOLERANCE for error in found.values())}


def outcome(scan: Callable, tensors: list[Tensor], positions: Tensor) -> list[Tensor]:
    """y and the gradients of a weighted sum of it."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = scan(*tensors, positions)
    asked = torch.linspace(-1, 2, y.numel(), dtype=y.dtype, device=y.device).view(y.shape)
    return [y.detach(), *torch.autograd.grad(y, tensors, asked)]


def scans(sizes: Sizes, device: str, known: dict[str, dict[str, float]]) -> dict[str, object]:
    """{shape: {dtype: {kernel: times and the fractions of the limits}}}"""
    return {
        label: {
            str(dtype).removeprefix("torch."): {
                name: attempted(partial(timed, name, shape, dtype, sizes, device, known)) for name in candidates(device)
            }
            for dtype in (torch.bfloat16, torch.float32)
        }
        for label, shape in shapes(sizes)
    }


def timed(
    kernel: str, shape: tuple[int, int, int], dtype: torch.dtype, sizes: Sizes, device: str, known: dict
) -> dict[str, object]:
    """Seconds of forward, and of both; and how many of these a machine at its limits would need at the least.

    Backward needs every exponential twice, once for the states and once for the gradient, forward once.
    """
    tensors, positions = numbers(shape, sizes.batch, device, dtype)
    scan, repeats = KERNELS[kernel][1], sizes.repeats if kernel != "torch" else min(3, sizes.repeats)
    with torch.no_grad():
        forward = seconds(lambda: scan(*tensors, positions), device, repeats)
    both = seconds(lambda: outcome(scan, tensors, positions), device, repeats)
    elements = tensors[1].numel() * shape[2]
    moved = sum(t.numel() * t.element_size() for t in (tensors[0], *tensors))  # and y, as large as x
    found = {"forward": forward, "both": both, "ns_per_element": 1e9 * both / elements}
    for limit, least in (("bytes", 3 * moved), ("exponentials", 3 * elements)):
        if "per_second" in known[limit]:
            found[f"fraction_of_{limit}"] = least / known[limit]["per_second"] / both
    return found


def tiles(sizes: Sizes, device: str) -> dict[str, object]:
    """{shape: {"T 8, channels 16, programs 8": seconds of forward and backward}} of Triton in bfloat16."""
    found: dict[str, dict[str, object]] = {}
    for label, shape in shapes(sizes):
        tensors, positions = numbers(shape, sizes.batch, device, torch.bfloat16)
        run = partial(outcome, KERNELS["triton"][1], tensors, positions)
        found[label] = {
            f"T {T}, channels {channels}, programs {programs}": attempted(
                partial(tiled, run, (T, channels, programs), device, sizes.repeats)
            )
            for T, channels, programs in sizes.tiles
        }
    return found


def tiled(run: Callable[[], object], tile: tuple[int, int, int], device: str, repeats: int) -> dict[str, object]:
    from trainer.networks.scan import triton_kernel  # needs triton

    T, channels, programs = tile
    before = triton_kernel.tile, triton_kernel.PROGRAMS

    def other(D: int, N: int) -> triton_kernel.Tile:
        states = before[0](D, N).states
        return triton_kernel.Tile(T, channels, states, max(1, channels * states // 256))

    triton_kernel.tile, triton_kernel.PROGRAMS = other, programs
    try:
        return {"both": seconds(run, device, repeats)}
    finally:
        triton_kernel.tile, triton_kernel.PROGRAMS = before


def shapes(sizes: Sizes) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """D, the side of the square, N"""
    for D, side in sizes.shapes:
        for N in sizes.states:
            yield f"D {D} L {side * side} N {N}", (D, side, N)


def numbers(shape: tuple[int, int, int], batch: int, device: str, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """x, dt, A, B, C, D and dt_bias as a network begins, and the four ways across a square."""
    (D, side, N), L = shape, shape[1] ** 2
    generator = torch.Generator(device).manual_seed(0)
    sizes = ((batch, L, D), (batch, L, K, D), (batch, L, K, N), (batch, L, K, N))
    x, dt, B, C = (torch.randn(size, generator=generator, device=device).to(dtype) for size in sizes)
    A = -torch.arange(1.0, N + 1, device=device).repeat(K, D, 1)
    tensors = [x, dt, A, B, C, torch.ones(K, D, device=device), torch.full((K, D), -4.0, device=device)]
    return tensors, directions(side, side, torch.device(device))


# The training step


def steps(sizes: Sizes, device: str) -> dict[str, object]:
    """{variant: seconds a step, and minutes of the paper's run}; the three networks teach each other."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        for compiled in (False, True):
            for captured in (False, True):
                variant = " ".join([dtype, *["compiled"] * compiled, *["captured"] * captured])
                found[variant] = attempted(partial(stepped, sizes, device, dtype, compiled, captured))
    return found


def stepped(sizes: Sizes, device: str, dtype: str, compiled: bool, captured: bool) -> dict[str, object]:
    if compiled and not sizes.compiled:
        raise RuntimeError("toys are not compiled: it takes minutes")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = new_step(sizes, device, dtype, compiled)
    took = seconds(capture(step) if captured else step, device, sizes.repeats)
    found = {"seconds": took, "iterations_per_second": 1 / took, "minutes_of_the_paper": took * ITERATIONS / 60}
    return found | ({"gibibytes": torch.cuda.max_memory_allocated() / 2**30} if device == "cuda" else {})


def new_step(sizes: Sizes, device: str, dtype: str, compiled: bool) -> Callable[[], None]:
    """A step as `trainer.run` takes it, on numbers that stay on the device."""
    config = dataclasses.replace(PRESETS["paper"], size=sizes.size, device=device, dtype=dtype)
    torch.manual_seed(0)
    networks = {name: build(name, 1, CLASSES, config.size).to(device).train() for name in config.names}
    optimisers = [new_optimiser(network, config) for network in networks.values()]
    forward = {name: torch.compile(network) if compiled else network for name, network in networks.items()}
    batch = numbers_of_a_batch(sizes, device)

    def step() -> None:
        for optimiser in optimisers:
            optimiser.zero_grad()
        sum(losses(forward, batch, config).values()).backward()
        for optimiser in optimisers:
            optimiser.step()

    return step


def losses(networks: dict[str, nn.Module | Callable], batch: Batch, config: Config) -> dict[str, Tensor]:
    with autocast(config, batch.image.device):
        logits = {name: network(batch.image) for name, network in networks.items()}
    return OBJECTIVES[config.objective].loss(logits, batch, config, [1 / len(logits)] * len(logits), 0.5)


def numbers_of_a_batch(sizes: Sizes, device: str) -> Batch:
    """Noise, and a stroke of each class."""
    shape = (sizes.batch, sizes.pixels, sizes.pixels)
    image = torch.randn(sizes.batch, 1, *shape[1:], device=device)
    target = torch.full(shape, IGNORE, dtype=torch.int64, device=device)
    for c in range(CLASSES):
        target[:, 4 * c + 2, 2:-2] = c
    return Batch(image, target)


def capture(step: Callable[[], None]) -> Callable[[], None]:
    """The step as one CUDA graph: all of its kernels in one launch."""
    if not torch.cuda.is_available():
        raise RuntimeError("CUDA graphs need a CUDA device")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


# In words


def rounded(value: object) -> object:
    """Four digits of each number: more are not known."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def verdict(results: dict[str, dict]) -> str:
    wrong = [
        f"{kernel} at {shape}"
        for shape, found in results["errors"].items()
        for kernel, answer in found.items()
        if not answer.get("right")
    ]
    times = {name: answer["minutes_of_the_paper"] for name, answer in results["steps"].items() if "seconds" in answer}
    lines = [f"wrong: {', '.join(wrong)}" if wrong else "every kernel that can run is right"]
    if times:
        best = min(times, key=times.get)
        lines.append(f"{ITERATIONS} iterations: {times[best]:.1f} minutes ({best})")
    return "; ".join(lines)


if __name__ == "__main__":
    main()
