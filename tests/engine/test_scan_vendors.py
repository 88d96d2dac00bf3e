"""mamba_ssm and causal-conv1d are used where they are there and right, and only there; stand-ins of both run here."""

import sys
import types
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.networks import causal, scan
from trainer.networks.mamba import Mamba
from trainer.networks.scan import kernel_name, kernels, mamba_ssm_kernel, selective_scan
from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.selftest import find_mismatch

GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test finds out about a kernel outlives it, and the self-tests of CUDA kernels run here."""
    torch.manual_seed(0)
    monkeypatch.delenv(scan.VARIABLE, raising=False)
    monkeypatch.setattr(scan, "find_mismatch", lambda *forms: find_mismatch(*forms[:2], "cpu"))
    monkeypatch.setattr(scan, "_triton_obstacle", lambda: "triton is not installed")
    monkeypatch.setattr(causal, "find_mismatch", lambda device, real=causal.find_mismatch: real("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    known = (scan._flaw, mamba_ssm_kernel.obstacle, causal._missing, causal._flaw)
    for function in known:
        function.cache_clear()
    yield
    for function in known:
        function.cache_clear()


def install_mamba_ssm(monkeypatch: pytest.MonkeyPatch, selective_scan_fn: Callable) -> None:
    """A package of that name, with nothing in it but the function."""
    names = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface")
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[-1]].selective_scan_fn = selective_scan_fn
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def right(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
) -> Tensor | tuple[Tensor, Tensor]:
    """As the original: one type along L, float32 for the rest, no gradient through the last state."""
    assert {t.dtype for t in (u, delta, B, C, z) if t is not None} == {u.dtype}
    assert {t.dtype for t in (A, D, delta_bias) if t is not None} == {torch.float32}
    y, last = blocked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)
    return (y, last.detach()) if return_last_state else y


def wrong(u, *tensors, **options) -> Tensor:
    """Values as they should be, and a gradient that is a little off."""
    return right(u, *tensors, **options) + 1e-3 * (u - u.detach())


def sequence() -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias"""
    wide, state = (2, 6, 9), (2, 2, 3, 9)
    tensors = [torch.randn(shape) for shape in (wide, wide, (6, 3), state, state, (6,), wide, (6,))]
    tensors[2] = -tensors[2].exp()
    return tensors


def test_a_right_mamba_ssm_is_used(monkeypatch) -> None:
    install_mamba_ssm(monkeypatch, right)
    assert kernels("cuda")["mamba_ssm"] == "usable"
    assert scan._choose(GPU, torch.float32, scan.SEQUENCES) == kernel_name("cuda") == "mamba_ssm"
    monkeypatch.setattr(scan, "_triton_obstacle", lambda: None)  # on an image, ours goes first
    monkeypatch.setattr(scan, "_flaw", lambda *of: None)
    assert scan._choose(GPU, torch.float32, scan.SEQUENCES) == "mamba_ssm"
    assert kernel_name("cuda") == "triton"
    monkeypatch.setenv(scan.VARIABLE, "mamba_ssm")
    assert kernel_name("cuda") == "mamba_ssm"


def test_a_wrong_mamba_ssm_is_named_and_not_used(monkeypatch) -> None:
    install_mamba_ssm(monkeypatch, wrong)
    with pytest.warns(
        UserWarning, match=r"kernel mamba_ssm \(cuda\) is not used, .* gradient of u of mamba_ssm_scan is"
    ):
        assert scan._choose(GPU, torch.float32, scan.SEQUENCES) == "torch"
    monkeypatch.setenv(scan.VARIABLE, "mamba_ssm")
    with pytest.raises(RuntimeError, match=r"SCRIBBLEMAMBA_SCAN=mamba_ssm, but its self-test failed"):
        kernel_name("cuda")


def test_a_mamba_ssm_that_raises_is_not_used(monkeypatch) -> None:
    def refuses(*tensors: object, **options: object) -> None:
        raise RuntimeError("no kernel image is available for execution on the device")

    install_mamba_ssm(monkeypatch, refuses)
    with pytest.warns(UserWarning, match=r"mamba_ssm .* self-test failed: RuntimeError: no kernel image"):
        assert kernel_name("cuda") == "torch"


@pytest.mark.parametrize("error", [ImportError("undefined symbol"), RuntimeError("built for another torch")])
def test_a_mamba_ssm_that_does_not_import_is_not_used(error: Exception, monkeypatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.startswith("mamba_ssm"):
                raise error

    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    for name in [name for name in sys.modules if name.startswith("mamba_ssm")]:
        monkeypatch.delitem(sys.modules, name)
    assert kernel_name("cuda") == "torch"
    assert kernels("cuda")["mamba_ssm"] == f"mamba_ssm does not import: {type(error).__name__}: {error}"


def test_what_is_not_installed_says_so(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    monkeypatch.setitem(sys.modules, "causal_conv1d", None)
    assert "mamba_ssm" in kernels("cuda")["mamba_ssm"]
    assert kernels("cuda")["triton"] == "triton is not installed"
    assert "causal_conv1d" in causal.obstacle("cuda")
    monkeypatch.setenv(scan.VARIABLE, "triton")
    with pytest.raises(RuntimeError, match="SCRIBBLEMAMBA_SCAN=triton, but triton is not installed"):
        kernel_name("cuda")
    with pytest.raises(RuntimeError, match="SCRIBBLEMAMBA_SCAN=triton, but it runs on CUDA, not on cpu"):
        selective_scan(*sequence())


def test_without_triton_its_obstacle_is_its_absence(monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "triton", None)
    assert scan._triton_obstacle.__wrapped__() == "triton is not installed"
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(__version__="3.2.0"))
    assert scan._triton_obstacle.__wrapped__() == "triton 3.2.0 is too old; install 3.3 or newer"


def test_types_are_mended_for_mamba_ssm(monkeypatch) -> None:
    """Half of the tensors in bfloat16, as autocast leaves them: it gets one type, and y has the type of u."""
    install_mamba_ssm(monkeypatch, right)
    tensors = [t.bfloat16() if i in (0, 3, 4, 5) else t for i, t in enumerate(sequence())]
    with torch.no_grad():
        y, last = mamba_ssm_kernel.mamba_ssm_scan(*tensors, True, True)
        expected, expected_last = blocked_scan(*tensors, True, True)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close((y, last), (expected, expected_last))


# causal-conv1d


def install_causal_conv1d(monkeypatch: pytest.MonkeyPatch, factor: float) -> list[int]:
    """A stand-in whose result is off by a factor; the widths of the filters it was asked for."""
    asked = []

    def causal_conv1d_fn(
        x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
    ) -> Tensor:
        assert activation == "silu"
        asked.append(weight.shape[1])
        padded = F.pad(x, (weight.shape[1] - 1, 0))
        return factor * F.silu(F.conv1d(padded, weight.unsqueeze(1), bias, groups=len(weight)))

    module = types.ModuleType("causal_conv1d")
    module.causal_conv1d_fn = causal_conv1d_fn
    monkeypatch.setitem(sys.modules, "causal_conv1d", module)
    return asked


def test_a_right_causal_conv1d_is_used_where_it_can_be(monkeypatch) -> None:
    asked = install_causal_conv1d(monkeypatch, 1.0)
    assert causal.obstacle("cuda") is None
    assert causal.obstacle("cuda", width=5) == "its filters are 2 to 4 wide, not 5"
    assert causal.obstacle("cpu") == "it runs on CUDA, not on cpu"
    layer, x = Mamba(6), torch.randn(2, 9, 6)
    plain = layer(x)
    asked.clear()
    monkeypatch.setattr(causal, "obstacle", lambda *of: None)
    torch.testing.assert_close(layer(x), plain)
    assert asked == [4]


def test_a_wrong_causal_conv1d_is_named_and_not_used(monkeypatch) -> None:
    install_causal_conv1d(monkeypatch, 1.001)
    with pytest.warns(
        UserWarning, match=r"causal-conv1d is not used on cuda, its self-test failed: y .* off by 1.0e-03"
    ):
        assert "self-test failed" in causal.obstacle("cuda")


def test_the_convolution_sees_nothing_of_what_comes() -> None:
    """Filters of one, three positions: sums of up to two."""
    x, ones = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.ones(1, 1, 2)
    expected = F.silu(torch.tensor([[[1.0, 3.0, 6.0]]]))
    torch.testing.assert_close(causal.causal_conv(x, ones, torch.zeros(1)), expected)
