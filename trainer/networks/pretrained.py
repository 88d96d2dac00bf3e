"""Pretrained weights: official checkpoints into our networks, every tensor accounted for.

`load_pretrained(network, file)` takes the encoder from a checkpoint of VMamba or Swin Transformer, and starts a decoder
stage as the encoder stage at its resolution where the papers do so; which file a paper takes stands in checkpoints.py.
A checkpoint of the whole network, as its authors saved it, is loaded whole.
"""

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.config import Config
from trainer.files import read_tensors
from trainer.networks.checkpoints import files_of
from trainer.networks.mambaunet import MambaUNet
from trainer.networks.swinumamba import SwinUMamba, SwinUMambaD
from trainer.networks.swinunet import SwinUNet
from trainer.networks.vmunet import VMUNet

ENTRIES = ("model", "state_dict", "network_weights")  # that official files, Lightning and nnU-Net keep weights under
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


def load_official(networks: Mapping[str, nn.Module], config: Config) -> dict[str, Report]:
    """What `config.pretrained` asks for into the networks that begin with it; {network: report}, of the others none.

    ValueError where no network takes it, or one that should cannot.
    """
    files = files_of(config)
    if not files:
        raise ValueError(f"none of {', '.join(networks)} begins with the file {config.pretrained}; leave it out")
    return {name: load_pretrained(networks[name], file) for name, file in files.items()}


def load_pretrained(network: nn.Module, file: Path | str, *, official_norm_bias: bool = False) -> Report:
    """Copy what fits from a checkpoint file, .pth or .safetensors, into the network, and say what went where.

    A checkpoint of this very network must fit in whole.
    official_norm_bias: SwinUMamba only, take `patch_embed.norm.bias` although its patches are none of the checkpoint's,
    as the official loader does by mistake.
    Raises ValueError, and leaves the network as it was, where it has no pretrained encoder, the file is no checkpoint,
    or no block of it fits.
    """
    weights, checkpoint = network.state_dict(), read_checkpoint(Path(file))
    if weights.keys() & checkpoint.keys():
        return load_whole(network, checkpoint, Path(file))
    if type(network) not in ENCODERS:
        known = ", ".join(kind.__name__ for kind in ENCODERS)
        raise ValueError(f"{type(network).__name__} has no pretrained encoder; those that have are {known}")
    if official_norm_bias and not isinstance(network, SwinUMamba):
        raise ValueError(f"official_norm_bias is for SwinUMamba, got {type(network).__name__}; leave it out")
    report = matched(weights, checkpoint, sources(network), official_norm_bias)
    if not any(".blocks." in key for key in report.loaded):
        raise ValueError(
            f"no block of {file} fits {type(network).__name__}: wanted {_example(weights)}, found "
            f"{_example(checkpoint)}; take the checkpoint that belongs to the network, in its official size"
        )
    network.load_state_dict(weights | {ours: checkpoint[theirs] for ours, theirs in report.loaded.items()})
    return report


def load_whole(network: nn.Module, checkpoint: dict[str, Tensor], file: Path) -> Report:
    """Strictly. ValueError says what does not fit, and leaves the network as it was."""
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    try:
        network.load_state_dict(checkpoint)
    except RuntimeError as e:
        network.load_state_dict(weights)
        raise ValueError(
            f"{file} is a checkpoint of {type(network).__name__}, but not of this one: {misfits(weights, checkpoint)}; "
            "give it the classes, channels and size it was trained with"
        ) from e
    return Report({key: key for key in weights if key in checkpoint}, (), (), {})


def misfits(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How two sets of tensors differ: "2 missing, such as ...; 1 of another shape, such as ..."."""
    shapes = [key for key in wanted if key in found and wanted[key].shape != found[key].shape]
    kinds = {
        "missing": [key for key in wanted if key not in found],
        "too many": [key for key in found if key not in wanted],
        "of another shape": [f"{k} {tuple(found[k].shape)}, wanted {tuple(wanted[k].shape)}" for k in shapes],
    }
    return "; ".join(f"{len(keys)} {kind}, such as {keys[0]}" for kind, keys in kinds.items() if keys)


def read_checkpoint(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file; those of its entry `model` where it has one, as the official files do. What
    DataParallel puts in front of their names is taken away."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no checkpoint {file}; download the official one and give its path")
    content = read_tensors(file)[0] if file.suffix == ".safetensors" else _unpickled(file)
    entry = next((key for key in ENTRIES if isinstance(content, dict) and key in content), None)
    weights = content if entry is None else content[entry]
    if not weights or not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{file} is no checkpoint: wanted tensors by name, or such under 'model', found {found}")
    return {key.removeprefix("module."): value for key, value in weights.items()}


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
