"""How the paths cut and stack tensors; that their numbers agree is test_rule's."""

from typing import Any

import pytest
import torch
from torch import Tensor

import nero
from nero.state import Hyper, TensorStep
from nero.step import foreach, reference


def train(shapes: list[tuple[int, ...]], dtype: torch.dtype, **options: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes
    ]
    optimizer = nero.Nero(parameters, lr=0.05, **options)
    for _ in range(5):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
        optimizer.step()
    return [p.detach() for p in parameters]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("neuron_axes", [(0,), (1,), ((0, 3), 1)])
@pytest.mark.parametrize("radius", ["unit", "initial", None])
def test_a_step_by_pieces_is_the_step_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, neuron_axes: Any, radius: str | None
) -> None:
    shapes: list[tuple[int, ...]] = [(12, 10, 2), (50,)]
    options = {
        "neuron_axes": neuron_axes,
        "radius": radius,
        "momentum": 0.9,
        "foreach": False,
    }
    whole = train(shapes, dtype, **options)
    monkeypatch.setattr(reference, "CPU_PIECE", 48)
    pieces = train(shapes, dtype, **options)
    for a, b in zip(pieces, whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_stacks_hold_tensors_of_one_kind_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreach, "STACKED_TENSOR", 12)
    monkeypatch.setattr(foreach, "STACK", 36)
    stacked: list[list[tuple[int, ...]]] = []
    update_stack = foreach._update_stack

    def spy(stack: list[TensorStep], hyper: Hyper) -> Tensor:
        stacked.append([tuple(step.w.shape) for step in stack])
        return update_stack(stack, hyper)

    monkeypatch.setattr(foreach, "_update_stack", spy)
    parameters = [torch.nn.Parameter(torch.randn(3, 4)) for _ in range(7)]
    parameters += [torch.nn.Parameter(torch.randn(5, 4)) for _ in range(2)]  # above the limit
    parameters += [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    parameters += [torch.nn.Parameter(torch.randn(4, 3)), torch.nn.Parameter(torch.randn(0, 4))]
    parameters += [torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64)) for _ in range(2)]
    optimizer = nero.Nero(parameters, foreach=True)
    late = torch.nn.Parameter(torch.randn(3, 4))
    for step in range(2):
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()
        if step == 0:
            # Seven matrices make two stacks of at most three and one left over.
            assert stacked == [[(3, 4)] * 3, [(3, 4)] * 3, [(3,)] * 2, [(3, 4)] * 2]
            stacked.clear()
            optimizer.param_groups[0]["params"].append(late)
            optimizer.state[late] = {
                k: v.clone() for k, v in optimizer.state[parameters[0]].items()
            }
            optimizer.state[late]["step"] -= 1  # another step count: another bias correction
            late.grad = torch.randn_like(late)
            parameters.insert(0, late)
    assert [(3, 4)] * 4 not in stacked
    assert stacked == [[(3, 4)] * 3, [(3, 4)] * 3, [(3,)] * 2, [(3, 4)] * 2]
