"""Pretrained weights: checkpoints of VMamba and Swin Transformer into our networks, every tensor accounted for.

`load_pretrained(network, file)` takes the encoder from the checkpoint, and starts a decoder stage as the encoder stage
at its resolution where the papers do so. The papers take these files: SwinUNet swin_tiny_patch4_window7_224.pth;
MambaUNet, SwinUMamba and SwinUMambaD vmamba_tiny_e292.pth; VMUNet vmamba_small_e238_ema.pth.
"""

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.files import read_tensors
from trainer.networks.mambaunet import MambaUNet
from trainer.networks.swinumamba import SwinUMamba, SwinUMambaD
from trainer.networks.swinunet import SwinUNet
from trainer.networks.vmunet import VMUNet

ENCODERS: dict[type[nn.Module], str] = {  # the attribute whose tensors have the names of the checkpoint's
    SwinUNet: "swin_unet",
    MambaUNet: "mamba_unet",
    VMUNet: "vmunet",
    SwinUMamba: "vssm_encoder",
    SwinUMambaD: "vssm_encoder",
}


@dataclass(frozen=True)
class Report:
    """Where each tensor of the network came from, and where each of the checkpoint went."""

    loaded: dict[str, str]
    """Key of the network -> key of the checkpoint."""
    left: tuple[str, ...]
    """Keys of the network that keep their initial values."""
    unused: tuple[str, ...]
    """Keys of the checkpoint that the network has no place for."""
    misfits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    """Those of `left` that the checkpoint has in another shape: (the network's, the checkpoint's)."""

    def __str__(self) -> str:
        used = set(self.loaded.values())
        shapes = [f"{key} is {ours}, in the checkpoint {theirs}" for key, (ours, theirs) in self.misfits.items()]
        return "; ".join(
            [
                f"{len(used)} of {len(used) + len(self.unused)} tensors used",
                f"left at init: {_modules(self.left)}",
                f"not used: {_modules(self.unused)}",
                *([f"of another shape: {', '.join(shapes)}"] if shapes else []),
            ]
        )


def load_pretrained(network: nn.Module, file: Path | str, *, official_norm_bias: bool = False) -> Report:
    """Copy what fits from a checkpoint file, .pth or .safetensors, into the network, and say what went where.

    official_norm_bias: SwinUMamba only, take `patch_embed.norm.bias` although its patches are none of the checkpoint's,
    as the official loader does by mistake.
    Raises ValueError, and leaves the network as it was, where it has no pretrained encoder, the file is no checkpoint,
    or no block of it fits.
    """
    if type(network) not in ENCODERS:
        known = ", ".join(kind.__name__ for kind in ENCODERS)
        raise ValueError(f"{type(network).__name__} has no pretrained encoder; those that have are {known}")
    if official_norm_bias and not isinstance(network, SwinUMamba):
        raise ValueError(f"official_norm_bias is for SwinUMamba, got {type(network).__name__}; leave it out")
    weights, checkpoint = network.state_dict(), read_checkpoint(Path(file))
    report = matched(weights, checkpoint, sources(network), official_norm_bias)
    if not any(".blocks." in key for key in report.loaded):
        raise ValueError(
            f"no block of {file} fits {type(network).__name__}: wanted {_example(weights)}, found "
            f"{_example(checkpoint)}; take the checkpoint that belongs to the network, in its official size"
        )
    network.load_state_dict(weights | {ours: checkpoint[theirs] for ours, theirs in report.loaded.items()})
    return report


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file; those of its entry `model` where it has one, as the official files do."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}; download the official one and give its path")
    content = read_tensors(file)[0] if file.suffix == ".safetensors" else _unpickled(file)
    weights = content.get("model", content) if isinstance(content, dict) else {}
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file} is no checkpoint: wanted tensors by name, or such under 'model', found {found}")
    return weights


def _unpickled(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as e:
        reasons = "it is damaged, or holds other objects than tensors: then save its entry 'model' alone"
        raise ValueError(f"{file} cannot be read; {reasons} ({e})") from e


def sources(network: nn.Module) -> dict[str, str]:
    """Key of the network -> key that the checkpoint has for it, if the checkpoint is as deep as the network."""
    encoder = ENCODERS[type(network)]
    deepest = len(getattr(network, encoder).layers) - 1

    def source(key: str) -> str:
        key = re.sub(r"^layers_up\.(\d+)\.blocks", lambda stage: f"layers.{deepest - int(stage[1])}.blocks", key)
        return re.sub(r"^downsamples\.(\d+)", r"layers.\1.downsample", key)

    inside = [key for key in network.state_dict() if key.startswith(f"{encoder}.")]
    return {key: source(key.removeprefix(f"{encoder}.")) for key in inside}


def matched(
    weights: Mapping[str, Tensor],
    checkpoint: Mapping[str, Tensor],
    sources: Mapping[str, str],
    official_norm_bias: bool,
) -> Report:
    """Of the tensors that the checkpoint has, those of the same shape; the patch embedding whole or not at all."""
    pairs = {ours: theirs for ours, theirs in sources.items() if theirs in checkpoint}
    shapes = {ours: (tuple(weights[ours].shape), tuple(checkpoint[theirs].shape)) for ours, theirs in pairs.items()}
    misfits = {key: (ours, theirs) for key, (ours, theirs) in shapes.items() if ours != theirs}
    dropped = set(misfits)
    if any(".patch_embed." in key for key in misfits):  # a norm means nothing without the patches it was learnt on
        dropped |= {key for key in pairs if ".patch_embed." in key}
        dropped -= {key for key in pairs if official_norm_bias and key.endswith(".patch_embed.norm.bias")}
    loaded = {ours: theirs for ours, theirs in pairs.items() if ours not in dropped}
    left = tuple(key for key in weights if key not in loaded)
    used = set(loaded.values())
    return Report(loaded, left, tuple(key for key in checkpoint if key not in used), misfits)


def _example(tensors: Mapping[str, Tensor]) -> str:
    """The name and shape of the first tensor of a block, or of the first at all."""
    key = next((key for key in tensors if "blocks." in key), next(iter(tensors)))
    return f"{key} {tuple(tensors[key].shape)}"


def _modules(keys: Iterable[str]) -> str:
    """The modules that these tensors belong to, whole blocks in one."""
    modules = dict.fromkeys(re.sub(r"(?<=blocks\.)(\d+)\..*|\.[^.]*$", r"\1", key) for key in keys)
    return ", ".join(modules) or "nothing"
