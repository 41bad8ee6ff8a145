"""A step that is refused changes nothing: no weight and no state of any group, to the last bit."""

from collections.abc import Callable
from math import nan
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import nero
from helpers import bits, build, every_path, give_gradients, snapshot, turned
from nero.step.plan import LocalStep
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
    "axes in a list": (option(neuron_axes=[0]), "neuron_axes .* must be a tuple"),
    "an edited radius": (option(radius="nonsense"), "radius must be"),
    "an edited lr": (option(lr=-1.0), "lr must be"),
    "an edited beta": (option(beta=2.0), "beta must be"),
    "an option that is gone": (lambda o, _: o.param_groups[1].pop("nonfinite"), "lacks nonfinite"),
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
    with pytest.raises((RuntimeError, ValueError, TypeError), match=says):
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


def test_an_interrupt_between_two_groups_is_forgotten(monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C may come at any time; later steps must be of the tensors that are there by then."""

    def run(**options: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(3, 4)) for _ in range(4)]
        optimizer = nero.Nero([{"params": params[:2]}, {"params": params[2:]}], **options)
        for seed in range(6):
            give_gradients(params, seed)
            if seed == 2:
                steps = iter([LocalStep.run])

                def interrupted(step: LocalStep, steps: Any = steps) -> Any:
                    for run in steps:
                        return run(step)
                    raise KeyboardInterrupt

                with monkeypatch.context() as patch:
                    patch.setattr(LocalStep, "run", interrupted)
                    with pytest.raises(KeyboardInterrupt):
                        optimizer.step()
                for p in params[:2]:
                    p.data = p.data.clone()
                continue
            optimizer.step()
        counts = [int(optimizer.state[p]["step"]) for p in params]
        assert counts == [6, 6, 5, 5]
        return [p.detach() for p in params]

    for ours, rules in zip(run(), run(foreach=False), strict=True):
        torch.testing.assert_close(ours, rules, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("paths", [{}, {"foreach": True}, {"foreach": False}], ids=str)
def test_a_rate_may_be_any_tensor_of_one_number(shape: tuple[int, ...], paths: dict[str, Any]):
    def run(lr: Any) -> Any:
        torch.manual_seed(0)
        params = [nn.Parameter(torch.randn(s)) for s in [(3, 4), (3, 4), (5,), (5,), ()]]
        optimizer = nero.Nero(params, lr=lr, **paths)
        for seed in range(2):
            give_gradients(params, seed)
            optimizer.step()
        return bits(params)

    assert run(torch.full(shape, 0.25)) == run(0.25)


def test_a_group_may_hold_its_parameters_in_a_tuple():
    params = [nn.Parameter(torch.randn(3, 4)) for _ in range(2)]
    optimizer = nero.Nero(params)
    optimizer.param_groups[0]["params"] = tuple(params)
    for seed in range(2):
        before = bits(params)
        give_gradients(params, seed)
        optimizer.step()
        assert bits(params) != before


def test_the_default_device_decides_nothing():
    params = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))]
    with torch.device("meta"):
        optimizer = nero.Nero(params, radius="initial", momentum=0.9)
        for p in params:
            p.grad = torch.full_like(p, nan)
        optimizer.step()
    assert optimizer.skipped_neurons() == 6
    assert all(x.device.type == "cpu" for s in optimizer.state.values() for x in s.values())


def test_weights_do_not_change_under_a_mode_that_fakes_tensors():
    params = [nn.Parameter(torch.randn(3, 4))]
    optimizer = nero.Nero(params)
    give_gradients(params, 0)
    before = snapshot(optimizer)
    with FakeTensorMode(), pytest.raises(AssertionError, match="FakeTensor"):
        optimizer.step()
    assert snapshot(optimizer) == before


def test_a_rare_gradient_turns_a_neuron_by_many_times_lr():
    """As the docstring of `Nero` says: lr is the angle of gradients of like size, step by step."""
    w = nn.Parameter(torch.randn(2, 64))
    optimizer = nero.Nero([w], lr=1e-3)
    for step in range(500):
        w.grad = torch.zeros_like(w)
        w.grad[0] = torch.randn(64)
        if step == 499:
            w.grad[1] = torch.randn(64)
        before = w.detach().clone()
        optimizer.step()
    often, rare = turned(before, w.detach()) / 1e-3
    assert 0.8 < often < 1.2
    assert 15 < rare < 31.7
