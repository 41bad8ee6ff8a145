"""The compiled CPU kernel: what it takes, that threads and instruction sets change no bit, and that
it can do without itself. That its numbers are the rule's is in the tests that run every path."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from helpers import bits, every_constraint, every_momentum
from nero.kernels.cpu import build
from nero.kernels.cpu import library as cpu_library
from nero.kernels.cpu.library import Library, Missing, load
from optimizer_table import FLOAT32_TOLERANCE

pytestmark = pytest.mark.skipif(
    os.environ.get("NERO_CPU") == "none", reason="there is no C++ compiler, and no kernel"
)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# Rows of less than a block of lanes, of a block, of several with a rest, and beyond what is summed
# before it goes into a double; matrices by columns; convolutions in both orders of memory.
SHAPES: list[tuple[tuple[int, ...], Any]] = [
    ((40, 3), (0,)),
    ((8, 16), (0,)),
    ((300, 77), (0,)),
    ((5, 2500), (0,)),
    ((130, 45), (1,)),
    ((70, 3, 40), (2,)),
    ((2, 33, 20), (0, 2)),
    ((6, 10, 3, 3), (1,)),
    ((4, 6, 3, 5), ((0, 2), 1)),
    ((3, 7, 11), (0, 2)),
    ((50,), (0,)),
    ((), (0,)),
]


@pytest.fixture(scope="module")
def library() -> Library:
    found = load()
    assert isinstance(found, Library), found
    return found


def trained(
    dtype: torch.dtype, steps: int = 5, channels_last: bool = False, **options: Any
) -> list[Tensor]:
    """Weights and running averages after some steps on every shape."""
    generator = torch.Generator().manual_seed(0)

    def random(shape: tuple[int, ...]) -> Tensor:
        x = torch.randn(shape, generator=generator).to(dtype)
        last = channels_last and x.ndim == 4
        return x.contiguous(memory_format=torch.channels_last) if last else x

    params = [nn.Parameter(random(shape)) for shape, _ in SHAPES]
    groups = [
        {"params": [p], "neuron_axes": axes} for p, (_, axes) in zip(params, SHAPES, strict=True)
    ]
    optimizer = nero.Nero(groups, **options)
    for _ in range(steps):
        for p in params:
            power = int(torch.randint(-4, 4, (), generator=generator))
            p.grad = random(tuple(p.shape)) * 10.0**power
        optimizer.step()
    return [p.detach() for p in params] + [optimizer.state[p]["rms"] for p in params]


@every_dtype
@every_momentum
@every_constraint
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_kernel_computes_what_the_rule_computes(
    dtype: torch.dtype, momentum: float, constraint: dict[str, Any], channels_last: bool
):
    options = {"momentum": momentum, "maximize": channels_last, "lr": 0.03, **constraint}
    ours = trained(dtype, channels_last=channels_last, fused=True, **options)
    rules = trained(dtype, channels_last=channels_last, foreach=False, **options)
    # Weights in 16 bits round to a neighbour where the float32 numbers differ in the last place.
    rtol = {torch.float64: 1e-12, torch.float32: FLOAT32_TOLERANCE}.get(dtype, 0.01)
    for a, b in zip(ours, rules, strict=True):
        atol = rtol * float(b.abs().max())
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


every_rounding = pytest.mark.parametrize("rounding", ["nearest", "stochastic"])


@every_dtype
@every_rounding
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, rounding: str, momentum: float):
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append(bits(trained(dtype, momentum=momentum, rounding=rounding)))
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1] == results[2]


@every_dtype
@every_rounding
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_instruction_set_changes_no_bit(
    dtype: torch.dtype,
    rounding: str,
    momentum: float,
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
):
    used, results = [], []
    for name in library.instruction_sets:
        for module in ("nero.step.route", "nero.kernels.cpu.step"):
            monkeypatch.setattr(f"{module}.load", lambda name=name: Library(forced=name))
        params = [nn.Parameter(torch.randn(2, 3))]
        used.append(nero.Nero(params).path)
        results.append(bits(trained(dtype, momentum=momentum, rounding=rounding)))
    assert [name for name, path in zip(library.instruction_sets, used, strict=True) if name in path]
    assert all(result == results[0] for result in results)


def test_a_thread_pool_of_its_own_changes_no_bit(monkeypatch: pytest.MonkeyPatch):
    shared = bits(trained(torch.float32))
    monkeypatch.setattr(cpu_library, "openmp_parallel", lambda: None)
    assert bits(trained(torch.float32)) == shared


def test_it_runs_on_the_threads_of_torch():
    assert cpu_library.openmp_parallel() is not None


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-18, 1e18, 1e30])
@pytest.mark.parametrize("center", [False, True])
def test_gradients_of_any_size_turn_alike(scale: float, center: bool):
    def turned(scale: float) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        w = nn.Parameter(torch.randn(20, 50, generator=generator))
        optimizer = nero.Nero([w], center=center, fused=True)
        for _ in range(3):
            w.grad = (torch.randn(w.shape, generator=generator).double() * scale).float()
            optimizer.step()
        return w.detach()

    # Subnormal gradients have few digits themselves.
    torch.testing.assert_close(
        turned(scale), turned(1.0), rtol=0, atol=3e-4 if scale < 1e-40 else 1e-6
    )


def odd_rows(rows: Tensor, g: Tensor) -> None:
    g[7], g[8, 3], g[9, 1], g[10] = 0, torch.nan, torch.inf, 1e-7 * g[10]
    g[11] = -40 * (rows[11] / rows[11].norm() + 0.1 * g[11])


def odd_entries(_: Tensor, g: Tensor) -> None:
    g[3], g[20], g[40], g[68] = 0, torch.nan, torch.inf, -torch.inf


@every_dtype
@pytest.mark.parametrize(
    ("shape", "spoil", "absent", "turned"),
    [((40, 50), odd_rows, 2, False), ((40, 50), odd_rows, 2, True), ((70,), odd_entries, 3, False)],
    ids=["rows", "columns", "entries"],
)
def test_odd_neurons_among_others_do_as_the_rule_says(
    dtype: torch.dtype, shape: tuple[int, ...], spoil: Any, absent: int, turned: bool
):
    """Neurons that sit a step out, or need care, beside others in one block of lanes."""

    def stored(x: Tensor) -> Tensor:
        return (x.t().contiguous() if turned else x).to(dtype)

    def run(**options: Any) -> tuple[list[Tensor], int]:
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            rows[3], rows[4] = 0, 0.01
        w = nn.Parameter(stored(rows))
        optimizer = nero.Nero([w], lr=0.05, neuron_axes=(int(turned),), **options)
        for _ in range(3):
            g = torch.randn(shape, generator=generator)
            spoil(rows, g)
            w.grad = stored(g)
            optimizer.step()
        return [w.detach(), optimizer.state[w]["rms"]], optimizer.skipped_neurons()

    (ours, skipped), (rules, expected) = run(fused=True), run(foreach=False)
    assert skipped == expected == 3 * absent
    rtol = {torch.float64: 1e-12, torch.float32: FLOAT32_TOLERANCE}.get(dtype, 0.01)
    for a, b in zip(ours, rules, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=rtol * float(b.abs().max()))


def test_steps_as_large_as_the_weights_stay_on_the_set():
    w = nn.Parameter(torch.randn(30, 40))
    optimizer = nero.Nero([w], lr=1.0, fused=True)
    for _ in range(5):
        w.grad = w.detach() * (1 + 1e-3 * torch.randn_like(w))
        optimizer.step()
        layout = nero.NeuronLayout((30, 40))
        assert nero.geometry.is_balanced(w, layout, atol=2e-6).all()


def test_autograd_knows_that_the_weights_changed():
    w = nn.Parameter(torch.randn(4, 5))
    optimizer = nero.Nero([w], fused=True)
    loss = (w * w).sum()
    w.grad = torch.randn_like(w)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Odd(Tensor):
    """A tensor of a class that the kernel does not know."""


def odd_parameter() -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 4).as_subclass(Odd))


def shared_entries() -> nn.Parameter:
    return nn.Parameter(torch.randn(3, 1).expand(3, 4))


@pytest.mark.parametrize(
    ("parameter", "says"), [(odd_parameter, "Odd"), (shared_entries, "share memory")]
)
def test_what_does_not_fit_takes_another_path_and_is_named(parameter: Any, says: str):
    p, other = parameter(), nn.Parameter(torch.randn(3, 4))
    with pytest.raises(RuntimeError, match=rf"fused=True, but parameter 1 of shape .*{says}"):
        nero.Nero([other, p], fused=True)
    optimizer = nero.Nero([other, p], radius=None, center=False)
    assert "fused CPU kernel" in optimizer.path
    assert says in optimizer.path


def negated(g: Tensor) -> Tensor:
    return torch._neg_view(-g)


def zero(g: Tensor) -> Tensor:
    return torch._efficientzerotensor(g.shape)


@pytest.mark.parametrize(
    "options", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}], ids=str
)
@pytest.mark.parametrize(
    ("mark", "written"),
    [(negated, torch.clone), (zero, torch.zeros_like)],
    ids=["negated", "zero"],
)
def test_a_gradient_that_is_marked_between_two_steps_is_read_as_it_is(
    mark: Callable[[Tensor], Tensor], written: Callable[[Tensor], Tensor], options: dict[str, Any]
):
    """torch marks some tensors as negated, or as zero without memory, instead of computing them."""

    def run(second: Callable[[Tensor], Tensor]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        w = nn.Parameter(torch.randn(4, 6, generator=generator))
        optimizer = nero.Nero([w], lr=0.1, **options)
        for step in range(3):
            g = torch.randn(4, 6, generator=generator)
            w.grad = second(g) if step == 1 else g
            optimizer.step()
        return [w.detach(), *optimizer.state[w].values()]

    assert bits(run(mark)) == bits(run(written))


def test_settings_that_change_in_the_middle_of_a_run_are_followed():
    def run(**options: Any) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        w = nn.Parameter(torch.randn(6, 8, generator=generator))
        optimizer = nero.Nero([w], **options)
        changes = [{}, {"center": False}, {"radius": 2.0}, {"neuron_axes": (1,)}, {"beta": 0.5}]
        for change in [*changes[:3], *changes[4:], {"momentum": 0.5}, {"maximize": True}]:
            optimizer.param_groups[0].update(change)
            w.grad = torch.randn(w.shape, generator=generator)
            optimizer.step()
        return [w.detach(), optimizer.state[w]["rms"]]

    for a, b in zip(run(fused=True), run(foreach=False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_without_the_kernel_the_default_says_so_and_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nero.step.route.load", lambda: Missing("it was not compiled"))
    w = nn.Parameter(torch.randn(6, 8))
    with pytest.warns(RuntimeWarning, match=r"slower .* it was not compiled"):
        optimizer = nero.Nero([w])
    assert optimizer.path == "foreach (there is no CPU kernel: it was not compiled): 1 parameters"
    w.grad = torch.randn_like(w)
    before = w.detach().clone()
    optimizer.step()
    assert not torch.equal(before, w)
    with pytest.raises(RuntimeError, match=r"fused=True.* not compiled"):
        nero.Nero([w], fused=True)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("none", "NERO_CPU=none"),
        ("baseline", "fused CPU kernel (baseline)"),
        ("vax", "NERO_CPU=vax"),
    ],
)
def test_the_instruction_set_can_be_forced(value: str, says: str):
    code = (
        "import torch, nero, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "print(nero.Nero([torch.nn.Parameter(torch.randn(2, 3))]).path)"
    )
    environment = {"PATH": "/usr/bin:/bin", "NERO_CPU": value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert says in done.stdout


def test_an_instruction_set_that_there_is_not_warns():
    code = "import torch, nero\nnero.Nero([torch.nn.Parameter(torch.randn(2, 3))])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "NERO_CPU": "vax"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "RuntimeWarning: nero: steps on CPU" in done.stderr
    assert "NERO_CPU=vax: this machine has" in done.stderr


def test_a_library_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu_library, "mark", lambda: b"other")
    with pytest.raises(ValueError, match="built from other sources"):
        Library()


@pytest.mark.parametrize("size", [0, 100, 5000, -1])
def test_a_library_that_was_cut_off_is_refused_and_not_loaded(tmp_path: Path, size: int):
    path = tmp_path / "library.so"
    path.write_bytes(build.LIBRARY.read_bytes()[:size])
    with pytest.raises(ValueError, match="not whole"):
        Library(path)


def test_a_compiler_that_is_missing_or_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.CannotBuild, match=r"false .*failed"):
        build.build(tmp_path / "library.so")
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    with pytest.raises(build.CannotBuild, match="no-compiler"):
        build.build(tmp_path / "library.so")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.CannotBuild, match=r"no C\+\+ compiler found"):
        build.build(tmp_path / "library.so")
    assert list(tmp_path.iterdir()) == []


def test_the_kernel_builds_where_a_compiler_is(tmp_path: Path):
    path = build.build(tmp_path / "library.so")
    assert Library(path).instruction_sets[0] == "baseline"


def test_a_weight_that_shares_its_memory_until_it_is_written_is_stepped_alone():
    base = torch.randn(3, 4)
    before = base.clone()
    w = nn.Parameter(torch._lazy_clone(base))  # type: ignore[attr-defined]
    optimizer = nero.Nero([w], radius=None, center=False)
    for _ in range(2):
        w.grad = torch.ones(3, 4)
        optimizer.step()
    assert torch.equal(base, before)
    assert not torch.equal(w, before)
