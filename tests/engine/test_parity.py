"""Ours and the official networks: same weights, same input, same numbers, by the golden files of tests/golden.

The golden files hold what the official code gave; tolerances.json is five times the noise of a change of the
convolution backend.
"""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer.networks import MambaUNet, SwinUNet, UNet
from trainer.networks.blocks import PatchMerging2D
from trainer.networks.mamba import Mamba
from trainer.networks.scan import selective_scan
from trainer.networks.swin import SwinBlock, region_mask
from trainer.networks.vss import SS2D

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import parity_check  # noqa: E402

MODELS = ("unet", "swinunet", "mambaunet")


def official(model: str, config: dict[str, object]) -> nn.Module:
    """The network that the official code builds from the `config` of a golden file; left out means the default."""
    builders = {"unet": _unet, "swinunet": _swinunet, "mambaunet": _mambaunet}
    if model not in builders:
        raise ValueError(f"no official network is called {model!r}; known are {', '.join(builders)}")
    return builders[model](**config)


def _unet(in_chns: int = 1, class_num: int = 4) -> nn.Module:
    return UNet(in_chns, class_num)


def _mambaunet(num_classes: int = 4, DEPTHS: tuple[int, ...] = (2, 2, 2, 2)) -> nn.Module:
    return MambaUNet(1, num_classes, depths=DEPTHS, repeat_grey=True)


def _swinunet(
    num_classes: int = 4,
    IMG_SIZE: int = 224,
    DEPTHS: tuple[int, ...] = (2, 2, 2, 2),
    WINDOW_SIZE: int = 7,
    EMBED_DIM: int = 96,
) -> nn.Module:
    network = SwinUNet(
        1, num_classes, width=EMBED_DIM, depths=DEPTHS, window=WINDOW_SIZE, repeat_grey=True, img_size=IMG_SIZE
    )
    for name, block in network.named_modules():
        if isinstance(block, SwinBlock):
            _show_mask(block, IMG_SIZE // 4 // 2 ** _stage(name, len(DEPTHS)))
    return network


def _stage(block: str, stages: int) -> int:
    """The encoder stage at the resolution of "swin_unet.layers.2.blocks.0" (2), "swin_unet.layers_up.1.blocks.0"."""
    up, index = re.search(r"layers(_up)?\.(\d+)\.", block).groups()
    return stages - 1 - int(index) if up else int(index)


def _show_mask(block: SwinBlock, grid: int) -> None:
    """Put the mask that the official block would cache for its grid into the state dict: the golden files list it."""
    if not block.shift or grid <= block.window:
        return
    size, shift = (block.window, block.window), (block.shift, block.shift)
    mask = region_mask((grid, grid), (grid, grid), size, shift, torch.device("cpu"))

    def show(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict) -> None:
        state_dict[prefix + "attn_mask"] = mask

    block.register_state_dict_post_hook(show)


def layer(name: str) -> nn.Module:
    """A layer from its name in layers.json, such as "Mamba(d_model=33,d_state=8)"."""
    kind, arguments = re.match(r"(\w+)\((.*)\)", name).groups()
    layers = {"Mamba": Mamba, "SS2D": SS2D, "PatchMerging2D": PatchMerging2D}
    return layers[kind](**{key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", arguments)})


def test_an_unknown_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"'lenet'.*unet, swinunet, mambaunet"):
        official("lenet", {})


@pytest.mark.parametrize("model", MODELS)
def test_outputs_and_gradients_are_the_official_ones(model: str) -> None:
    assert parity_check.check(lambda config: official(model, config), GOLDEN / f"public/{model}.json")


def test_scan_is_the_official_one() -> None:
    assert parity_check.check_scan(selective_scan, GOLDEN / "public/selective_scan.json")


def test_layers_are_the_official_ones() -> None:
    assert parity_check.check_layers(layer, GOLDEN / "public/layers.json")


@pytest.mark.parametrize("model", MODELS)
def test_state_dict_has_the_official_keys_and_shapes(model: str) -> None:
    for case in json.loads((GOLDEN / f"keys/{model}.json").read_text()).values():
        theirs = {key: value["shape"] for key, value in case["state_dict"].items()}
        theirs = {key: shape for key, shape in theirs.items() if not key.endswith("relative_position_index")}
        ours = {key: list(value.shape) for key, value in official(model, case["config"]).state_dict().items()}
        assert ours == theirs


@pytest.mark.parametrize(("model", "count"), [("unet", 1_813_764), ("swinunet", 27_168_420), ("mambaunet", 19_121_664)])
def test_number_of_parameters_is_the_published_one(model: str, count: int) -> None:
    assert sum(p.numel() for p in official(model, {}).parameters()) == count


@pytest.mark.parametrize("model", MODELS)
def test_every_norm_has_the_official_epsilon(model: str) -> None:
    norms = [m for m in official(model, {}).modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert norms and all(norm.eps == 1e-5 for norm in norms)


@pytest.mark.parametrize("make", [lambda: Mamba(32), lambda: SS2D(32)], ids=["Mamba", "SS2D"])
def test_state_space_starts_as_published(make) -> None:
    parameters = dict(make().named_parameters())
    a_log = parameters.get("A_log", parameters.get("A_logs"))  # (channels, N)
    expected = torch.tensor([math.log(n) for n in range(1, 17)])
    torch.testing.assert_close(a_log, expected.expand_as(a_log))
    skip = parameters.get("D", parameters.get("Ds"))
    assert (skip == 1).all()
    bias = parameters.get("dt_proj.bias", parameters.get("dt_projs_bias"))
    dt = nn.functional.softplus(bias)
    assert 1e-3 * 0.999 <= dt.min() and dt.max() <= 0.1 * 1.001
    weight = parameters.get("dt_proj.weight", parameters.get("dt_projs_weight"))  # rank ceil(32 / 16) = 2
    assert 0.4 < weight.abs().max() <= 2**-0.5
    assert all(getattr(p, "_no_weight_decay", False) for p in (a_log, skip))


@pytest.mark.parametrize("model", ["swinunet", "mambaunet"])
def test_linear_layers_start_as_published(model: str) -> None:
    linears = [m for m in official(model, {}).modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.05) for m in linears)
    assert all((m.bias == 0).all() for m in linears if m.bias is not None)


@pytest.mark.parametrize("img_size", [32, 64, 128])
def test_swin_tables_shrink_with_the_grid_as_officially(img_size: int) -> None:
    network = official("swinunet", {"IMG_SIZE": img_size, "WINDOW_SIZE": 8, "EMBED_DIM": 24})
    tables = [stage.blocks[0].attn.relative_position_bias_table for stage in network.swin_unet.layers]
    windows = [min(8, img_size // 4 // 2**stage) for stage in range(4)]  # never wider than the grid
    assert [len(table) for table in tables] == [(2 * window - 1) ** 2 for window in windows]
