"""The C kernel of the scan: right on every shape and instruction set, in threads and after forks; and which one runs.

Its reference is the torch path in float64, which test_networks.py compares with the plainest loop.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.networks import scan
from trainer.networks.scan import kernel_name, kernels, native, selective_scan, ss2d_scan
from trainer.networks.scan.blocked import blocked_scan
from trainer.networks.scan.gathered import gathered_ss2d
from trainer.networks.scan.native import native_scan, native_ss2d
from trainer.networks.vss import SS2D, directions

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import parity_check

GOLDEN = Path(__file__).parents[1] / "golden"
MISSING = native.obstacle()
needs_library = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
EVERY_ISA = pytest.mark.parametrize("isa", [] if MISSING else native.instruction_sets())

# float32 keeps 6e-8; a sum of a few hundred terms, of which the largest cancel, keeps some 1e-6 of the largest value
TOLERANCE = 5e-6


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No kernel is forced, and nothing that a test finds out about one outlives it."""
    torch.manual_seed(0)
    monkeypatch.delenv(scan.VARIABLE, raising=False)
    monkeypatch.delenv(native.VARIABLE, raising=False)
    known = (scan._flaw, native.obstacle, native.library, native.instruction_sets)
    yield
    for function in known:
        function.cache_clear()


def numbers(*shapes: tuple[int, ...], sign: int = -1) -> list[Tensor]:
    """Normal numbers that float32 can hold; the third, A, all negative or all positive."""
    tensors = [torch.randn(shape) for shape in shapes]
    tensors[2] = sign * tensors[2].exp().clamp(max=1 if sign > 0 else 9)
    return [t.double() for t in tensors]


def sequence(batch: int, G: int, D: int, N: int, L: int, sign: int = -1) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias for groups of D channels."""
    wide, state = (batch, G * D, L), (batch, G, N, L)
    return numbers(wide, wide, (G * D, N), state, state, (G * D,), wide, (G * D,), sign=sign)


def image(batch: int, K: int, D: int, N: int, L: int) -> tuple[list[Tensor], Tensor]:
    """x, dt, A, B, C, D, dt_bias, and as many orders of the positions."""
    state = (batch, L, K, N)
    tensors = numbers((batch, L, D), (batch, L, K, D), (K, D, N), state, state, (K, D), (K, D))
    return tensors, torch.stack([torch.randperm(L) for _ in range(K)])


def image_of_rank(R: int, batch: int, K: int, D: int, N: int, L: int) -> tuple[list[Tensor], Tensor]:
    """The same with dt of rank R; the weight that makes steps of it comes last."""
    tensors, positions = image(batch, K, D, N, L)
    tensors[1], weight = numbers((batch, L, K, R), (K, D, R), (1,))[:2]
    return [*tensors, weight / R], positions


def ranked(ss2d: Callable, positions: Tensor) -> Callable:
    """Takes the tensors of `image_of_rank`."""
    return lambda *tensors: ss2d(*tensors[:-1], positions, tensors[-1])


def outcome(function: Callable, tensors: list[Tensor | None], *rest: object) -> list[Tensor]:
    """What a scan returns, and the gradients of a weighted sum of it."""
    tensors = [t if t is None else t.clone().requires_grad_() for t in tensors]
    outputs = function(*tensors, *rest)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    asked = [torch.linspace(-1, 2, o.numel()).reshape(o.shape).to(o.dtype) for o in outputs]
    used = [t for t in tensors if t is not None]
    return [*(o.detach() for o in outputs), *torch.autograd.grad(outputs, used, asked)]


def in_float32(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [t if t is None else t.float() for t in tensors]


def assert_near(got: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    for part, (a, b) in enumerate(zip(got, expected, strict=True)):
        error, largest = (a.double() - b).abs().max().item(), b.abs().max().item()
        assert error <= tolerance * largest, f"part {part}: {error:.1e} of {largest:.1e}"


# The right numbers


@EVERY_ISA
@pytest.mark.parametrize(
    ("batch", "G", "D", "N", "L"),
    [
        *[(1, 1, 1, 1, 1), (2, 1, 17, 3, 2), (1, 2, 35, 4, 37), (2, 3, 5, 8, 33), (1, 1, 16, 16, 200)],
        *[(2, 1, 70, 17, 37), (1, 4, 9, 64, 32), (3, 2, 64, 1, 37), (1, 1, 150, 16, 33)],
    ],
)
def test_sequences_are_those_of_torch(isa: str, batch: int, G: int, D: int, N: int, L: int, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    tensors = sequence(batch, G, D, N, L)
    expected = outcome(blocked_scan, tensors, True, True)
    assert_near(outcome(native_scan, in_float32(tensors), True, True), expected)


@EVERY_ISA
@pytest.mark.parametrize(
    ("batch", "K", "D", "N", "L"),
    [
        *[(2, 1, 1, 1, 1), (1, 2, 70, 3, 37), (2, 3, 20, 8, 200), (1, 4, 33, 16, 36), (2, 4, 7, 17, 64)],
        *[(1, 2, 5, 4, 2), (1, 2, 20, 64, 5), (2, 2, 64, 1, 33), (1, 3, 147, 1, 70)],
    ],
)
def test_images_are_those_of_torch(isa: str, batch: int, K: int, D: int, N: int, L: int, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    tensors, positions = image(batch, K, D, N, L)
    expected = outcome(gathered_ss2d, tensors, positions)
    assert_near(outcome(native_ss2d, in_float32(tensors), positions), expected)


@EVERY_ISA
@pytest.mark.parametrize(
    ("R", "batch", "K", "D", "N", "L"),
    [
        *[(1, 2, 1, 1, 1, 2), (3, 2, 3, 33, 5, 37), (6, 1, 4, 192, 16, 70), (12, 2, 2, 20, 8, 33)],
        *[(21, 1, 2, 70, 17, 40), (6, 2, 4, 64, 1, 36), (48, 1, 2, 147, 1, 33), (16, 1, 3, 35, 1, 5)],
    ],
)
def test_steps_of_a_rank_are_those_of_torch(isa: str, R: int, batch: int, K: int, D: int, N: int, L: int, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, isa)
    tensors, positions = image_of_rank(R, batch, K, D, N, L)
    expected = outcome(ranked(gathered_ss2d, positions), tensors)
    assert_near(outcome(ranked(native_ss2d, positions), in_float32(tensors)), expected)


@EVERY_ISA
def test_nan_in_the_steps_of_a_rank_comes_out(isa: str, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    for which in range(8):
        tensors, positions = image_of_rank(3, 1, 2, 21, 4, 20)
        tensors = in_float32(tensors)
        tensors[which].view(-1)[0] = torch.nan
        expected = ranked(gathered_ss2d, positions)(*tensors).isnan()
        assert expected.any()
        assert torch.equal(ranked(native_ss2d, positions)(*tensors).isnan(), expected)


@needs_library
@pytest.mark.parametrize("D", range(1, 71))
def test_any_number_of_channels(D: int) -> None:
    tensors, positions = image(1, 2, D, 5, 7)
    expected = outcome(gathered_ss2d, tensors, positions)
    assert_near(outcome(native_ss2d, in_float32(tensors), positions), expected)


@EVERY_ISA
@pytest.mark.parametrize("without", [(), (5,), (6,), (7,), (5, 6, 7)], ids=["", "D", "z", "bias", "all"])
@pytest.mark.parametrize("softplus", [False, True])
def test_everything_optional_may_be_left_out(isa: str, without: tuple[int, ...], softplus: bool, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    tensors = sequence(2, 2, 11, 4, 20)
    if not softplus:  # steps are positive in any network; 1 e-fold at most keeps the state from growing
        tensors[1], tensors[7] = tensors[1].abs(), tensors[7].abs()
    tensors = [None if i in without else t for i, t in enumerate(tensors)]
    expected = outcome(blocked_scan, tensors, softplus, False)
    assert_near(outcome(native_scan, in_float32(tensors), softplus, False), expected)


@EVERY_ISA
def test_a_state_may_grow(isa: str, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    tensors = sequence(1, 1, 21, 5, 12, sign=1)
    expected = outcome(blocked_scan, tensors, True, True)
    assert_near(outcome(native_scan, in_float32(tensors), True, True), expected)


@EVERY_ISA
def test_what_no_float_can_hold_is_infinite_and_what_is_forgotten_is_gone(isa: str, monkeypatch) -> None:
    """One is fed at the first position; the state is 1, e^A, e^2A."""
    monkeypatch.setenv(native.VARIABLE, isa)
    u, ones = torch.tensor([[[1.0, 0.0, 0.0]]]), torch.ones(1, 1, 3)
    for A, states in ((80.0, [1.0, 5.540622e34, torch.inf]), (-200.0, [1.0, 0.0, 0.0]), (0.0, [1.0, 1.0, 1.0])):
        y = native_scan(u, ones, torch.tensor([[A]]), ones, ones, None, None, None, False, False)
        assert y.flatten().tolist() == pytest.approx(states, rel=1e-5, abs=1e-30)


@EVERY_ISA
def test_a_step_is_the_softplus_and_its_gradient_the_logistic_function(isa: str, monkeypatch) -> None:
    """One position with x, B, C of 1: y is the step itself, also where it is small or where e^dt overflows."""
    monkeypatch.setenv(native.VARIABLE, isa)
    dt = torch.linspace(-12, 100, 1121).requires_grad_()  # by tenths
    wide, one = torch.ones(1, 1121, 1), torch.ones(1, 1, 1)
    y = native_scan(wide, dt[None, :, None], -wide[0], one, one, None, None, None, True, False)
    (slope,) = torch.autograd.grad(y.sum(), dt)
    exact = dt.detach().double()
    torch.testing.assert_close(y.flatten().double(), exact.exp().log1p(), rtol=2e-6, atol=0)
    torch.testing.assert_close(slope.double(), exact.sigmoid(), rtol=2e-6, atol=0)


@EVERY_ISA
@pytest.mark.parametrize("N", [1, 3])
def test_nan_in_nan_out(isa: str, N: int, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    for which in range(8):
        tensors = in_float32(sequence(1, 1, 5, N, 20))
        tensors[which].view(-1)[0] = torch.nan
        expected = blocked_scan(*tensors, True, False).isnan()
        assert expected.any()
        assert torch.equal(native_scan(*tensors, True, False).isnan(), expected)


@EVERY_ISA
def test_long_sequences_keep_the_sums_over_positions_exact(isa: str, monkeypatch) -> None:
    """dA, dD and dbias are sums of 3000 terms; added up one by one in float32 they would be off by some 1e-5."""
    monkeypatch.setenv(native.VARIABLE, isa)
    tensors = sequence(1, 1, 20, 4, 3000)
    expected = outcome(blocked_scan, tensors, True, False)
    assert_near(outcome(native_scan, in_float32(tensors), True, False), expected, tolerance=2e-6)


@EVERY_ISA
def test_the_official_scan(isa: str, monkeypatch) -> None:
    monkeypatch.setenv(native.VARIABLE, isa)
    monkeypatch.setenv(scan.VARIABLE, "native")
    assert parity_check.check_scan(selective_scan, GOLDEN / "public/selective_scan.json", dtypes=("float32",))


def test_images_in_torch_are_the_plain_walk() -> None:
    """Two directions, two positions: the first walks 0, 1, the second 1, 0, and with A = 0 nothing is forgotten."""
    x, dt = torch.tensor([[[1.0], [2.0]]]).double(), torch.full((1, 2, 2, 1), 0.5).double()
    A, ones, none = torch.zeros(2, 1, 1), torch.ones(1, 2, 2, 1), torch.zeros(2, 1)
    y = gathered_ss2d(x, dt, A, ones, ones, none, none, torch.tensor([[0, 1], [1, 0]]))
    d = torch.tensor(0.5).double().exp().log1p()  # softplus
    torch.testing.assert_close(y.flatten(), d * torch.tensor([1.0 + 3.0, 3.0 + 2.0]).double())


def test_directions_are_rows_and_columns_there_and_back() -> None:
    """0 1 2
    3 4 5"""
    rows, columns = [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]
    assert directions(2, 3, torch.device("cpu")).tolist() == [rows, columns, rows[::-1], columns[::-1]]


def test_images_in_torch_pass_gradcheck() -> None:
    tensors, positions = image(2, 2, 2, 1, 3)
    tensors = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: gathered_ss2d(*t, positions), tensors)


# Any tensors


@needs_library
def test_any_strides() -> None:
    tensors, positions = image(2, 3, 6, 4, 10)
    tensors = in_float32(tensors)
    expected = outcome(native_ss2d, tensors, positions)
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    gaps = [torch.stack([t, t], dim=-1)[..., 0] for t in tensors]
    wide = [t if t.dim() < 4 else torch.cat([t, t], dim=-1)[..., : t.shape[-1]] for t in tensors]
    for others in (strided, gaps, wide):
        assert_near(outcome(native_ss2d, others, positions.T.contiguous().T), expected, tolerance=0)


@needs_library
def test_any_strides_of_a_rank() -> None:
    tensors, positions = image_of_rank(3, 2, 3, 6, 4, 10)
    tensors = in_float32(tensors)
    expected = outcome(ranked(native_ss2d, positions), tensors)
    strided = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    wide = [torch.cat([t, t], dim=-1)[..., : t.shape[-1]] for t in tensors]
    for others in (strided, wide):
        assert_near(outcome(ranked(native_ss2d, positions), others), expected, tolerance=0)


@needs_library
@pytest.mark.parametrize("shape", [(3, 1, 2, 5), (1, 4, 1, 5), (2, 4, 3, 1), (2, 1, 1, 1)])
def test_strides_of_axes_of_length_one_mean_nothing(shape: tuple[int, ...]) -> None:
    batch, L, K, D = shape
    tensors, positions = image(batch, K, D, 1, L)
    tensors = in_float32(tensors)
    expected = outcome(native_ss2d, tensors, positions)
    with torch.no_grad():
        assert torch.equal(native_ss2d(*map(with_odd_strides, tensors), positions), expected[0])


def with_odd_strides(t: Tensor) -> Tensor:
    return t.as_strided(t.shape, [7 if n == 1 else stride for n, stride in zip(t.shape, t.stride(), strict=True)])


@needs_library
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    tensors, positions = image(1, 2, 6, 4, 10)
    tensors = [t.to(dtype) for t in tensors]
    with torch.autocast("cpu", torch.bfloat16):
        y, *gradients = outcome(ss2d_scan, tensors, positions)
    assert {y.dtype, *(g.dtype for g in gradients)} == {dtype}
    expected = gathered_ss2d(*(t.double() for t in tensors), positions)
    torch.testing.assert_close(y, expected.to(dtype), rtol=torch.finfo(dtype).eps * 2, atol=1e-3)


@needs_library
def test_a_layer_says_the_same_by_either_kernel(monkeypatch) -> None:
    layer, x = SS2D(6), torch.randn(2, 5, 7, 6)
    outcomes = []
    for kernel in ("torch", "native"):
        monkeypatch.setenv(scan.VARIABLE, kernel)
        outcomes.append(outcome(lambda x, *p: layer(x), [x]))
    assert_near(*outcomes)


@needs_library
def test_it_keeps_nothing_where_no_gradient_is_wanted() -> None:
    tensors, positions = image(1, 2, 6, 4, 10)
    parameters = [t.requires_grad_() for t in in_float32(tensors)]
    with torch.inference_mode():
        first = native_ss2d(*parameters, positions)
    with torch.no_grad():
        assert native_ss2d(*parameters, positions).grad_fn is None
    assert torch.equal(native_ss2d(*parameters, positions), first)


@needs_library
def test_a_second_derivative_is_refused() -> None:
    tensors, positions = image(1, 1, 2, 1, 3)
    x, *rest = (t.requires_grad_() for t in in_float32(tensors))
    (gradient,) = torch.autograd.grad(native_ss2d(x, *rest, positions).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_ss2d_says_which_shape_is_wrong() -> None:
    tensors, positions = image(2, 3, 6, 4, 10)
    for which, name in enumerate(["dt", "A", "B", "C", "D", "dt_bias"], start=1):
        wrong = [t[..., :-1] if i == which else t for i, t in enumerate(tensors)]
        with pytest.raises(ValueError, match=rf"{name if name != 'A' else 'A|B'} must have the shape"):
            ss2d_scan(*wrong, positions)
    with pytest.raises(ValueError, match=r"positions must have the shape \(3, 10\), got \(3, 9\)"):
        ss2d_scan(*tensors, positions[:, 1:])
    with pytest.raises(ValueError, match=r"positions must be int64, got torch\.int32"):
        ss2d_scan(*tensors, positions.int())
    ranks, positions = image_of_rank(2, 2, 3, 6, 4, 10)
    with pytest.raises(ValueError, match=r"dt_weight must have the shape \(3, 6, 2\), got \(3, 5, 2\)"):
        ss2d_scan(*ranks[:-1], positions, ranks[-1][:, 1:])
    with pytest.raises(ValueError, match=r"dt must have the shape \(2, 10, 3, 2\), got \(2, 10, 3, 6\)"):
        ss2d_scan(*tensors, positions, ranks[-1])


@needs_library
@pytest.mark.parametrize("wrong", [-1, 10, 3], ids=["before", "behind", "twice"])
def test_positions_must_be_permutations(wrong: int) -> None:
    tensors, positions = image(1, 2, 6, 4, 10)
    positions[1] = torch.arange(10)
    positions[1, 4] = wrong
    with pytest.raises(ValueError, match=r"permutations of 0\.\.9"):
        native_ss2d(*in_float32(tensors), positions)


# Threads and processes


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(native, "WORTH_A_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@needs_library
def test_threads_change_nothing_not_even_the_last_bit(three_threads: None) -> None:
    tensors, positions = image(2, 2, 300, 5, 40)
    tensors = in_float32(tensors)
    many = outcome(native_ss2d, tensors, positions)
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(many, outcome(native_ss2d, tensors, positions), strict=True))


@needs_library
def test_threads_change_nothing_of_a_rank(three_threads: None) -> None:
    tensors, positions = image_of_rank(6, 2, 2, 300, 5, 40)
    scan, tensors = ranked(native_ss2d, positions), in_float32(tensors)
    many = outcome(scan, tensors)
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(many, outcome(scan, tensors), strict=True))


@needs_library
def test_several_scans_at_the_same_time(three_threads: None) -> None:
    tensors, positions = image(2, 2, 70, 5, 40)
    tensors = in_float32(tensors)
    expected, got = outcome(native_ss2d, tensors, positions), {}
    threads = [
        threading.Thread(target=lambda i=i: got.update({i: outcome(native_ss2d, tensors, positions)})) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for _ in range(20):
        torch.randn(64, 64) @ torch.randn(64, 64)
    for thread in threads:
        thread.join()
    assert len(got) == 4
    assert all(torch.equal(a, b) for one in got.values() for a, b in zip(one, expected, strict=True))


@needs_library
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_it_works_after_a_fork(three_threads: None) -> None:
    tensors, positions = image(2, 2, 70, 5, 40)
    tensors = in_float32(tensors)
    with torch.no_grad():
        expected = native_ss2d(*tensors, positions)  # its threads run now, and will not in the child
        child = os.fork()
        if child == 0:
            os._exit(0 if torch.equal(native_ss2d(*tensors, positions), expected) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@needs_library
def test_no_memory_is_a_memory_error(monkeypatch) -> None:
    tensors, positions = image(1, 1, 2, 1, 3)
    library = native.library()
    monkeypatch.setattr(native, "library", lambda: _Exhausted(library))
    with pytest.raises(MemoryError, match="channels 2, N 1"):
        native_ss2d(*in_float32(tensors), positions)


class _Exhausted:
    """The library on a machine whose memory is used up."""

    def __init__(self, library: object) -> None:
        self.library = library

    def __getattr__(self, name: str) -> object:
        return (lambda *arguments: 1) if name == "scan_forward" else getattr(self.library, name)


# Which kernel runs


@needs_library
def test_the_library_is_used_where_it_can_be() -> None:
    assert kernels()["native"] == kernels()["torch"] == "usable"
    assert kernel_name("cpu") == "native"
    assert kernel_name("cuda") == kernel_name("mps") == "torch"
    assert kernels("cuda")["native"] == "it runs on the processor, not on cuda"


@needs_library
def test_each_kernel_is_the_one_that_was_asked_for(monkeypatch) -> None:
    ran = []
    both = {name: (lambda *t, name=name: ran.append(name),) * 2 for name in scan.KERNELS}
    monkeypatch.setattr(scan, "_flaw", lambda name, variant: None)
    monkeypatch.setattr(scan, "KERNELS", both)
    tensors = sequence(1, 1, 2, 1, 3)
    selective_scan(*in_float32(tensors))
    selective_scan(*tensors)
    monkeypatch.setenv(scan.VARIABLE, "torch")
    selective_scan(*in_float32(tensors))
    assert ran == ["native", "torch", "torch"]  # float32, float64, forced


def test_an_unknown_kernel_is_answered_with_the_known_ones(monkeypatch) -> None:
    monkeypatch.setenv(scan.VARIABLE, "cuda")
    with pytest.raises(ValueError, match=r"knows .*native, torch, got 'cuda'"):
        kernel_name("cpu")


@needs_library
def test_a_forced_kernel_that_cannot_run_is_an_error(monkeypatch) -> None:
    monkeypatch.setenv(scan.VARIABLE, "native")
    with pytest.raises(RuntimeError, match=r"SCRIBBLEMAMBA_SCAN=native, but it computes in float32, not in float64"):
        selective_scan(*sequence(1, 1, 2, 1, 3))
    monkeypatch.setenv(native.VARIABLE, "avx1024")
    with pytest.raises(RuntimeError, match=r"SCRIBBLEMAMBA_ISA=avx1024, but this machine can run .*plain"):
        kernel_name("cpu")


@needs_library
def test_a_kernel_that_errs_is_named_and_not_used(monkeypatch) -> None:
    def wrong(*arguments: object) -> Tensor | tuple[Tensor, Tensor]:
        y, last = native_scan(*arguments[:-1], True)
        return (y * 1.001, last) if arguments[-1] else y * 1.001

    monkeypatch.setitem(scan.KERNELS, "native", (wrong, native_ss2d))
    with pytest.warns(UserWarning, match=r"native \(\w+\) is not used, its self-test failed: .* wrong is off by"):
        assert kernel_name("cpu") == "torch"
    assert "off by 1.0e-03" in kernels()["native"]
    monkeypatch.setenv(scan.VARIABLE, "native")
    with pytest.raises(RuntimeError, match="self-test failed"):
        kernel_name("cpu")


@needs_library
def test_a_kernel_whose_gradients_err_is_not_used_either(monkeypatch) -> None:
    def wrong(x: Tensor, *tensors: Tensor) -> Tensor:
        return native_ss2d(x, *tensors) + 1e-3 * (x - x.detach())

    monkeypatch.setitem(scan.KERNELS, "native", (native_scan, wrong))
    with pytest.warns(UserWarning, match="gradient of x of wrong is off by"):
        assert kernel_name("cpu") == "torch"


def test_without_the_library_torch_runs_and_says_so(monkeypatch, tmp_path: Path, caplog) -> None:
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libscan.so")
    native.library.cache_clear()
    native.obstacle.cache_clear()
    assert kernel_name("cpu") == "torch"
    assert "install a C compiler" in kernels()["native"]
    assert len(caplog.records) == 1
    assert "plain torch, about ten times slower: libscan.so was not built" in caplog.text
    monkeypatch.setenv(scan.VARIABLE, "native")
    with pytest.raises(RuntimeError, match=r"libscan\.so was not built"):
        kernel_name("cpu")


def test_a_file_that_is_no_library_is_not_used(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "libscan.so").write_text("not a library")
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libscan.so")
    native.library.cache_clear()
    native.obstacle.cache_clear()
    assert kernel_name("cpu") == "torch"
