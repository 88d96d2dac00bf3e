"""The machine: device, number format and threads of a run, decided once and written into its config."""

import dataclasses
import os

import torch

from trainer.config import Config


def settled(config: Config) -> Config:
    """The config with "auto" replaced by what this machine offers. ValueError for a device that is not here."""
    device = best_device() if config.device == "auto" else config.device
    check_device(device)
    dtype = best_dtype(device) if config.dtype == "auto" else config.dtype
    return dataclasses.replace(config, device=device, dtype=dtype, threads=config.threads or os.cpu_count() or 1)


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
