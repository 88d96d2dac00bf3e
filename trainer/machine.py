"""The machine: device, number format and threads of a run, decided once and written into its config."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.networks.scan import kernel_name

log = logging.getLogger(__name__)


def settled(config: Config) -> Config:
    """The config with "auto" replaced by what this machine offers. ValueError for a device that is not here."""
    device = best_device() if config.device == "auto" else config.device
    check_device(device)
    dtype = best_dtype(device) if config.dtype == "auto" else config.dtype
    kernel = kernel_name(device)
    if config.kernel not in ("auto", kernel):
        log.warning("this run began with the scan kernel %s, here runs %s: rounding differs", config.kernel, kernel)
    threads = config.threads or torch.get_num_threads()
    return dataclasses.replace(config, device=device, dtype=dtype, threads=threads, kernel=kernel)


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ValueError(f"device {device!r} cannot be used here ({e}); try --device cpu") from e


def best_dtype(device: str) -> str:
    """bfloat16 where this machine multiplies and convolves it faster than float32, else float32; never float16."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if device == "cpu" and bfloat16_gain() > 1.15 else "float32"


@cache
def bfloat16_gain() -> float:
    """How many times faster the processor is in bfloat16: a convolution and a product as in the networks, measured."""
    with torch.random.fork_rng(devices=[]):  # the host program keeps its random numbers
        conv, linear = nn.Conv2d(32, 32, 3, padding=1), nn.Linear(96, 384)
        image, tokens = torch.randn(2, 32, 64, 64), torch.randn(2048, 96)

    def seconds(enabled: bool) -> float:
        begun = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            (conv(image).float().sum() + linear(tokens).float().sum()).backward()
        return time.thread_time() - begun

    with own_threads(1):
        times = [(seconds(False), seconds(True)) for _ in range(6)][1:]  # the first ones compile
    return min(plain for plain, _ in times) / max(min(half for _, half in times), 1e-9)


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """So many for torch, in what this thread does meanwhile; with one, its time is all the time there is."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def side_by_side(config: Config) -> Iterator[Callable]:
    """A `map` that runs the networks of a step at once, on a share of the config's threads each; one alone has all.

    Small networks gain less from a second thread than two of them from a core each; and threads that share one small
    operation wait for each other whenever another program takes a core. On a GPU, or with one thread, it is the plain
    `map`.
    """
    workers = min(config.threads, len(config.networks)) if config.device == "cpu" else 1
    share = config.threads // workers
    with own_threads(share):
        if workers == 1:
            yield map
            return
        with ThreadPoolExecutor(workers, "network", torch.set_num_threads, (share,)) as pool:

            def spread(work: Callable, names: Sequence[str]) -> Iterable:
                if len(names) > 1:
                    return pool.map(work, names)
                with own_threads(config.threads):
                    return list(map(work, names))

            yield spread


@contextmanager
def batch_thread(config: Config) -> Iterator[ThreadPoolExecutor | None]:
    """A thread that makes the next batch; none where the config has only one thread and no other device."""
    if config.device == "cpu" and config.threads == 1:
        yield None
        return
    with ThreadPoolExecutor(1, "batches", torch.set_num_threads, (1,)) as pool:
        yield pool


def accelerated(network: nn.Module, config: Config) -> Callable[[Tensor], Tensor]:
    """The network as a call, compiled or captured where the config asks for it and that works; a warning else."""
    ways = {"compile": compiled, "graphs": captured}
    return network if config.speedup == "none" else Accelerated(network, ways[config.speedup], config.speedup)


class Accelerated:
    """Tries its way at the first image; every image of another shape, and all where it failed, go the plain one."""

    def __init__(self, network: nn.Module, way: Callable[[nn.Module, Tensor], Callable], name: str) -> None:
        self.network, self.way, self.name = network, way, name
        self.call: Callable[[Tensor], Tensor] | None = None
        self.shape: torch.Size | None = None

    def __call__(self, image: Tensor) -> Tensor:
        if self.shape is None:
            self.shape = image.shape
            try:
                self.call = self.way(self.network, image)
            except Exception as e:  # of a compiler or a driver: of any type
                log.warning("--speedup %s does not work here, the run goes on without: %s", self.name, e)
        return self.network(image) if self.call is None or image.shape != self.shape else self.call(image)


def compiled(network: nn.Module, image: Tensor) -> Callable[[Tensor], Tensor]:
    call = torch.compile(network)
    call(image)  # compiles, and fails here if it does
    return call


def captured(network: nn.Module, image: Tensor) -> Callable[[Tensor], Tensor]:
    """Forward and backward as CUDA graphs. Dropout then draws from the device's own generator, as a graph can."""
    if image.device.type != "cuda":
        raise RuntimeError("CUDA graphs need a CUDA device")
    plain = network.forward
    try:
        return torch.cuda.make_graphed_callables(network, (image.clone(),), allow_unused_input=True)
    except Exception:
        network.forward = plain
        raise
