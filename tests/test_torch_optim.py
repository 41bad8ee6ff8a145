"""What users of torch.optim expect of any optimiser, held to by Nero on every path."""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn

from helpers import (
    balanced,
    bits,
    build,
    every_momentum,
    every_path,
    give_gradients,
    network,
    tangent,
    train,
    turned,
    weights_like,
)
from nero import Nero
from optimizer_table import PathRow

SCHEDULERS: dict[str, Callable[[Optimizer], LRScheduler]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.25, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.8)], [2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, total_iters=3), lr_scheduler.ExponentialLR(o, 0.9)], o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.05, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=7),
    "SWALR": lambda o: SWALR(o, swa_lr=0.05, anneal_epochs=4),
}
# By their defaults these two move the momentum against the learning rate.
CYCLE_MOMENTUM = {"CyclicLR", "OneCycleLR"}


def advance(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(1.0)
    else:
        scheduler.step()


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def fitted(model: nn.Module, optimizer: Optimizer, steps: int) -> tuple[float, float]:
    """The loss on a small regression before and after some steps."""
    x = torch.randn(64, 6)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def test_every_scheduler_of_torch_has_a_row():
    torchs = {
        name
        for name, value in vars(lr_scheduler).items()
        if inspect.isclass(value) and issubclass(value, LRScheduler) and not name.startswith("_")
    }
    assert set(SCHEDULERS) == torchs - {"LRScheduler"} | {"SWALR"}


# PyTorch's own complaint: the twin SGD has no gradients and is not stepped.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float lr", "tensor lr"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_neurons_turn_by_the_scheduled_lr(name: str, tensor_lr: bool):
    (w,) = weights_like((4, 7), dtype=torch.float64)
    # With beta 0 each step is as long as the lr, whatever the gradients were.
    optimizer = Nero([w], lr=torch.tensor(0.02) if tensor_lr else 0.02, beta=0.0)
    twin = torch.optim.SGD(weights_like((1,)), lr=0.02, momentum=0.9)
    scheduler, twin_scheduler = SCHEDULERS[name](optimizer), SCHEDULERS[name](twin)
    momenta, lrs = set(), set()
    for _ in range(6):
        group, twin_group = optimizer.param_groups[0], twin.param_groups[0]
        lr = float(twin_group["lr"])
        assert float(group["lr"]) == pytest.approx(lr, rel=1e-6)
        assert isinstance(group["lr"], Tensor) == tensor_lr
        before = w.detach().clone()
        w.grad = tangent(before) * torch.rand(4, 1, dtype=torch.float64)
        optimizer.step()
        direction = unit(optimizer.state[w].get("exp_avg", w.grad))
        target = before - lr * (direction - direction.mean(1, keepdim=True))
        torch.testing.assert_close(turned(before, w), turned(before, target), rtol=1e-6, atol=0)
        if name in CYCLE_MOMENTUM:
            assert group["momentum"] == twin_group["momentum"]
        else:
            angles = torch.full((4,), math.atan(lr), dtype=torch.float64)
            torch.testing.assert_close(turned(before, w), angles, rtol=1e-6, atol=0)
        momenta.add(group["momentum"])
        lrs.add(lr)
        advance(scheduler)
        advance(twin_scheduler)
    assert len(lrs) > 1
    assert len(momenta) > 1 if name in CYCLE_MOMENTUM else momenta == {0.0}


@every_path
def test_a_closure_is_called_once_with_gradients_enabled_and_its_loss_is_returned(path: PathRow):
    model = network()
    optimizer = build(model.parameters(), path)
    enabled = []

    def closure() -> Tensor:
        enabled.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = model(torch.ones(3, 6)).square().sum()
        loss.backward()
        return loss

    before = model(torch.ones(3, 6)).square().sum()
    with torch.no_grad():
        loss = optimizer.step(closure)
    assert enabled == [True]
    assert bits(loss) == bits(before)
    assert loss.requires_grad
    assert model(torch.ones(3, 6)).square().sum() < before


def test_a_step_without_closure_returns_none_and_leaves_the_grad_mode():
    optimizer = Nero(weights_like((2, 3)))
    assert optimizer.step() is None
    assert torch.is_grad_enabled()


SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.1},
    {"beta": 0.5, "momentum": 0.9},
    {"center": False, "radius": 2.5, "maximize": True},
    {"radius": "initial", "neuron_axes": (1,)},
    {"radius": None, "center": False, "nonfinite": "propagate"},
    {"capturable": True, "foreach": False, "lr": 0.03},
]


def test_each_group_follows_its_own_settings():
    together = [weights_like((5, 7), (5, 7), (4,)) for _ in SETTINGS]
    apart = copy.deepcopy(together)
    # Defaults that no group keeps show up if a group does not use its own setting.
    joint = Nero([{"params": p, **row} for p, row in zip(together, SETTINGS, strict=True)])
    alone = [Nero(p, **row) for p, row in zip(apart, SETTINGS, strict=True)]
    for seed in range(4):
        for index, (mine, theirs) in enumerate(zip(together, apart, strict=True)):
            give_gradients(mine, 10 * index + seed)
            give_gradients(theirs, 10 * index + seed)
        joint.step()
        for optimizer in alone:
            optimizer.step()
    assert bits(together) == bits(apart)
    trajectories = [bits(weights[0]) for weights in together]
    assert all(trajectories.count(one) == 1 for one in trajectories)


@every_path
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_group_added_late_behaves_as_in_an_optimizer_of_its_own(path: PathRow, steps_before: int):
    early, late = weights_like((5, 7), (3,)), weights_like((5, 7), (3,))
    alone = copy.deepcopy(late)
    optimizer = build(early, path)
    train(optimizer, range(steps_before))
    optimizer.add_param_group({"params": late, "radius": 2.0})
    fresh = build(alone, path, radius=2.0)
    assert bits(late) == bits(alone)
    for seed in range(3):
        give_gradients(early, seed)
        give_gradients(late, 100 + seed)
        give_gradients(alone, 100 + seed)
        optimizer.step()
        fresh.step()
    assert bits(late) == bits(alone)
    assert bits([optimizer.state[p] for p in late]) == bits([fresh.state[p] for p in alone])


@every_path
def test_a_parameter_without_gradient_sits_the_step_out(path: PathRow):
    params = weights_like((5, 7), (5, 7), (4,), dtype=torch.float64)
    optimizer = build(params, path, momentum=0.9)
    alone = [copy.deepcopy(params[1])]
    reference = build(alone, path, momentum=0.9)
    for seed in range(6):
        give_gradients(params, seed)
        if seed % 2:
            params[1].grad = None
        else:
            alone[0].grad = params[1].grad.clone()
            reference.step()
        before = bits([params[1], optimizer.state[params[1]]])
        optimizer.step()
        assert (bits([params[1], optimizer.state[params[1]]]) == before) == bool(seed % 2)
    torch.testing.assert_close(params[1], alone[0], rtol=1e-12, atol=1e-12)
    assert optimizer.state[params[0]]["step"].item() == 6
    assert optimizer.state[params[1]]["step"].item() == 3


@pytest.mark.parametrize("of_all", [False, True], ids=["its own", "of all optimizers"])
def test_hooks_run_around_the_step(of_all: bool):
    (w,) = weights_like((3, 4))
    optimizer = Nero([w])
    give_gradients([w], 0)
    register = (optimizer.register_step_pre_hook, optimizer.register_step_post_hook)
    if of_all:
        register = (register_optimizer_step_pre_hook, register_optimizer_step_post_hook)
    seen, before = [], bits(w)
    handles = [each(lambda *_: seen.append(bits(w))) for each in register]
    try:
        optimizer.step()
    finally:
        for handle in handles:
            handle.remove()
    assert seen == [before, bits(w)]
    assert seen[0] != seen[1]


def test_weight_averaging_of_torch():
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    optimizer = Nero(model.parameters())
    averaged = AveragedModel(model)
    visited = []
    for seed in range(3):
        train(optimizer, [seed])
        averaged.update_parameters(model)
        visited.append(model[0].weight.detach().clone())
    torch.testing.assert_close(averaged.module[0].weight, torch.stack(visited).mean(0))
    update_bn([torch.randn(64, 6) + 5], averaged)
    assert averaged.module[1].running_mean.abs().max() > 0.1
    assert bits(model[0].weight) == bits(visited[-1])


@every_path
@every_momentum
def test_maximizing_is_minimizing_the_negative(path: PathRow, momentum: float):
    up = weights_like((5, 7), (5, 7), (4,))
    down = copy.deepcopy(up)
    ascent = build(up, path, maximize=True, momentum=momentum)
    descent = build(down, path, momentum=momentum)
    for seed in range(3):
        give_gradients(up, seed)
        for p, q in zip(up, down, strict=True):
            q.grad = -p.grad
        ascent.step()
        descent.step()
    assert bits(up) == bits(down)


def test_a_shared_parameter_is_stepped_once():
    model = network()
    model[2].weight = model[0].weight
    optimizer = Nero(model.parameters())
    model(torch.randn(3, 6)).square().sum().backward()
    reference = nn.Parameter(model[0].weight.detach().clone())
    alone = Nero([reference])
    reference.grad = model[0].weight.grad.clone()
    alone.step()
    optimizer.step()
    assert len(optimizer.state) == 5
    torch.testing.assert_close(model[2].weight, reference)
    assert optimizer.state[model[0].weight]["step"].item() == 1


@every_path
def test_a_frozen_parameter_stays(path: PathRow):
    model = network()
    model[0].weight.requires_grad_(False)
    before = bits(model[0].weight)
    optimizer = build(model.parameters(), path)
    optimizer.project_()
    fitted(model, optimizer, 3)
    assert bits(model[0].weight) == before
    assert not balanced(model[0].weight)
    model[0].weight.requires_grad_(True)
    optimizer.project_()
    assert balanced(model[0].weight)
    before = bits(model[0].weight)
    fitted(model, optimizer, 1)
    assert bits(model[0].weight) != before


def test_any_iterable_of_neuron_axes_is_read_once():
    listed = weights_like((5, 7))
    generated = copy.deepcopy(listed)
    Nero(listed, neuron_axes=[1])
    Nero(generated, neuron_axes=iter([1]))
    assert bits(listed) == bits(generated)
