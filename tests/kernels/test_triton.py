"""The CUDA kernel without a GPU: interpreted by Triton and held to rule.py, and compiled."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import nero
from kernels.triton_scripts import check_cases, run
from nero.kernels.triton import fits
from nero.kernels.triton import launch as cuda
from nero.kernels.triton import plan as cuda_plan
from nero.step import plan, route

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed (torch brings it along on Linux only)",
)

CAPABILITIES = (80, 90)


# Interpreting is twice as slow under a tracer; these run every line of the kernel.
TRACED = ("layouts", "edges")
UNTRACED = ("constraints", "options", "dtypes", "still", "launches")


@needs_triton
@pytest.mark.parametrize("groups", [TRACED, UNTRACED], ids=" ".join)
def test_the_kernel_computes_what_the_rule_computes(
    tmp_path: Path, groups: tuple[str, ...]
) -> None:
    traced = groups == TRACED
    cases = run(tmp_path, "cuda_cases.py", *groups, traced=traced, TRITON_INTERPRET="1")
    assert len(cases) > 10 * len(groups) - 10
    check_cases(cases)


@needs_triton
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_kernel_compiles_without_a_gpu(tmp_path: Path, capability: int) -> None:
    cases = run(tmp_path, "cuda_compile.py", str(capability))
    assert len(cases) > (cuda_plan.LONG_STRIDED - cuda_plan.FIRST_ROW) / 2  # of the kinds of tile
    for name, seen in cases.items():
        assert seen["target"] == f".target sm_{capability}" + "a" * (capability == 90), (name, seen)
        assert seen["cubin"] > 1000, (name, seen)
        assert seen["registers"] <= cuda.REGISTERS, (name, seen)
        # A thread holds 128 bytes of each of w, g and m. Rows that are not aligned are rare.
        assert seen["spilled bytes"] <= (128 if "aligned" in name else 600), (name, seen)
        if "aligned" in name:  # of w and g at least, 16 bytes at a time
            entries = cuda_plan.rows(seen["kind"]) * 2 ** seen["kind"]
            each = entries // (cuda_plan.warps(seen["kind"]) * cuda_plan.WARP * 4)
            assert seen["wide loads"] >= 2 * max(1, each), (name, seen)
        assert seen["shared bytes"] <= 48 * 1024, (name, seen)


def found(w: torch.Tensor, g: torch.Tensor | None = None, **options: Any) -> route.Route:
    """The route that a parameter takes with fused=True, as if it were on a CUDA device."""
    optimizer = nero.Nero([torch.nn.Parameter(w)], **options)
    group = optimizer.param_groups[0]
    (p,) = group["params"]
    group["fused"] = True
    g = torch.ones_like(p) if g is None else g
    return route.route(p, g, optimizer.state[p], group)


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what is on the CPU were on a CUDA device, for Triton to interpret."""
    for module in (route, plan):
        monkeypatch.setattr(module, "on_cuda", lambda p: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@needs_triton
@pytest.mark.usefixtures("on_cuda")
def test_what_does_not_fit_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(torch.randn(3, 4)).path == route.TRITON
    assert not found(torch.randn(3, 4), radius="initial", momentum=0.9, center=False).reason
    assert not found(torch.randn(3, 4), max_turn=1.0).reason
    assert found(torch.randn(3, 4, dtype=torch.float64)).reason == "it is torch.float64"
    low = found(torch.randn(3, 4).bfloat16(), rounding="stochastic")
    assert "does not round" in low.reason
    tangled = torch.randn(2, 3, 4, 5).permute(0, 2, 1, 3)
    refused = found(torch.randn(2, 4, 3, 5), tangled, neuron_axes=(1,))
    assert "more than two strides" in refused.reason
    assert not found(torch.randn(2, 4, 3, 5), neuron_axes=(1,)).reason
    away = found(torch.randn(3, 4), lr=torch.tensor(0.1, device="meta"))
    assert away.reason == "the learning rate is on meta, not on cpu"
    subclass = found(torch.randn(3, 4), torch.randn(3, 4).as_subclass(Subclass))
    assert subclass.reason == "it, its gradient or its state is a Subclass"
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert found(torch.randn(3, 4)).reason == "it is on cpu, not on a CUDA device"
    monkeypatch.setattr(fits, "has_triton", lambda: False)
    assert found(torch.randn(3, 4)) == route.Route(route.FOREACH, "Triton is not installed")


@needs_triton
@pytest.mark.usefixtures("on_cuda")
def test_state_that_does_not_fit_is_told_why() -> None:
    p = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = nero.Nero([p], foreach=True)
    group, state = optimizer.param_groups[0], optimizer.state[p]
    group.update(foreach=None, fused=True)

    def reason(**changed: torch.Tensor) -> str:
        return route.route(p, torch.ones_like(p), {**state, **changed}, group).reason

    assert reason() == ""
    assert reason(rms=state["rms"].double()) == "its state 'rms' is torch.float64"
    assert "is on meta" in reason(scale=torch.ones((), device="meta"))
    wide = torch.ones(3, 2)[:, :1]
    assert reason(rms=wide) == "its state 'rms' is not contiguous"


@pytest.mark.parametrize(
    ("hip", "capability", "reason"),
    [
        (None, (9, 0), ""),
        (None, (8, 0), ""),
        (None, (7, 5), "the Triton kernel wants compute capability 8.0, and cuda:0 has 7.5"),
        ("6.4", (9, 4), "the Triton kernel is for NVIDIA GPUs"),
    ],
)
def test_the_kernel_is_for_some_gpus(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, capability: tuple[int, int], reason: str
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    fits.why_not_on.cache_clear()
    assert fits.why_not_on(torch.device("cuda:0")) == reason
    fits.why_not_on.cache_clear()


class Kernel:
    """Counts launches in place of the kernel."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        return lambda *given, **options: self.launched.append((grid[0], given, options))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    from nero.kernels.triton import rows

    monkeypatch.setattr(rows, "nero_kernel", Kernel())
    return rows.nero_kernel


@needs_triton
@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"momentum": 0.9, "radius": "initial"}])
def test_what_is_on_cuda_devices_takes_the_kernel(kernel: Kernel, options: dict[str, Any]) -> None:
    params = [torch.nn.Parameter(torch.randn(4, 5)), torch.nn.Parameter(torch.randn(4))]
    optimizer = nero.Nero(params, **options)
    assert optimizer.path == "fused Triton kernel: 2 parameters"
    for p in params:
        p.grad = torch.randn_like(p)
    for _ in range(2):
        optimizer.step()
    assert len(kernel.launched) == 4  # rows of 5 entries are not aligned, and single entries are
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2]
    other = nero.Nero(params, foreach=True)
    assert other.path == "foreach (foreach=True): 2 parameters"


@needs_triton
@pytest.mark.usefixtures("on_cuda", "kernel")
def test_fused_is_refused_where_the_kernel_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    double = torch.nn.Parameter(torch.randn(4, 5, dtype=torch.float64))
    with pytest.raises(RuntimeError, match=r"fused=True, but parameter 0 .* is torch.float64"):
        nero.Nero([double], fused=True)
    assert nero.Nero([double]).path == "foreach (it is torch.float64): 1 parameters"
    monkeypatch.setattr(fits, "has_triton", lambda: False)
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        nero.Nero([torch.nn.Parameter(torch.randn(4, 5))], fused=True)


class Subclass(torch.Tensor):
    pass


def kind(shape: tuple[int, ...], **options: Any) -> int:
    shape_there = found(torch.randn(shape), **options).shape
    assert isinstance(shape_there, fits.Placed)
    return shape_there.geometry.kind


@needs_triton
@pytest.mark.usefixtures("on_cuda")
def test_each_length_of_row_has_its_kind_of_tile() -> None:
    rows = {2: 4, 16: 4, 17: 5, 64: 6, 65: 7, 768: 10, 4608: 13, 8192: 13, 8193: 14}
    assert {n: kind((2, n)) for n in rows} == rows
    assert kind((9,)) == kind((9, 1)) == cuda_plan.ENTRIES
    assert kind((9, 70), neuron_axes=(1,)) == cuda_plan.SHORT_STRIDED
    assert kind((65, 9), neuron_axes=(1,)) == cuda_plan.LONG_STRIDED
    assert kind((4, 3, 5), neuron_axes=(0, 1)) == cuda_plan.FIRST_ROW


@needs_triton
@pytest.mark.usefixtures("on_cuda")
def test_tables_are_made_once_and_hold_no_tensor(kernel: Kernel) -> None:
    shapes = [(100, 64), (3000,), (0, 4), (2, 9000), (3, 2048)]
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    params.append(torch.nn.Parameter(torch.randn(4, 5).half()))
    optimizer = nero.Nero(params, radius="initial", momentum=0.9)
    for p in params:
        p.grad = torch.ones_like(p)
    versions = [p._version for p in params]
    optimizer.step(), optimizer.step()
    # In each step one for 13 tiles of 8 rows and 12 of single entries, by a warp; one of long rows
    # by 8 warps; one of rows of 2,048 by 4; one in another dtype.
    programs = [25, 2, 3, 1]
    assert [launched for launched, _, _ in kernel.launched] == programs * 2
    assert [x["num_warps"] for _, _, x in kernel.launched[:4]] == [1, 8, 4, 1]
    assert [x["ALIGNED"] for _, _, x in kernel.launched[:4]] == [True, False, True, False]
    first, second = kernel.launched[0][1], kernel.launched[4][1]
    assert first[1] is second[1]
    assert first[2] is second[2]
    assert kernel.launched[2][1][2].tolist() == [4] * 3
    numbers = len(cuda_plan.NUMBERS)
    table = first[0][numbers:].view(6, len(cuda_plan.ADDRESSES))
    assert table[:, 0].tolist() == [p.data_ptr() for p in params]
    assert table[:, 1].tolist() == [p.grad.data_ptr() for p in params]
    moved = [p._version - v for p, v in zip(params, versions, strict=True)]
    assert moved == [2] * 6  # autograd notices


@needs_triton
@pytest.mark.usefixtures("on_cuda")
def test_rows_that_start_elsewhere_are_read_entry_by_entry(kernel: Kernel) -> None:
    buffer = torch.randn(1 + 2 * 64)
    p = torch.nn.Parameter(buffer[1:].view(2, 64))  # as in a buffer that all parameters share
    optimizer = nero.Nero([p])
    p.grad = torch.ones(2, 64)
    optimizer.step()
    assert not kernel.launched[0][2]["ALIGNED"]
