"""The CUDA kernel without a GPU: interpreted by Triton and held to rule.py, and compiled."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import nero
from kernels.triton_scripts import check_cases, run
from nero.groups import hyper_of, layout_of
from nero.kernels.triton import launch as cuda
from nero.kernels.triton import plan as cuda_plan
from nero.state import Hyper, TensorStep, tensor_step
from nero.step import plan, route
from nero.step.reference import _single_tensor_nero

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
        assert seen["registers"] <= cuda.LAUNCH["maxnreg"], (name, seen)
        # In the longest rows a thread holds 128 bytes of each of w, g and m.
        assert seen["spilled bytes"] <= (160 if f"kind {cuda_plan.LAST_ROW}" in name else 0), name
        assert seen["shared bytes"] <= 48 * 1024, (name, seen)


def steps_of(
    *weights: torch.Tensor, gradients: list[torch.Tensor] | None = None, **options: Any
) -> tuple[list[TensorStep], Hyper]:
    optimizer = nero.Nero([torch.nn.Parameter(w) for w in weights], **options)
    group = optimizer.param_groups[0]
    for i, p in enumerate(group["params"]):
        p.grad = torch.ones_like(p) if gradients is None else gradients[i]
    hyper = hyper_of(group)
    return [
        tensor_step(p, p.grad, optimizer.state[p], layout_of(p, group), hyper)
        for p in group["params"]
    ], hyper


def reason(*weights: torch.Tensor, **options: Any) -> str | None:
    steps, hyper = steps_of(*weights, **options)
    return cuda.fits(steps[0], hyper)


@needs_triton
def test_what_does_not_fit_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(torch.randn(3, 4)) == "it is on cpu, not on a CUDA device"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert reason(torch.randn(3, 4)) is None
    assert reason(torch.randn(3, 4), radius="initial", momentum=0.9, center=False) is None
    assert reason(torch.randn(3, 4, dtype=torch.float64)) == "it is torch.float64"
    assert reason(torch.randn(3, 4), max_turn=1.0) is None
    tangled = torch.randn(2, 3, 4, 5).permute(0, 2, 1, 3)
    assert "more than two strides" in str(
        reason(torch.randn(2, 4, 3, 5), gradients=[tangled], neuron_axes=(1,))
    )
    assert reason(torch.randn(2, 4, 3, 5), neuron_axes=(1,)) is None

    (step,), hyper = steps_of(torch.randn(3, 4))
    away = hyper._replace(lr=torch.tensor(0.1, device="meta"))
    assert cuda.fits(step, away) == "the learning rate is on meta, not on cpu"
    double = step._replace(state={**step.state, "rms": step.state["rms"].double()})
    assert cuda.fits(double, hyper) == "its state 'rms' is torch.float64"
    other = step._replace(state={**step.state, "scale": torch.ones((), device="meta")})
    assert cuda.fits(other, hyper) == "its state 'scale' is on meta, not on cpu"
    wide = step._replace(state={**step.state, "rms": torch.ones(3, 2)[:, :1]})
    assert cuda.fits(wide, hyper) == "its state is not contiguous"
    subclass = step._replace(g=torch.nn.Buffer(step.g).as_subclass(Subclass))
    assert cuda.fits(subclass, hyper) == "its gradient is a Subclass, not a plain tensor"
    monkeypatch.setattr(cuda, "_has_triton", lambda: False)
    assert cuda.fits(step, hyper) == "Triton is not installed"


def test_the_optimizer_gives_the_kernel_what_is_on_cuda_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[TensorStep] = []

    def kernel(steps: list[TensorStep], hyper: Hyper) -> list[torch.Tensor]:
        taken.extend(steps)
        return _single_tensor_nero(steps, hyper)

    params = [torch.nn.Parameter(torch.randn(4, 5)), torch.nn.Parameter(torch.randn(4))]
    # As if it were.
    monkeypatch.setattr(route, "_on_cuda", lambda p: p is params[0])
    monkeypatch.setattr(plan, "_whole_batch", lambda *_: None)
    monkeypatch.setattr(plan, "_fused_cuda_nero", kernel)
    with pytest.raises(RuntimeError, match=r"fused=True, but parameter 0 .* not on a CUDA device"):
        nero.Nero(params, fused=True)
    monkeypatch.setattr(cuda, "fits", lambda step, hyper: None)
    optimizer = nero.Nero(params, fused=True)
    assert optimizer.path.startswith("fused Triton kernel: 1 parameters; fused CPU kernel")
    for p in params:
        p.grad = torch.randn_like(p)
    params[0].grad[1, 1] = torch.nan
    optimizer.step()
    assert [step.w.shape for step in taken] == [params[0].shape]
    assert optimizer.skipped_neurons() == 1
    assert int(optimizer.state[params[0]]["step"]) == 1
    monkeypatch.setattr(cuda, "fits", lambda step, hyper: "Triton is not installed")
    with pytest.raises(RuntimeError, match="Triton is not installed"):
        nero.Nero(params, fused=True)


class Subclass(torch.Tensor):
    pass


def kind(shape: tuple[int, ...], **options: Any) -> int:
    steps, hyper = steps_of(torch.randn(shape), **options)
    placed = cuda._geometry(steps[0], hyper)
    assert placed is not None
    return placed.kind


def test_each_length_of_row_has_its_kind_of_tile() -> None:
    rows = {2: 4, 16: 4, 17: 5, 64: 6, 65: 7, 768: 10, 4608: 13, 8192: 13, 8193: 14}
    assert {n: kind((2, n)) for n in rows} == rows
    assert kind((9,)) == kind((9, 1)) == cuda_plan.ENTRIES
    assert kind((9, 70), neuron_axes=(1,)) == cuda_plan.SHORT_STRIDED
    assert kind((65, 9), neuron_axes=(1,)) == cuda_plan.LONG_STRIDED
    assert kind((4, 3, 5), neuron_axes=(0, 1)) == cuda_plan.FIRST_ROW


@needs_triton
def test_tables_are_made_once_and_hold_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    from nero.kernels.triton import rows as cuda_rows

    launched: list[tuple[int, tuple[Any, ...], dict[str, Any]]] = []

    class Kernel:
        def __getitem__(self, grid: tuple[int]) -> Any:
            return lambda *given, **options: launched.append((grid[0], given, options))

    monkeypatch.setattr(cuda_rows, "nero_kernel", Kernel())
    weights = [torch.randn(shape) for shape in [(100, 64), (3000,), (0, 4), (2, 9000)]]
    steps, hyper = steps_of(*weights, torch.randn(4, 5).half(), radius="initial", momentum=0.9)
    versions = [step.w._version for step in steps]
    cuda._fused_cuda_nero(steps, hyper)
    (mask, _) = cuda._fused_cuda_nero(steps, hyper)
    assert mask.shape == (100 + 3000 + 2,)
    # One launch for each dtype: of 4 + 2 + 2 programs, and of one.
    assert [programs for programs, _, _ in launched] == [8, 1, 8, 1]
    first, second = launched[0][1], launched[2][1]
    assert first[1] is second[1]
    assert first[2].tolist() == [0] * 4 + [1] * 2 + [2] * 2
    numbers = len(cuda_plan.NUMBERS)
    addresses = first[0][numbers:].view(3, len(cuda_plan.ADDRESSES))
    full = [step for step in steps if step.w.numel() and step.w.dtype == torch.float32]
    assert addresses[:, 0].tolist() == [step.w.data_ptr() for step in full]
    assert addresses[:, 1].tolist() == [step.g.data_ptr() for step in full]
    moved = [step.w._version - v for step, v in zip(steps, versions, strict=True)]
    assert moved == [2, 2, 0, 2, 2]  # autograd notices, except where there is nothing


def test_a_tensor_that_does_not_fit_is_refused() -> None:
    tangled = torch.randn(2, 3, 4, 5).permute(0, 2, 1, 3)
    steps, hyper = steps_of(torch.randn(2, 4, 3, 5), gradients=[tangled], neuron_axes=(1,))
    with pytest.raises(ValueError, match="turns away"):
        cuda._fused_cuda_nero(steps, hyper)
