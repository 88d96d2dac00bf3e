"""Official checkpoints into our networks: what goes where is what the official loaders do, by the golden loadmaps.

A checkpoint is made up here: its tensor number i is full of 1000 + i, so that the network's own values tell where they
came from.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from trainer.networks import build
from trainer.networks.pretrained import Report, load_pretrained, sources
from trainer.networks.swin import CACHED

LOADMAPS = Path(__file__).parents[1] / "golden/loadmap"
CASES = {  # the loadmap -> the network: name, channels, options of load_pretrained
    "swinunet_swin_tiny": ("swinunet", 1, {}),
    "mambaunet_vmamba_tiny": ("mambaunet", 1, {}),
    "vmunet_vmamba_small": ("vmunet", 3, {}),
    "swin_umamba_vmamba_tiny": ("swin_umamba", 1, {"official_norm_bias": True}),
    "swin_umamba_d_vmamba_tiny_1ch": ("swin_umamba_d", 1, {}),
    "swin_umamba_d_vmamba_tiny_3ch": ("swin_umamba_d", 3, {}),
}
DEEP = {"deep_supervision": True}  # officially the heads of the coarser stages are always there
STEM = {"proj.weight": (96, 3, 4, 4), "proj.bias": (96,), "norm.weight": (96,), "norm.bias": (96,)}
HEAD = {"norm.weight": (768,), "norm.bias": (768,), "head.weight": (1000, 768), "head.bias": (1000,)}


def made(name: str, channels: int) -> nn.Module:
    return build(name, channels, 14, **(DEEP if name.startswith("swin_umamba") else {}))


def golden(case: str) -> tuple[dict[str, str], list[str], list[str]]:
    """Network key -> checkpoint key, network keys left at init, unused checkpoint keys; less the cached constants."""
    loadmap = json.loads((LOADMAPS / f"{case}.json").read_text())
    loaded = {ours: theirs for ours, theirs in loadmap["loaded"].items() if not ours.endswith(CACHED)}
    left, unused = loadmap["left_at_init"], loadmap["unused_checkpoint_keys"]
    return loaded, left, [key for key in unused if not key.endswith(CACHED)]


def tagged(network: nn.Module, keys: list[str]) -> dict[str, Tensor]:
    """A checkpoint with these keys; a block deeper than the network is like the first of its stage."""
    weights, shapes = network.state_dict(), HEAD | {f"patch_embed.{key}": shape for key, shape in STEM.items()}
    shapes = {theirs: tuple(weights[ours].shape) for ours, theirs in sources(network).items()} | shapes
    like = {key: re.sub(r"(layers\.\d)\.blocks\.\d+", r"\1.blocks.0", key) for key in keys}
    return {key: torch.tensor(1000.0 + i).expand(shapes[like[key]]) for i, key in enumerate(keys)}


def origins(network: nn.Module, keys: list[str]) -> dict[str, str]:
    """Network key -> the key of the checkpoint whose number it is full of."""
    full = {key: value.unique() for key, value in network.state_dict().items()}
    return {key: keys[int(value) - 1000] for key, value in full.items() if len(value) == 1 and value >= 1000}


@pytest.mark.parametrize("case", CASES)
def test_every_tensor_goes_where_the_official_loader_puts_it(case: str, tmp_path: Path) -> None:
    (name, channels, options), (loaded, left, unused) = CASES[case], golden(case)
    network, keys = made(name, channels), list(dict.fromkeys([*loaded.values(), *unused]))
    torch.save({"model": tagged(network, keys), "epoch": 292}, tmp_path / "checkpoint.pth")
    report = load_pretrained(network, tmp_path / "checkpoint.pth", **options)
    assert origins(network, keys) == report.loaded == loaded
    assert sorted(report.left) == sorted(left)
    assert sorted(report.unused) == sorted(unused)


def test_the_mistake_of_the_official_loader_is_not_the_default(tmp_path: Path) -> None:
    network, keys = made("swin_umamba", 1), [f"patch_embed.{key}" for key in STEM] + ["layers.0.blocks.0.ln_1.weight"]
    torch.save(tagged(network, keys), tmp_path / "checkpoint.pth")
    report = load_pretrained(network, tmp_path / "checkpoint.pth")
    assert report.loaded == {"vssm_encoder.layers.0.blocks.0.ln_1.weight": "layers.0.blocks.0.ln_1.weight"}
    assert report.misfits == {"vssm_encoder.patch_embed.proj.weight": ((96, 48, 2, 2), (96, 3, 4, 4))}
    with pytest.raises(ValueError, match="official_norm_bias is for SwinUMamba, got SwinUMambaD"):
        load_pretrained(made("swin_umamba_d", 1), tmp_path / "checkpoint.pth", official_norm_bias=True)


def test_a_safetensors_file_says_the_same(tmp_path: Path) -> None:
    network, keys = made("mambaunet", 1), ["layers.2.blocks.1.ln_1.bias", "layers.2.blocks.2.ln_1.bias", "norm.weight"]
    checkpoint = {key: value.contiguous() for key, value in tagged(network, keys).items()}
    save_file(checkpoint, tmp_path / "checkpoint.safetensors")
    report = load_pretrained(network, tmp_path / "checkpoint.safetensors")
    assert report.loaded == {
        "mamba_unet.layers.2.blocks.1.ln_1.bias": "layers.2.blocks.1.ln_1.bias",
        "mamba_unet.layers_up.1.blocks.1.ln_1.bias": "layers.2.blocks.1.ln_1.bias",
        "mamba_unet.norm.weight": "norm.weight",
    }
    assert report.unused == ("layers.2.blocks.2.ln_1.bias",)


def test_a_report_reads_as_a_sentence() -> None:
    report = Report(
        loaded={"encoder.layers.0.blocks.0.a.weight": "layers.0.blocks.0.a.weight"},
        left=("encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias", "output.weight"),
        unused=("layers.0.blocks.1.a.weight", "layers.0.blocks.1.b.bias", "head.weight"),
        misfits={"encoder.patch_embed.proj.weight": ((8, 1, 4, 4), (8, 3, 4, 4))},
    )
    assert str(report) == (
        "1 of 4 tensors used; left at init: encoder.patch_embed.proj, output; not used: layers.0.blocks.1, head; "
        "of another shape: encoder.patch_embed.proj.weight is (8, 1, 4, 4), in the checkpoint (8, 3, 4, 4)"
    )


def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    file, network = tmp_path / "checkpoint.pth", build("mambaunet", 1, 4, "small")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save({"layers.0.blocks.0.norm1.weight": torch.ones(96), "norm.weight": torch.ones(128)}, file)
    with pytest.raises(ValueError, match=r"no block of .*ln_1\.weight \(32,\), found .*norm1\.weight \(96,\)"):
        load_pretrained(network, file)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with pytest.raises(ValueError, match=r"UNet has no pretrained encoder.*SwinUNet, MambaUNet"):
        load_pretrained(build("unet", 1, 4), file)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    file, network = tmp_path / "checkpoint.pth", build("mambaunet", 1, 4, "small")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_pretrained(network, file)
    file.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        load_pretrained(network, file)
    torch.save({"epoch": 3, "model": {}}, file)
    with pytest.raises(ValueError, match=r"wanted tensors by name.*found \['epoch', 'model'\]"):
        load_pretrained(network, file)
    torch.save({"model": {"norm.weight": torch.ones(1)}, "config": Path("a.yaml")}, file)  # no plain value
    with pytest.raises(ValueError, match="save its entry 'model' alone"):
        load_pretrained(network, file)
    torch.save([torch.ones(1)], file)
    with pytest.raises(ValueError, match="found list"):
        load_pretrained(network, file)
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(ValueError, match=r"wanted tensors by name.*found \[\]"):
        load_pretrained(network, tmp_path / "empty.safetensors")
