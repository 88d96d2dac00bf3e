"""What runs here, and how fast: python -m trainer.doctor [--device cpu] [--quick]

Prints the device, torch, threads, memory, which kernels of the scan and of the convolution in front of it are usable,
how far off they are, and why the others are not; and the steps a second of each network at the sizes of the presets.
"""

import dataclasses
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from trainer.config import PRESETS, Config

console = Console()
GIBIBYTE = 2**30
PATIENCE = 20.0  # seconds that measuring one network at one size may take


@dataclass(frozen=True)
class Doctor:
    """Say what works on this machine, and how fast it trains."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    quick: bool = False
    """Leave out the measurements."""


def main() -> None:
    try:
        doctor(tyro.cli(Doctor, description=__doc__))
    except ValueError as e:
        sys.exit(f"trainer.doctor: {e}")


def doctor(options: Doctor) -> None:
    from trainer.machine import settled

    config = settled(dataclasses.replace(PRESETS["interactive"], device=options.device))
    about_the_machine(config)
    about_the_kernels(config)
    if not options.quick:
        about_the_speed(config)


def about_the_machine(config: Config) -> None:
    import torch

    import trainer

    folder = Path(trainer.__file__).parent
    say("trainer", str(folder))
    if not (folder / "networks").is_dir():
        console.print("[red]this is another package of the name trainer; uninstall it (pip uninstall trainer)[/red]")
    say("python", f"{platform.python_version()} on {platform.platform()}")
    say("torch", f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}")
    say("device", config.device + device_name(config.device))
    say("numbers", config.dtype + bfloat16_speed(config.device))
    say("threads", f"{config.threads} of {os.cpu_count()} cores")
    say("memory", memory(config.device))


def say(what: str, text: str) -> None:
    """One line, however long; what a machine or a driver answered is not markup."""
    console.print(f"{what:14}{text}", soft_wrap=True, markup=False, highlight=False)


def device_name(device: str) -> str:
    import torch

    return f" ({torch.cuda.get_device_name(device)})" if device.startswith("cuda") else ""


def bfloat16_speed(device: str) -> str:
    """What `trainer.machine.best_dtype` goes by on a processor."""
    from trainer.machine import bfloat16_gain

    return f", as bfloat16 runs {bfloat16_gain():.2g} times as fast as float32" if device == "cpu" else ""


def memory(device: str) -> str:
    import psutil
    import torch

    ram = psutil.virtual_memory()
    found = f"{ram.available / GIBIBYTE:.1f} GiB free of {ram.total / GIBIBYTE:.1f}"
    if device.startswith("cuda"):
        free, total = torch.cuda.mem_get_info(device)
        found += f"; of the GPU {free / GIBIBYTE:.1f} GiB free of {total / GIBIBYTE:.1f}"
    return found


def about_the_kernels(config: Config) -> None:
    from trainer.networks import causal
    from trainer.networks.scan import SEQUENCES, kernel_name, kernels

    sequences = kernel_name(config.device, SEQUENCES)
    where = "" if sequences == config.kernel else f" for images, on {sequences} for sequences"
    say("\nthe scan runs on: ", config.kernel + where)
    for name, state in kernels(config.device).items():
        say(f"  {name}", known(name, config.device) if state == "usable" else state)
    obstacle = causal.obstacle(config.device)
    say("the convolution in front of it runs on: ", "torch" if obstacle else "causal-conv1d")
    say("  causal-conv1d ", f"{obstacle or 'usable'}\n")


def known(name: str, device: str) -> str:
    """Of a usable kernel."""
    from trainer.networks.scan import kernel_error, native

    variant = f", with {native.instruction_set()}" if name == "native" else ""
    return f"usable{variant}; off by {kernel_error(name, device):.0e} of the largest value in its self-test"


def about_the_speed(config: Config) -> None:
    """Steps a second of each network, one at a time, and what that means for who waits."""
    table = Table("network", "interactive", "paper", title="steps a second", title_justify="left")
    step = 0.0
    for name in PRESETS["interactive"].networks:
        quick, long = (seconds_a_step(name, PRESETS[preset], config) for preset in ("interactive", "paper"))
        table.add_row(name, f"{1 / quick:.2f}", f"{1 / long:.3f}")
        step += quick
    console.print(table)
    console.print(f"all three, one after the other: {1 / step:.1f} interactive steps a second")
    console.print(f"first overlay of a stack of ten slices: {first_overlay():.1f} s once torch is loaded")


def seconds_a_step(name: str, preset: Config, machine: Config) -> float:
    """Forward and backward of one batch of a preset, the best of what fits into the patience."""
    import torch

    from trainer.networks import build

    network = build(name, 1, 4, size=preset.size).to(machine.device, memory_format=torch.channels_last).train()
    batch = preset.batch if machine.device != "cpu" or preset.size == "small" else 1  # one image is slow enough
    image = torch.randn(batch, 1, *preset.patch, device=machine.device)
    times, begun = [], time.monotonic()
    while len(times) < 2 or (len(times) < 5 and time.monotonic() - begun < PATIENCE / 4):
        start = time.monotonic()
        with torch.autocast(image.device.type, torch.bfloat16, enabled=machine.dtype == "bfloat16"):
            loss = network(image).float().square().mean()
        loss.backward()
        loss.item()  # waits for the device
        times.append(time.monotonic() - start)
    return min(times) * preset.batch / batch


def first_overlay() -> float:
    """Seconds to spread strokes over a generated stack of ten slices."""
    import numpy as np

    from trainer.propagation import propagate
    from trainer.sample import IGNORE, Sample

    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 10, 128, 128)).astype(np.float32)
    image[..., 32:96, 32:96] += 8
    target = np.full(image.shape[1:], IGNORE, np.uint8)
    target[[2, 5, 8], 8, 8:120], target[[2, 5, 8], 64, 48:80] = 0, 1
    start = time.monotonic()
    propagate(Sample(image, target, (1.0, 1.0, 1.0)), 2)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
