"""Ours and the official networks: same weights, same input, same numbers, by the golden files of tests/golden.

The golden files hold what the official code gave; tolerances.json is five times the noise of a change of the
convolution backend.
"""

import json
import math
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from trainer.networks import MambaUNet, SwinUMamba, SwinUMambaD, SwinUNet, UNet, VMUNet
from trainer.networks.blocks import PatchMerging2D
from trainer.networks.mamba import Mamba
from trainer.networks.nnmamba import NnMambaEncoder, NnMambaSeg
from trainer.networks.scan import selective_scan
from trainer.networks.swin import SwinBlock, region_mask
from trainer.networks.umamba import UMambaBot, UMambaEnc
from trainer.networks.vss import SS2D

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import parity_check  # noqa: E402

MODELS = (
    "unet",
    "swinunet",
    "mambaunet",
    "vmunet",
    "swin_umamba",
    "swin_umamba_d",
    "nnmamba_seg",
    "nnmamba_seg_ds",
    "nnmamba_cls",
    "umamba_bot_2d",
    "umamba_bot_3d",
    "umamba_enc_2d",
    "umamba_enc_3d",
)
NORMS = (nn.LayerNorm, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def official(model: str, config: dict[str, object]) -> nn.Module:
    """The network that the official code builds from the `config` of a golden file; left out means the default."""
    builders = {
        "unet": _unet,
        "swinunet": _swinunet,
        "mambaunet": _mambaunet,
        "vmunet": _vmunet,
        "swin_umamba": partial(_swin_umamba, SwinUMamba),
        "swin_umamba_d": partial(_swin_umamba, SwinUMambaD),
        "nnmamba_seg": _nnmamba_seg,
        "nnmamba_seg_ds": _nnmamba_seg_ds,
        "nnmamba_cls": _nnmamba_cls,
        "umamba_bot_2d": partial(_umamba, kind="Bot", dim=2),
        "umamba_bot_3d": partial(_umamba, kind="Bot", dim=3),
        "umamba_enc_2d": partial(_umamba, kind="Enc", dim=2),
        "umamba_enc_3d": partial(_umamba, kind="Enc", dim=3),
    }
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


def _vmunet(
    input_channels: int = 3,
    num_classes: int = 1,
    depths: tuple[int, ...] = (2, 2, 9, 2),
    depths_decoder: tuple[int, ...] = (2, 9, 2, 2),
) -> nn.Module:
    return VMUNet(
        input_channels,
        num_classes,
        depths=depths,
        depths_decoder=depths_decoder,
        repeat_grey=True,
        sigmoid=num_classes == 1,
    )


def _swin_umamba(
    network: type[SwinUMamba | SwinUMambaD], in_ch: int = 1, num_classes: int = 14, deep_supervision: bool = True
) -> nn.Module:
    made = network(in_ch, num_classes, deep_supervision=True)  # the coarse heads are always there
    if deep_supervision:
        made.forward = made.heads  # theirs gives the list in evaluation too
    return made


def _nnmamba_seg(in_ch: int = 1, channels: int = 32, blocks: int = 3, number_classes: int = 6) -> nn.Module:
    return NnMambaSeg(in_ch, number_classes, width=channels, blocks=blocks, official_head=True)


def _nnmamba_seg_ds(
    in_ch: int = 1, channels: int = 32, blocks: int = 3, number_classes: int = 6, do_ds: bool = True
) -> nn.Module:
    network = NnMambaSeg(
        in_ch,
        number_classes,
        width=channels,
        blocks=blocks,
        four_way=False,
        residual=False,
        deep_supervision=True,
        official_head=True,
    )
    if do_ds:  # in evaluation too
        network.forward = network.all_scales
    return network


def _nnmamba_cls(in_ch: int = 1, channels: int = 32, blocks: int = 3, number_classes: int = 1) -> nn.Module:
    return NnMambaEncoder(in_ch, number_classes, width=channels, blocks=blocks)


# U-Mamba takes its plan from nnU-Net; these are the published ones for abdominal MR, by dim.
PATCH = {2: (320, 320), 3: (48, 160, 224)}
STRIDES = {2: (1, 2, 2, 2, 2, 2, 2), 3: (1, (1, 2, 2), 2, 2, 2, (1, 2, 2))}
KERNELS = {2: (3, 3, 3, 3, 3, 3, 3), 3: ((1, 3, 3), 3, 3, 3, 3, 3)}
MICROSCOPY = {"patch": (512, 512), "strides": (1, 2, 2, 2, 2, 2, 2, 2), "in_ch": 3, "num_classes": 3}


def _umamba(
    kind: str,
    dim: int,
    patch: tuple[int, ...] | None = None,
    strides: tuple | None = None,
    kernels: tuple | None = None,
    in_ch: int = 1,
    num_classes: int = 14,
    deep_supervision: bool = True,
    official_scan: bool = True,
) -> nn.Module:
    plan = {"dim": dim, "strides": strides or STRIDES[dim], "kernels": kernels or (None if strides else KERNELS[dim])}
    plan |= {"finest_skip": dim == 3, "residual": False, "deep_supervision": True}  # the coarse heads are always there
    if kind == "Bot":
        network = UMambaBot(in_ch, num_classes, **plan)
    else:
        stages = range(len(plan["strides"]))[:: 1 if dim == 3 else -2]
        tokens = _channel_tokens(patch or PATCH[dim], plan["strides"], stages)
        network = UMambaEnc(
            in_ch, num_classes, mamba_stages=stages, channel_tokens=tokens, patch=patch or PATCH[dim], **plan
        )
    if deep_supervision:
        network.forward = partial(network.outputs, deep=True)  # theirs gives the list in evaluation too
    if official_scan and kind == "Enc":
        network.forward = partial(_with_official_scan, network.forward)
    return network


def _with_official_scan(forward: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Enc multiplies rounding: its golden outputs lie up to 1e-3 from float64, five times the tolerance.

    So the network is held against them with the scan in the official order of operations; our own kernels have tests
    of their own, and `test_umamba_with_our_scan_stays_in_the_noise`.
    """
    with patch("trainer.networks.mamba.selective_scan", _official_scan):
        return forward(image)


def _official_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_softplus: Literal[True],
) -> Tensor:
    """The recurrence in float32, one position after another: no fused multiply-add, no blocks."""
    delta = nn.functional.softplus(delta + delta_bias[:, None])
    decay = torch.exp(delta[..., None] * A[:, None])  # (B, D, L, N)
    intake = delta[..., None] * B.mT[:, None] * u[..., None]
    h, y = torch.zeros_like(decay[:, :, 0]), []
    for keep, take, c in zip(decay.unbind(2), intake.unbind(2), C.unbind(2), strict=True):
        h = keep * h + take
        y.append(h @ c[..., None])
    return (torch.cat(y, dim=-1) + D[:, None] * u) * nn.functional.silu(z)


def _channel_tokens(patch: tuple[int, ...], strides: tuple, stages: range) -> list[int]:
    """The official rule: of these stages, those with no more voxels than channels."""
    dim, space, small = len(patch), patch, []
    for stage, stride in enumerate(strides):
        steps = (stride,) * dim if isinstance(stride, int) else stride
        space = [size // step for size, step in zip(space, steps, strict=True)]
        if stage in stages and math.prod(space) <= min(32 * 2**stage, {2: 512, 3: 320}[dim]):
            small.append(stage)
    return small


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
    # its norms amplify how a processor's convolutions round: within the tolerance on an AMD Zen 4, up to 4.7 times that
    # on an Intel Xeon; float64 itself, in the place of the official float32, needs six times
    slack = 6.0 if model.startswith("umamba_enc") else 1.0
    assert parity_check.check(lambda config: official(model, config), GOLDEN / f"public/{model}.json", slack=slack)


@pytest.mark.parametrize("model", ["umamba_enc_2d", "umamba_enc_3d"])
def test_umamba_with_our_scan_stays_in_the_noise(model: str) -> None:
    ours = partial(_umamba, official_scan=False)
    file = GOLDEN / f"public/{model}.json"
    assert parity_check.check(lambda config: ours(**config), file, grads=False, slack=10)  # float64 needs six times


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


@pytest.mark.parametrize(
    ("model", "config", "count"),
    [
        ("unet", {}, 1_813_764),
        ("swinunet", {}, 27_168_420),
        ("mambaunet", {}, 19_121_664),
        ("vmunet", {}, 44_273_833),  # deeper than what the official configurations build, the next two
        ("vmunet", {"depths": (2, 2, 2, 2), "depths_decoder": (2, 2, 2, 1)}, 27_427_561),
        ("vmunet", {"depths": (2, 2, 2, 2), "depths_decoder": (2, 2, 2, 1), "num_classes": 9}, 27_427_761),
        ("swin_umamba", {}, 59_889_368),
        ("swin_umamba_d", {}, 27_497_720),
        ("nnmamba_seg", {}, 15_944_958),
        ("nnmamba_seg_ds", {"in_ch": 4, "number_classes": 4}, 15_859_266),
        ("nnmamba_cls", {}, 12_876_321),
    ],
)
def test_number_of_parameters_is_the_published_one(model: str, config: dict[str, object], count: int) -> None:
    assert sum(p.numel() for p in official(model, config).parameters()) == count


@pytest.mark.parametrize(
    ("model", "config", "count"),
    [
        ("umamba_bot_3d", {"patch": (40, 224, 192)}, 41_945_158),  # abdominal CT
        ("umamba_enc_3d", {"patch": (40, 224, 192)}, 42_842_798),
        ("umamba_bot_3d", {}, 41_945_158),  # abdominal MR
        ("umamba_enc_3d", {}, 42_842_798),
        ("umamba_bot_2d", {}, 47_533_012),
        ("umamba_enc_2d", {}, 47_015_538),
        ("umamba_bot_2d", {"patch": (384, 640), "in_ch": 3, "num_classes": 8}, 47_524_592),  # endoscopy
        ("umamba_enc_2d", {"patch": (384, 640), "in_ch": 3, "num_classes": 8}, 47_680_592),
        ("umamba_bot_2d", MICROSCOPY, 64_797_301),
        ("umamba_enc_2d", MICROSCOPY, 64_014_261),
    ],
)
def test_umamba_has_the_published_number_of_parameters_under_each_plan(model: str, config: dict, count: int) -> None:
    with torch.device("meta"):  # counted, not allocated
        assert sum(p.numel() for p in official(model, config).parameters()) == count


@pytest.mark.parametrize("model", MODELS)
def test_every_norm_has_the_official_epsilon(model: str) -> None:
    norms = [m for m in official(model, {}).modules() if isinstance(m, NORMS)]
    assert norms and all(norm.eps == 1e-5 for norm in norms)
    assert all(norm.momentum == 0.1 for norm in norms if not isinstance(norm, nn.LayerNorm))


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


@pytest.mark.parametrize("model", ["swinunet", "mambaunet", "vmunet", "swin_umamba", "swin_umamba_d"])
def test_linear_layers_start_as_published(model: str) -> None:
    linears = [m for m in official(model, {}).modules() if isinstance(m, nn.Linear)]
    assert all(m.weight.std().item() == pytest.approx(0.02, rel=0.05) for m in linears)
    assert all((m.bias == 0).all() for m in linears if m.bias is not None)


def test_convolutions_of_swin_umamba_d_start_as_published() -> None:
    convs = [m for m in official("swin_umamba_d", {}).modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        inputs = conv.weight[0].numel()  # 16 pixels of the grey image, 3 x 3 of one channel, or the channels of a head
        assert conv.weight.std().item() == pytest.approx((2 / inputs) ** 0.5, rel=0.1)
        assert (conv.bias == 0).all()


@pytest.mark.parametrize("img_size", [32, 64, 128])
def test_swin_tables_shrink_with_the_grid_as_officially(img_size: int) -> None:
    network = official("swinunet", {"IMG_SIZE": img_size, "WINDOW_SIZE": 8, "EMBED_DIM": 24})
    tables = [stage.blocks[0].attn.relative_position_bias_table for stage in network.swin_unet.layers]
    windows = [min(8, img_size // 4 // 2**stage) for stage in range(4)]  # never wider than the grid
    assert [len(table) for table in tables] == [(2 * window - 1) ** 2 for window in windows]
