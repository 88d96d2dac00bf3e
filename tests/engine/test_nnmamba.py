"""nnMamba: volumes of any size, its three tasks, and what its four readings and its heads are."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.files import read_tensors, write_tensors
from trainer.losses import dice_loss, one_hot
from trainer.networks import CLASSIFIERS, NETWORKS, SIZES, build
from trainer.networks.blocks import Conv3d, pad_to_multiple
from trainer.networks.nnmamba import MambaLayer, NnMambaEncoder, NnMambaSeg

KINDS = {"nnmamba": NETWORKS["nnmamba"], **CLASSIFIERS}
EVERY = pytest.mark.parametrize("name", KINDS)
TINY = {"width": 8, "blocks": 3}  # three blocks: two of them share a Mamba layer


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def expected_shape(name: str, batch: int, classes: int, size: tuple[int, ...]) -> tuple[int, ...]:
    return (batch, classes) if name == "nnmamba_cls" else (batch, classes, *size)


def open_gates(network: NnMambaSeg) -> NnMambaSeg:
    """With small widths a gate has one hidden unit; one that starts below zero passes no gradient, officially too."""
    for gate in (network.att1, network.att2, network.att3):
        nn.init.ones_(gate.layer1.bias)
    return network


def without_gradient(network: nn.Module, image: Tensor) -> list[str]:
    """The parameters that a loss over the outputs does not reach."""
    outputs = network(image)
    sum((x * torch.randn_like(x)).sum() for x in (outputs if isinstance(outputs, list) else [outputs])).backward()
    return [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


# The contract


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_every_network_has_every_size(name: str, size: str) -> None:
    assert isinstance(build(name, 1, 2, size), KINDS[name])


@EVERY
def test_small_is_a_quarter_of_the_official_size_at_most(name: str) -> None:
    small, official = (sum(p.numel() for p in build(name, 1, 4, size).parameters()) for size in ("small", "official"))
    assert small <= official / 4


@EVERY
@pytest.mark.parametrize("size", [(1, 1, 1), (7, 20, 33), (37, 50, 61), (16, 32, 16)])
def test_any_depth_height_and_width(name: str, size: tuple[int, ...]) -> None:
    network = build(name, 1, 4, "small", **TINY).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, *size)).shape == expected_shape(name, 1, 4, size)


@EVERY
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (2, 3), (4, 2)])
def test_any_number_of_channels_and_classes(name: str, channels: int, classes: int) -> None:
    network = build(name, channels, classes, "small", **TINY).eval()
    with torch.no_grad():
        output = network(torch.randn(2, channels, 16, 17, 18))
    assert output.shape == expected_shape(name, 2, classes, (16, 17, 18))


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("four_way", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_gradient_reaches_every_parameter_of_a_segmentation(
    deep_supervision: bool, four_way: bool, residual: bool
) -> None:
    network = NnMambaSeg(2, 3, **TINY, deep_supervision=deep_supervision, four_way=four_way, residual=residual)
    assert without_gradient(open_gates(network), torch.randn(2, 2, 20, 32, 33)) == []


@pytest.mark.parametrize("sequence_head", [False, True])
def test_gradient_reaches_every_parameter_of_a_classification(sequence_head: bool) -> None:
    network = NnMambaEncoder(2, 3, **TINY, sequence_head=sequence_head)
    assert without_gradient(network, torch.randn(4, 2, 20, 32, 33)) == []


@EVERY
def test_every_voxel_counts(name: str) -> None:
    image = torch.randn(1, 1, 18, 20, 33, requires_grad=True)
    network = build(name, 1, 2, "small", **TINY).eval()
    output = network(image)
    (output * torch.randn_like(output)).sum().backward()
    assert (image.grad != 0).float().mean() > 0.99


@EVERY
def test_saved_and_loaded_it_says_the_same(name: str, tmp_path: Path) -> None:
    first, second = (build(name, 1, 2, "small", **TINY).eval() for _ in range(2))
    image = torch.randn(1, 1, 17, 18, 19)
    with torch.no_grad():
        assert not torch.equal(first(image), second(image))
        write_tensors(tmp_path / "weights.safetensors", first.state_dict())  # the shared layer twice
        second.load_state_dict(read_tensors(tmp_path / "weights.safetensors")[0], strict=True)
        assert torch.equal(first(image), second(image))


@EVERY
def test_trains_under_autocast(name: str) -> None:
    network = build(name, 1, 2, "small", **TINY)
    with torch.autocast("cpu", torch.bfloat16):
        loss = network(torch.randn(2, 1, 20, 32, 16)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@EVERY
def test_a_slice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"takes volumes .* got \(1, 64, 64\); use a 2-D network"):
        build(name, 1, 2, "small")(torch.randn(1, 64, 64))


@EVERY
def test_a_volume_too_small_to_train_on_is_refused(name: str) -> None:
    network, image = build(name, 1, 2, "small", **TINY), torch.randn(2, 1, 16, 9, 16)
    with pytest.raises(ValueError, match=r"one value, got \(16, 9, 16\); use larger patches or a batch of two"):
        network(image[:1])
    assert network(image).isfinite().all()
    assert network.eval()(image[:1]).isfinite().all()


# The parts


def test_padding_goes_along_every_axis() -> None:
    row = torch.tensor([1.0, 2.0, 3.0])
    padded = pad_to_multiple(row.reshape(1, 1, 3, 1, 1), 4)
    assert padded.shape == (1, 1, 4, 4, 4)
    assert padded[0, 0, :, 2, 3].tolist() == [1.0, 2.0, 3.0, 2.0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 2, 1), (2, 6, 5), (4, 1, 1), (5, 1, 1), (3, 4, 4), (4, 6, 5)])
def test_the_gradient_in_bfloat16_is_that_of_float32(size: tuple[int, ...], stride: int) -> None:
    conv, image = Conv3d(32, 32, 3, stride, padding=1), torch.randn(2, 32, *size)
    gradients = []
    for half in (False, True):
        spoilt = [torch.full((1000 * i + 7,), float("nan")) for i in range(1, 60)]  # freed at once, to be reused
        del spoilt
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = conv(image).float().square().sum()
        gradients.append(torch.autograd.grad(loss, conv.weight)[0])
    assert (gradients[1] - gradients[0]).norm() < 0.02 * gradients[0].norm()


# The Mamba layer


def test_blocks_of_a_stage_share_one_mamba_layer_and_stages_do_not() -> None:
    network = NnMambaSeg(1, 2, width=8, blocks=4)
    layers = [[block.mamba_layer for block in stage] for stage in (network.layer1, network.layer2, network.layer3)]
    assert all(first is None and second is third is fourth for first, second, third, fourth in layers)
    assert len({id(stage[1]) for stage in layers}) == 3


def test_four_readings_are_the_mean_of_one_reading_of_each_reversal() -> None:
    layer = MambaLayer(8, four_way=True)
    tokens = torch.randn(2, 11, 8)
    along = [layer.mamba(tokens), layer.mamba(tokens.flip(1)).flip(1)]
    across = [layer.mamba(tokens.flip(2)).flip(2), layer.mamba(tokens.flip(1).flip(2)).flip(1).flip(2)]
    torch.testing.assert_close(layer.read_four_ways(tokens), sum(along + across) / 4)


@pytest.mark.parametrize(("four_way", "seen"), [(False, False), (True, True)])
def test_only_four_readings_let_the_first_voxel_see_the_last(four_way: bool, seen: bool) -> None:
    layer = MambaLayer(8, four_way=four_way, residual=False).eval()
    image = torch.randn(1, 8, 2, 3, 4, requires_grad=True)
    layer(image)[0, :, 0, 0, 0].sum().backward()
    assert bool(image.grad[0, :, -1, -1, -1].any()) is seen


# Segmentation


def test_deep_supervision_gives_a_list_finest_first_while_training() -> None:
    network = NnMambaSeg(1, 3, **TINY, deep_supervision=True)
    image = torch.randn(1, 1, 18, 37, 40)
    sizes = [tuple(x.shape) for x in network(image)]
    assert sizes == [(1, 3, 18, 37, 40), (1, 3, 9, 19, 20), (1, 3, 5, 10, 10), (1, 3, 3, 5, 5)]  # rounded up
    assert network.eval()(image).shape == (1, 3, 18, 37, 40)


def test_only_the_official_head_has_no_negative_logits() -> None:
    image = torch.randn(1, 1, 16, 16, 32)
    with torch.no_grad():
        assert NnMambaSeg(1, 2, **TINY, official_head=True)(image).min() == 0
        assert NnMambaSeg(1, 2, **TINY)(image).min() < 0


def test_a_landmark_is_a_channel() -> None:
    network = NnMambaSeg(1, 5, **TINY)
    assert network(torch.randn(1, 1, 20, 24, 28)).shape == (1, 5, 20, 24, 28)


def ball(size: tuple[int, ...], centre: tuple[float, ...], radius: float) -> Tensor:
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    return sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)).sqrt() < radius


def test_learns_a_ball() -> None:
    truth = ball((16, 18, 32), (8, 9, 14), 6).long()[None]  # (B, D, H, W)
    image = (truth + 0.3 * torch.randn(truth.shape))[:, None]
    network = build("nnmamba", 1, 2, "small")
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        logits = network(image)
        (F.cross_entropy(logits, truth) + dice_loss(logits.softmax(dim=1), one_hot(truth, 2))).backward()
        optimiser.step()
    labels = network(image).argmax(dim=1)
    assert 2 * (labels * truth).sum() / (labels.sum() + truth.sum()) > 0.95


# Classification


def test_the_sequence_head_reads_three_stages_as_seven_steps() -> None:
    network = NnMambaEncoder(1, 2, width=8, sequence_head=True)
    seen = []
    network.mamba_seq.mamba.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    means = [torch.full((3, 16), 1.0), torch.full((3, 32), 2.0), torch.full((3, 64), 4.0)]
    assert network.read(means).shape == (3, 112)
    assert seen[0].shape == (3, 7, 16)
    assert seen[0][0, :, 0].tolist() == [1, 2, 2, 4, 4, 4, 4]  # fine to coarse
    assert network(torch.randn(2, 1, 20, 24, 28)).shape == (2, 2)


def test_the_sequence_head_has_the_published_size() -> None:
    mamba = NnMambaEncoder(1, 2, sequence_head=True).mamba_seq.mamba
    assert mamba.out_proj.weight.shape == (64, 128)  # 2c = 64 channels, expanded twice
    assert mamba.A_log.shape == (128, 8) and mamba.conv1d.weight.shape == (128, 1, 2)


def test_without_its_mamba_the_sequence_head_is_the_plain_one() -> None:
    """The identity remains; the features arrive in another order, stage by stage within each channel."""
    network = NnMambaEncoder(1, 2, width=8, sequence_head=True)
    nn.init.zeros_(network.mamba_seq.mamba.out_proj.weight)
    means = [torch.randn(3, 16), torch.randn(3, 32), torch.randn(3, 64)]
    plain = torch.cat(means, dim=1)
    assert torch.equal(network.read(means).sort(dim=1).values, plain.sort(dim=1).values)


@pytest.mark.parametrize("sequence_head", [False, True])
def test_learns_which_volumes_hold_a_ball(sequence_head: bool) -> None:
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    bright = ball((18, 20, 24), (9, 10, 12), 7).float()
    images = torch.stack([label * bright for label in labels])[:, None] + 0.3 * torch.randn(6, 1, 18, 20, 24)
    network = NnMambaEncoder(1, 2, width=8, blocks=2, sequence_head=sequence_head)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimiser.step()
    network.mlp[2].eval()  # the dropout alone: twenty steps are too few for the running means of the batch norms
    assert network(images).argmax(dim=1).tolist() == labels.tolist()
