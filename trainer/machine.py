"""The machine: device, number format and threads of a run, decided once and written into its config."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

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
    """bfloat16 where the hardware multiplies it faster than float32, else float32; never float16."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    features = torch.backends.cpu.get_cpu_capability() if device == "cpu" else ""
    native = "AVX512" in features and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return "bfloat16" if native else "float32"


@contextmanager
def side_by_side(config: Config) -> Iterator[Callable]:
    """A `map` that runs the networks of a step at once, on a share of the config's threads each.

    Small networks gain nothing from a second thread, but two of them gain from a core each; and threads that share
    one small operation wait for each other whenever another program takes a core. On a GPU, or with one thread, it is
    the plain `map`.
    """
    workers = min(config.threads, len(config.networks)) if config.device == "cpu" else 1
    share = config.threads // workers
    before = torch.get_num_threads()
    torch.set_num_threads(share)
    try:
        if workers == 1:
            yield map
            return
        with ThreadPoolExecutor(workers, "network", torch.set_num_threads, (share,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(before)
