"""The contract of every network, and the scan against the plainest loop."""

import json
from inspect import signature
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks import AXES, NETWORKS, SIZES, build
from trainer.networks.blocks import DropPath, PatchMerging2D, pad_to_multiple
from trainer.networks.scan import selective_scan
from trainer.networks.swin import CACHED, SwinBlock, region_mask

KEYS = Path(__file__).parents[1] / "golden/keys"
EVERY = pytest.mark.parametrize("name", [name for name in NETWORKS if 2 in AXES.get(name, (2,))])


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


def outputs(network: nn.Module, image: Tensor) -> list[Tensor]:
    """In training some networks give several."""
    found = network(image)
    return found if isinstance(found, list) else [found]


# The table


@EVERY
@pytest.mark.parametrize("size", SIZES)
def test_every_network_has_every_size(name: str, size: str) -> None:
    assert isinstance(build(name, 1, 2, size), NETWORKS[name])


@EVERY
def test_small_is_about_a_quarter_of_the_official_size_at_most(name: str) -> None:
    small, official = (sum(p.numel() for p in build(name, 1, 4, size).parameters()) for size in ("small", "official"))
    assert small <= 0.26 * official


def test_a_numbered_name_builds_the_same_network() -> None:
    assert build("unet2", 1, 4, "small").state_dict().keys() == build("unet", 1, 4, "small").state_dict().keys()


def test_an_override_wins_over_the_size() -> None:
    network = build("mambaunet", 1, 4, "small", d_state=3)
    assert network.mamba_unet.layers[0].blocks[0].self_attention.A_logs.shape[1] == 3


def test_an_unknown_name_or_size_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'vnet'.*unet, swinunet, mambaunet"):
        build("vnet", 1, 4)
    with pytest.raises(ValueError, match=r"'huge'.*official, small"):
        build("unet", 1, 4, "huge")


# The contract


@EVERY
@pytest.mark.parametrize("shape", [(1, 1), (17, 31), (97, 131), (96, 64)])
def test_any_height_and_width(name: str, shape: tuple[int, int]) -> None:
    network = build(name, 1, 4, "small").eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, *shape)).shape == (1, 4, *shape)


@EVERY
@pytest.mark.parametrize("shape", [(17, 31), (97, 131)])
def test_any_height_and_width_at_the_official_size(name: str, shape: tuple[int, int]) -> None:
    network = build(name, 1, 4).eval()
    with torch.no_grad():
        assert network(torch.randn(1, 1, *shape)).shape == (1, 4, *shape)


@EVERY
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (2, 3), (3, 5)])
def test_any_number_of_channels_and_classes(name: str, channels: int, classes: int) -> None:
    for size in SIZES:
        network = build(name, channels, classes, size).eval()
        with torch.no_grad():
            assert network(torch.randn(2, channels, 32, 32)).shape == (2, classes, 32, 32)


@EVERY
def test_gradient_reaches_every_parameter_and_the_image(name: str) -> None:
    drops = "drop_path" in signature(NETWORKS[name]).parameters
    network = build(name, 2, 3, "small", **({"drop_path": 0.0} if drops else {}))
    image = torch.randn(2, 2, 50, 66, requires_grad=True)
    sum((x * torch.randn_like(x)).sum() for x in outputs(network, image)).backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    assert (image.grad.abs().sum(dim=1) > 0).float().mean() > 0.99  # every pixel counts


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("swin_umamba", [(50, 33), (25, 17), (13, 9)]), ("swin_umamba_d", [(50, 33), (13, 9), (7, 5)])],
)
def test_deep_supervision_gives_a_list_while_training(name: str, sizes: list[tuple[int, int]]) -> None:
    network = build(name, 1, 3, "small", deep_supervision=True)
    image = torch.randn(1, 1, 50, 33)
    assert [tuple(x.shape[2:]) for x in network(image)] == sizes  # at 1, 1/2, 1/4 and at 1, 1/4, 1/8, rounded up
    assert network.eval()(image).shape == (1, 3, 50, 33)
    assert build(name, 1, 3, "small")(image).shape == (1, 3, 50, 33)


def test_vmunet_gives_logits_or_as_officially_the_probability_of_its_one_class() -> None:
    networks = [build("vmunet", 1, 1, "small", sigmoid=sigmoid).eval() for sigmoid in (False, True)]
    networks[1].load_state_dict(networks[0].state_dict())
    image = torch.randn(1, 1, 32, 32)
    logits, probabilities = (network(image) for network in networks)
    torch.testing.assert_close(probabilities, logits.sigmoid())
    with pytest.raises(ValueError, match="sigmoid is for one class, got 2"):
        build("vmunet", 1, 2, "small", sigmoid=True)


def test_depths_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="depths_decoder must have 3 values as depths has, got 2"):
        build("vmunet", 1, 2, "small", depths_decoder=(1, 1))
    with pytest.raises(ValueError, match="depths_decoder must have 2 values, one fewer than depths, got 3"):
        build("swin_umamba_d", 1, 2, "small", depths_decoder=(1, 1, 1))


@EVERY
def test_saved_and_loaded_it_says_the_same(name: str, tmp_path: Path) -> None:
    first, second = (build(name, 1, 2, "small").eval() for _ in range(2))
    image = torch.randn(1, 1, 40, 40)
    with torch.no_grad():
        assert not torch.equal(first(image), second(image))
        torch.save(first.state_dict(), tmp_path / "weights.pt")
        second.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(first(image), second(image))


@EVERY
def test_trains_under_autocast(name: str) -> None:
    network = build(name, 1, 2, "small")
    with torch.autocast("cpu", torch.bfloat16):
        loss = sum(x.float().square().mean() for x in outputs(network, torch.randn(2, 1, 64, 64)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@EVERY
def test_a_state_dict_loads_strictly(name: str) -> None:
    network = build(name, 1, 4, "small")
    weights = network.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict(dict(list(weights.items())[1:]))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict(weights | {"spare": torch.zeros(1)})


def test_cached_buffers_of_official_checkpoints_are_welcome_and_not_needed() -> None:
    keys = json.loads((KEYS / "swinunet.json").read_text())["acdc224"]["state_dict"]
    checkpoint = {key: torch.zeros(value["shape"]) for key, value in keys.items()}
    network = build("swinunet", 1, 4)
    network.load_state_dict(checkpoint)
    assert not any(key.endswith(CACHED) for key in network.state_dict())
    network.load_state_dict(network.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        network.load_state_dict(checkpoint | {"swin_unet.layers.0.blocks.0.attn.spare": torch.zeros(1)})


def test_a_grey_image_is_repeated_only_where_asked() -> None:
    networks = [
        build("swinunet", c, 2, "small", repeat_grey=repeat, conv_ends=False)
        for c in (1, 2)
        for repeat in (False, True)
    ]
    assert [network.swin_unet.patch_embed.proj.in_channels for network in networks] == [1, 3, 2, 2]
    grey = build("mambaunet", 1, 2, "small", repeat_grey=True).eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(grey(image), grey(image.repeat(1, 3, 1, 1)))
    with pytest.raises(RuntimeError, match="to have 3 channels, but got 1 channels"):
        build("mambaunet", 3, 2, "small")(image)


@EVERY
def test_a_wrong_number_of_channels_is_an_error(name: str) -> None:
    with pytest.raises(RuntimeError, match="to have 2 channels, but got 3 channels"):
        build(name, 2, 4, "small")(torch.randn(1, 3, 32, 32))


# The parts


def test_padding_mirrors_where_it_can_and_repeats_where_it_cannot() -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    assert pad_to_multiple(row, 4).tolist() == [[[[1.0, 2.0, 3.0, 2.0]] * 4]]  # along H there is but one row to repeat
    assert pad_to_multiple(row[..., :2], 4)[0, 0, 0].tolist() == [1.0, 2.0, 2.0, 2.0]
    assert pad_to_multiple(torch.ones(1, 1, 4, 8), 4).shape == (1, 1, 4, 8)


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    x = torch.ones(4000, 2, 3)
    dropped = DropPath(0.25).train()(x)
    assert set(dropped.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert (dropped == dropped[:, :1, :1]).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert torch.equal(DropPath(0.25).eval()(x), x)


def test_patch_merging_takes_the_row_before_the_column() -> None:
    merging = PatchMerging2D(1)
    merging.norm, merging.reduction = nn.Identity(), nn.Identity()
    grid = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1)
    assert merging(grid).flatten().tolist() == [1.0, 3.0, 2.0, 4.0]


def test_a_swin_window_never_looks_past_its_region() -> None:
    """Eight tokens in a row, windows of four, shifted by two: the last window holds 6, 7, and 0, 1 that came round."""
    mask = region_mask((1, 8), (1, 8), (1, 4), (0, 2), torch.device("cpu"))
    apart = [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    assert (mask / -100).tolist() == [[[0] * 4] * 4, apart]


@pytest.mark.parametrize("grid", [(5, 9), (4, 4), (3, 11), (8, 8)])
@pytest.mark.parametrize("shift", [0, 2])
def test_padding_inside_a_swin_block_changes_nothing(grid: tuple[int, int], shift: int, monkeypatch) -> None:
    """What stands in the padding must not matter: the block says the same whether it is 0 or 7."""
    block = SwinBlock(8, heads=2, window=4, shift=shift, mlp_ratio=2.0, drop_path=0.0).double()
    x = torch.randn(1, *grid, 8, dtype=torch.float64)
    expected = block.attend(x)
    pad = F.pad
    monkeypatch.setattr(F, "pad", lambda x, amount: pad(x, amount, value=7.0))
    torch.testing.assert_close(block.attend(x), expected, rtol=0, atol=1e-12)


# The scan


def plain_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence as the paper writes it, one position at a time: y (B, D, L) and the last state (B, D, N)."""
    B, C = (t.repeat_interleave(u.shape[1] // t.shape[1], dim=1) for t in (B, C))  # (B, D, N, L)
    delta = F.softplus(delta + bias[:, None])
    h, y = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype), []
    for t in range(u.shape[2]):
        d = delta[:, :, t, None]
        h = torch.exp(d * A) * h + d * B[..., t] * u[:, :, t, None]
        y.append((h * C[..., t]).sum(-1) + D * u[:, :, t])
    return torch.stack(y, dim=-1) * F.silu(z), h


def scan_tensors(batch: int, D: int, G: int, N: int, L: int) -> dict[str, Tensor]:
    shapes = {"u": (batch, D, L), "delta": (batch, D, L), "A": (D, N), "B": (batch, G, N, L), "C": (batch, G, N, L)}
    shapes |= {"D": (D,), "z": (batch, D, L), "delta_bias": (D,)}
    t = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    t["A"] = -t["A"].exp()
    return {name: value.requires_grad_() for name, value in t.items()}


@pytest.mark.parametrize(
    ("batch", "D", "G", "N", "L"),
    [(1, 1, 1, 1, 1), (2, 6, 3, 5, 1), (2, 4, 2, 1, 17), (1, 6, 1, 16, 64), (3, 8, 4, 5, 65), (2, 3, 3, 2, 150)],
)
def test_scan_is_the_plain_recurrence(batch: int, D: int, G: int, N: int, L: int) -> None:
    t = scan_tensors(batch, D, G, N, L)
    y, last = selective_scan(*t.values(), delta_softplus=True, return_last_state=True)
    expected, h = plain_scan(*t.values())
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, h, rtol=1e-10, atol=1e-10)
    wy, wh = torch.randn_like(y), torch.randn_like(h)
    ours = torch.autograd.grad((y * wy).sum() + (last * wh).sum(), list(t.values()))
    theirs = torch.autograd.grad((expected * wy).sum() + (h * wh).sum(), list(t.values()))
    for name, a, b in zip(t, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def test_scan_passes_gradcheck() -> None:
    t = list(scan_tensors(1, 2, 1, 2, 3).values())
    assert torch.autograd.gradcheck(lambda *t: selective_scan(*t, delta_softplus=True, return_last_state=True), t)


def test_scan_takes_any_strides_and_ungrouped_b_and_c() -> None:
    t = {name: value.detach() for name, value in scan_tensors(2, 4, 1, 3, 9).items()}
    expected = selective_scan(**t)
    strided = {k: v.mT.contiguous().mT if v.dim() > 1 else v for k, v in t.items()}
    strided["B"], strided["C"] = strided["B"][:, 0], strided["C"][:, 0]
    torch.testing.assert_close(selective_scan(**strided), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_scan_computes_in_float32_and_answers_in_the_dtype_of_u(dtype: torch.dtype) -> None:
    t = {name: value.detach().to(dtype) for name, value in scan_tensors(2, 4, 2, 3, 40).items()}
    with torch.autocast("cpu", torch.bfloat16):
        y, last = selective_scan(**t, delta_softplus=True, return_last_state=True)
    expected = selective_scan(**{name: value.double() for name, value in t.items()}, delta_softplus=True)
    assert (y.dtype, last.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(y, expected.to(dtype), rtol=torch.finfo(dtype).eps * 4, atol=1e-5)


def test_scan_says_which_shape_is_wrong() -> None:
    t = {name: value.detach() for name, value in scan_tensors(2, 4, 1, 3, 9).items()}
    with pytest.raises(ValueError, match=r"delta must have the shape of u, \(2, 4, 9\), got \(2, 4, 8\)"):
        selective_scan(**t | {"delta": t["delta"][..., 1:]})
    with pytest.raises(ValueError, match="B and C must have the shape"):
        selective_scan(**t | {"C": t["C"][..., 1:]})
    with pytest.raises(ValueError, match="must divide the 4 channels of u, got 3"):
        selective_scan(**t | {name: t[name].expand(-1, 3, -1, -1) for name in "BC"})
    with pytest.raises(ValueError, match="A must be real"):
        selective_scan(**t | {"A": t["A"] + 0j})


def test_scan_refuses_a_second_derivative() -> None:
    t = scan_tensors(1, 2, 1, 2, 3)
    (grad,) = torch.autograd.grad(selective_scan(**t).sum(), t["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
