"""A step that is refused changes nothing: no weight and no state of any group, to the last bit."""

from collections.abc import Callable
from math import nan
from typing import Any

import pytest
import torch
from torch import nn

import nero
from helpers import bits, build, every_path, give_gradients, snapshot
from optimizer_table import PathRow


class Odd(torch.Tensor):
    """A tensor of a class that the kernel does not know."""


def state(name: str, value: Any) -> Callable[[nero.Nero, nn.Parameter], None]:
    def change(optimizer: nero.Nero, p: nn.Parameter) -> None:
        if value is None:
            del optimizer.state[p][name]
        else:
            optimizer.state[p][name] = value

    return change


def option(**options: Any) -> Callable[[nero.Nero, nn.Parameter], None]:
    return lambda optimizer, p: optimizer.param_groups[1].update(options)


def gradient(make: Callable[[], torch.Tensor], **options: Any):
    def change(optimizer: nero.Nero, p: nn.Parameter) -> None:
        p.grad = make()
        optimizer.param_groups[1].update(options)

    return change


def reshaped_gradient(_: nero.Nero, p: nn.Parameter) -> None:
    p.grad.data = torch.randn(1, 4)


def reshaped_weight(_: nero.Nero, p: nn.Parameter) -> None:
    p.data, p.grad = torch.randn(7, 4), torch.randn(7, 4)


def freed(x: torch.Tensor) -> torch.Tensor:
    x.untyped_storage().resize_(0)
    return x


def freed_weight(_: nero.Nero, p: nn.Parameter) -> None:
    p.data = freed(torch.randn(3, 4))


# What is done to the second parameter of the second group, and what the error says of it.
REASONS: dict[str, tuple[Callable[[nero.Nero, nn.Parameter], Any], str]] = {
    "sparse": (gradient(lambda: torch.eye(3, 4).to_sparse()), "is sparse"),
    "not finite": (
        gradient(lambda: torch.full((3, 4), nan), nonfinite="raise"),
        "holds NaN or infinity",
    ),
    "a class, fused": (
        gradient(lambda: torch.randn(3, 4).as_subclass(Odd), fused=True, foreach=None),
        "fused=True, but .*Odd",
    ),
    "another shape": (reshaped_gradient, r"is of shape \(1, 4\)"),
    "a weight of another shape": (reshaped_weight, r"'rms' of shape \(7, 1\) .*\(3, 1\)"),
    "a freed gradient": (gradient(lambda: freed(torch.randn(3, 4))), "storage of 0 bytes"),
    "a freed weight": (freed_weight, "storage of 0 bytes"),
    "a state of another shape": (state("rms", torch.ones(4, 1)), r"'rms' of shape \(3, 1\)"),
    "radii of another shape": (state("radius", torch.ones(2, 1)), r"'radius' of shape \(3, 1\)"),
    "momentum of another shape": (state("exp_avg", torch.ones(3, 5)), r"'exp_avg' .*\(3, 5\)"),
    "a state that is missing": (state("scale", None), "'scale' .* found none"),
    "a count that is missing": (state("step", None), "'step' .* found none"),
    "a state that is no tensor": (state("rms", 1.0), "'rms' .* found"),
    "axes that changed": (option(neuron_axes=(1,)), r"'rms' of shape \(1, 4\)"),
    "axes that there are not": (option(neuron_axes=(2,)), "names axis 2"),
}


@pytest.mark.parametrize("name", REASONS)
@every_path
def test_a_step_refused_in_its_second_group_changes_nothing(name: str, path: PathRow):
    change, says = REASONS[name]
    params = [nn.Parameter(torch.randn(3, 4)) for _ in range(4)]
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = build(groups, path, momentum=0.5, radius="initial")
    for seed in range(2):
        give_gradients(params, seed)
        optimizer.step()
    give_gradients(params, 2)
    change(optimizer, params[3])
    others = params[:3]  # the last one may have lost its memory
    before = bits([others, [optimizer.state[p] for p in others]])
    with pytest.raises((RuntimeError, ValueError), match=says):
        optimizer.step()
    assert bits([others, [optimizer.state[p] for p in others]]) == before


def test_state_that_a_refused_step_would_have_made_is_not_made():
    params = [nn.Parameter(torch.randn(3, 4)) for _ in range(2)]
    optimizer = nero.Nero([{"params": [p]} for p in params])
    give_gradients(params, 0)
    optimizer.step()
    for group in optimizer.param_groups:
        group["momentum"] = 0.9
    params[1].grad = torch.eye(3, 4).to_sparse()
    before = snapshot(optimizer)
    with pytest.raises(RuntimeError, match="is sparse"):
        optimizer.step()
    assert snapshot(optimizer) == before
    give_gradients(params, 1)
    optimizer.step()
    assert all("exp_avg" in optimizer.state[p] for p in params)
