"""U-Mamba: which parts a plan has, what size comes out of what size, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toys import CLASSES, QUICK, disc, scribbled_disc

from trainer.model import Model
from trainer.networks import build
from trainer.networks.umamba import MambaLayer, UMamba, UMambaEnc, mirrored, pad_to
from trainer.run import Run

BOTH = pytest.mark.parametrize("name", ["umamba_bot", "umamba_enc"])
TINY = {"strides": (1, 2, 2), "features": 4, "max_features": 8}


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def mamba_stages(network: UMamba) -> list[int]:
    return [s for s, layer in enumerate(network.encoder.mamba_layers) if isinstance(layer, MambaLayer)]


# Plans


@pytest.mark.parametrize(
    ("stages", "encoder", "decoder"),
    [(6, [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1]), (7, [2, 2, 2, 2, 1, 1, 1], [2, 2, 2, 2, 1, 1]), (2, [2, 1], [2])],
)
def test_the_deeper_half_down_and_the_finer_half_up_have_one_block(
    stages: int, encoder: list[int], decoder: list[int]
) -> None:
    network = UMamba(1, 2, strides=(1,) + (2,) * (stages - 1), features=2, max_features=2)
    assert [len(stage) for stage in network.encoder.stages] == encoder
    assert [len(stage) for stage in network.decoder.stages] == decoder


def test_mamba_is_where_it_was_asked_for() -> None:
    assert mamba_stages(UMambaEnc(1, 2, **TINY)) == [1, 2]
    assert mamba_stages(UMambaEnc(1, 2, mamba_stages=[0, 2], **TINY)) == [0, 2]
    bot = build("umamba_bot", 1, 2, **TINY)
    assert mamba_stages(bot) == [] and isinstance(bot.mamba_layer, MambaLayer)


def test_features_double_up_to_the_limit_of_the_dimension() -> None:
    strides = (1, 2, 2, 2, 2, 2)
    with torch.device("meta"):
        widths = {dim: UMamba(1, 2, dim, strides).widths for dim in (2, 3)}
    assert widths == {2: [32, 64, 128, 256, 512, 512], 3: [32, 64, 128, 256, 320, 320]}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"dim": 4}, "dim must be 2 or 3, got 4"),
        ({"strides": (2, 2)}, "first stage must be 1"),
        ({"strides": (1, (2, 2, 2))}, "strides must be one number a stage or 2"),
        ({"strides": (1,)}, "two stages or more, got 1 and 1"),
        ({"strides": (1, 2), "kernels": (3, 3, 3)}, "got 2 and 3"),
        ({"strides": (1, 2), "kernels": (3, 4)}, "odd"),
        ({"strides": (1, 2), "mamba_stages": [2]}, r"among 0 \.\.\. 1, got \[2\]"),
        ({"strides": (1, 2), "mamba_stages": [1], "channel_tokens": [0]}, r"among the mamba_stages \[1\], got \[0\]"),
        ({"strides": (1, 2), "channel_tokens": [1]}, "need the patch"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(plan: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UMambaEnc(1, 2, features=4, **plan)


# Sizes


@BOTH
@pytest.mark.parametrize("space", [(1, 1, 1), (5, 17, 9), (37, 50, 61)])
def test_any_volume(name: str, space: tuple[int, int, int]) -> None:
    network = build(name, 2, 3, dim=3, strides=(1, (1, 2, 2), 2), features=4, max_features=8).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 2, *space)).shape == (1, 3, *space)


def test_padding_is_a_mirror_that_is_passed_as_often_as_it_takes() -> None:
    assert mirrored(3, 9).tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
    assert mirrored(2, 3).tolist() == [0, 1, 0] and mirrored(1, 3).tolist() == [0, 0, 0]
    assert pad_to(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), (2, 4)).tolist() == [[[[1, 2, 1, 2], [3, 4, 3, 4]]]]


def test_the_deepest_stage_is_never_a_single_voxel() -> None:
    network = UMamba(1, 2, strides=(1, 2, 2), features=2)
    assert network.padded((1, 3)) == [4, 8]
    assert network.padded((4, 5)) == [4, 8]
    assert network.padded((5, 4)) == [8, 4]


def test_stages_with_channel_tokens_take_the_planned_patch_only() -> None:
    network = UMambaEnc(1, 2, mamba_stages=[0, 2], channel_tokens=[2], patch=(8, 12), **TINY).eval()
    assert network.encoder.mamba_layers[2].norm.normalized_shape == (2 * 3,)  # voxels at a quarter of the size
    with torch.no_grad():
        assert network(torch.randn(1, 1, 8, 12)).shape == (1, 2, 8, 12)
        assert network(torch.randn(1, 1, 7, 9)).shape == (1, 2, 7, 9)  # which is padded to the patch
    with pytest.raises(ValueError, match=r"images of 8 x 12 .*stages \[2\] .*got 20 x 9, which pads to 20 x 12"):
        network(torch.randn(1, 1, 20, 9))


# The parts


def test_deep_supervision_gives_every_stage_in_training_only() -> None:
    network = build("umamba_bot", 1, 2, deep_supervision=True, **TINY)
    image = torch.randn(2, 1, 9, 14)
    assert [tuple(logits.shape[2:]) for logits in network(image)] == [(9, 14), (5, 7)]
    assert network.eval()(image).shape == (2, 2, 9, 14)


def test_the_finest_feature_reaches_the_decoder_unless_told_otherwise() -> None:
    with_skip, without = (build("umamba_bot", 1, 2, finest_skip=skip, **TINY) for skip in (True, False))
    assert with_skip.decoder.stages[-1][0].conv1.in_channels == 8
    assert without.decoder.stages[-1][0].conv1.in_channels == 4
    assert without(torch.randn(1, 1, 8, 8)).shape == (1, 2, 8, 8)


def test_mamba_stands_beside_the_feature_or_takes_its_place() -> None:
    layers = [MambaLayer(3, d_state=2, expand=1, residual=residual) for residual in (True, False)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(layers[0](x), x + layers[1](x))


@pytest.mark.parametrize("channel_tokens", [False, True])
def test_the_last_token_hears_the_first_and_not_the_other_way_round(channel_tokens: bool) -> None:
    """Tokens are voxels, row by row, or channels; a change is heard by those behind."""
    layer = MambaLayer(6 if channel_tokens else 3, d_state=2, expand=1, residual=False, channel_tokens=channel_tokens)
    x = torch.randn(1, 3, 2, 3)
    changed = x.clone()
    token = (0, 1) if channel_tokens else (0, slice(None), 1, 0)  # the second channel, or the fourth voxel
    changed[token] = torch.randn_like(changed[token])
    heard = (layer(x) - layer(changed))[0].abs().amax(dim=(1, 2) if channel_tokens else 0).flatten() > 1e-7
    assert heard.tolist() == ([False, True, True] if channel_tokens else [False] * 3 + [True] * 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mamba_computes_in_the_precision_of_its_weights(dtype: torch.dtype) -> None:
    layer, x = MambaLayer(4, d_state=2, expand=1, residual=False), torch.randn(1, 4, 3, 5).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, layer(x.float()))


def test_convolutions_of_the_u_start_as_he_and_those_of_mamba_do_not() -> None:
    network = build("umamba_enc", 1, 2, strides=(1, 2, 2), features=64)
    conv1d = network.encoder.mamba_layers[1].mamba.conv1d
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 30_000]
    for conv in convs:
        assert conv.weight.std().item() == pytest.approx((2 / 1.0001 / conv.weight[0].numel()) ** 0.5, rel=0.03)
    assert convs and all((m.bias == 0).all() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert conv1d.weight.abs().max() <= 0.5 and conv1d.bias.any()  # uniform, 1 / sqrt(4 taps)


# Training and files


@BOTH
def test_the_optimiser_gets_shared_weights_once(name: str) -> None:
    network = build(name, 1, 2, **TINY)
    keys = network.state_dict().keys()
    assert {"encoder.stem.1.conv1.conv.weight", "decoder.encoder.stem.1.conv1.all_modules.0.weight"} <= keys
    (group,) = torch.optim.AdamW(network.parameters()).param_groups
    assert len(group["params"]) == len({p.data_ptr() for p in network.state_dict().values()})


@BOTH
def test_a_run_saves_and_resumes(name: str, tmp_path: Path) -> None:
    config = replace(QUICK, networks=(name, "unet"), iterations=2)
    for iterations, resume in ((1, False), (2, True)):
        run = Run([scribbled_disc()], replace(config, iterations=iterations), CLASSES, folder=tmp_path, resume=resume)
        assert [progress.iteration for progress in run if progress.stage == "training"] == [iterations]
    image: Tensor = disc()[0][None]
    expected, loaded = run.model.probabilities(image), Model.load(tmp_path, "cpu").probabilities(image)
    assert (loaded[name] == expected[name]).all()
