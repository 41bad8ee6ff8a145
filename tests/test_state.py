"""Optimizer state through copies, files and torch's checkpoints, on every path."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.optim import Optimizer

from helpers import (
    balanced,
    bits,
    build,
    every_path,
    network,
    snapshot,
    through_file,
    train,
    weights_like,
)
from nero import Nero
from optimizer_table import PathRow


@every_path
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))],
    ids=["deepcopy", "pickle"],
)
def test_a_copied_optimizer_goes_on_alike_and_apart(
    path: PathRow, duplicate: Callable[[Any], tuple[nn.Module, Nero]]
):
    model = network()
    optimizer = build(model.parameters(), path, momentum=0.9)
    train(optimizer, range(3))
    before = snapshot(optimizer)
    twin_model, twin = duplicate((model, optimizer))
    assert snapshot(optimizer) == before
    assert snapshot(twin) == before
    train(twin, range(3, 6))
    assert snapshot(optimizer) == before
    train(optimizer, range(3, 6))
    assert bits(model.state_dict()) == bits(twin_model.state_dict())
    assert snapshot(optimizer) == snapshot(twin)
    assert twin.skipped_neurons() == 0
    (late,) = weights_like((3, 4))
    twin.add_param_group({"params": [late]})
    assert balanced(late)
    assert late in twin.state


def test_state_is_what_the_documentation_says():
    weight, up, bias, gain = weights_like((4, 6), (3, 4, 2, 2), (4,), (), dtype=torch.bfloat16)
    groups = [{"params": [weight, bias, gain]}, {"params": [up], "neuron_axes": (1,)}]
    optimizer = Nero(groups, radius="initial", momentum=0.9)
    expected = {
        weight: {"rms": (4, 1), "radius": (4, 1), "exp_avg": (4, 6)},
        up: {"rms": (1, 4, 1, 1), "radius": (1, 4, 1, 1), "exp_avg": (3, 4, 2, 2)},
        bias: {"rms": (4,), "exp_avg": (4,)},
        gain: {"rms": (), "exp_avg": ()},
    }
    for p, shapes in expected.items():
        found = {
            key: (tuple(value.shape), value.dtype) for key, value in optimizer.state[p].items()
        }
        shapes |= {"step": (), "scale": ()}
        assert found == {key: (shape, torch.float32) for key, shape in shapes.items()}
    for state in Nero([weight, bias, gain]).state.values():
        assert set(state) == {"step", "rms", "scale"}


def test_scale_is_the_size_that_the_paper_gives_it():
    bias = nn.Parameter(torch.tensor([0.5, -1.5, 0.0]))
    zero = nn.Parameter(torch.zeros(3))
    weight = nn.Parameter(torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]))
    narrow = nn.Parameter(torch.tensor([[0.5], [-3.5]]))  # fan-in 1: cannot be projected
    free = Nero([bias, zero, weight], center=False, radius=None)
    scales = [free.state[p]["scale"].item() for p in (bias, zero, weight)]
    assert scales == [pytest.approx(2 / 3), pytest.approx(0.01), 3.0]
    unit = Nero([weight, narrow])
    assert [unit.state[p]["scale"].item() for p in (weight, narrow)] == [1.0, 2.0]


RESUMED: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"radius": "initial"},
    {"center": False, "radius": None},
]


@every_path
@pytest.mark.parametrize("options", RESUMED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_run_is_bit_identical(path: PathRow, options: dict[str, Any], dtype: torch.dtype):
    model = network(dtype)
    optimizer = build(model.parameters(), path, **options)
    train(optimizer, range(3))
    saved = through_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    resumed_model = network(dtype)
    resumed = build(resumed_model.parameters(), path, lr=0.5, **options)
    resumed_model.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert snapshot(resumed) == snapshot(optimizer)
    train(optimizer, range(3, 6))
    train(resumed, range(3, 6))
    assert snapshot(resumed) == snapshot(optimizer)


def test_loading_does_not_tie_two_optimizers_together():
    optimizer, other = Nero(network().parameters()), Nero(network().parameters())
    train(optimizer, range(2))
    state_dict = optimizer.state_dict()
    other.load_state_dict(state_dict)
    before = snapshot(optimizer)
    train(other, range(2, 4))
    other.param_groups[0]["lr"] = 0.7
    assert snapshot(optimizer) == before
    assert bits(state_dict) == bits(optimizer.state_dict())


def test_loading_a_file_with_fewer_settings_keeps_those_of_the_optimizer():
    source = Nero(network().parameters(), lr=0.3)
    train(source, range(2))
    saved = source.state_dict()
    for name in ("nonfinite", "capturable", "neuron_axes", "momentum", "maximize"):
        del saved["param_groups"][0][name]
    model = network()
    optimizer = Nero(
        [{"params": list(model.parameters()), "nonfinite": "raise", "maximize": True}], lr=0.1
    )
    optimizer.load_state_dict(through_file(saved))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["nonfinite"], group["maximize"]) == (0.3, "raise", True)
    assert (group["capturable"], group["momentum"], group["neuron_axes"]) == (False, 0.0, (0,))
    assert all(state["step"].item() == 2 for state in optimizer.state.values())


@every_path
def test_loading_a_step_count_saved_as_an_integer(path: PathRow):
    model = network()
    optimizer = build(model.parameters(), path)
    train(optimizer, range(3))
    saved = through_file(optimizer.state_dict())
    for state in saved["state"].values():
        state["step"] = 3
    other_model = network()
    other = build(other_model.parameters(), path)
    other_model.load_state_dict(model.state_dict())
    other.load_state_dict(saved)
    assert all(state["step"].dtype == torch.float32 for state in other.state.values())
    train(optimizer, range(3, 5))
    train(other, range(3, 5))
    assert snapshot(other) == snapshot(optimizer)


def test_a_load_pre_hook_converts_an_old_format_before_it_is_checked():
    source, optimizer = Nero(weights_like((3, 4), (5,))), Nero(weights_like((3, 4), (5,)))
    train(source, range(2))
    old = source.state_dict()
    old["state"] = {
        key: {"t": int(state["step"]), "v": state["rms"] ** 2, "sigma": state["scale"]}
        for key, state in old["state"].items()
    }
    with pytest.raises(ValueError, match="lacks step, rms, scale"):
        optimizer.load_state_dict(old)

    def convert(_: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        state = {
            key: {"step": value["t"], "rms": value["v"].sqrt(), "scale": value["sigma"]}
            for key, value in saved["state"].items()
        }
        return {**saved, "state": state}

    optimizer.register_load_state_dict_pre_hook(convert)
    optimizer.load_state_dict(old)
    for mine, theirs in zip(optimizer.state.values(), source.state.values(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_loading_twice_registers_no_hook_of_its_own():
    optimizer = Nero(weights_like((3, 4)))
    hooks = dict(optimizer._optimizer_load_state_dict_pre_hooks)
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="groups of"):
        optimizer.load_state_dict(Nero(weights_like((3, 4), (3, 4))).state_dict())
    assert dict(optimizer._optimizer_load_state_dict_pre_hooks) == hooks


@every_path
@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
def test_a_distributed_checkpoint_resumes_bit_identically(path: PathRow, flatten: bool):
    options = distributed.StateDictOptions(flatten_optimizer_state_dict=flatten)
    model, restored_model = network(), network()
    optimizer = build(model.parameters(), path)
    restored = build(restored_model.parameters(), path)
    train(optimizer, range(3))
    restored_model.load_state_dict(model.state_dict())
    weights = bits(model.state_dict())
    saved = distributed.get_optimizer_state_dict(model, optimizer, options=options)
    distributed.set_optimizer_state_dict(restored_model, restored, saved, options=options)
    assert bits(model.state_dict()) == weights
    assert bits(restored_model.state_dict()) == weights
    train(optimizer, range(3, 6))
    train(restored, range(3, 6))
    assert bits(restored_model.state_dict()) == bits(model.state_dict())


def test_a_distributed_checkpoint_before_the_first_step_changes_no_bit():
    model, other_model = network(), network()
    optimizer = Nero(model.parameters(), momentum=0.9)
    other = Nero(other_model.parameters(), momentum=0.9)
    before, other_before = snapshot(optimizer), bits(other_model.state_dict())
    saved = distributed.get_optimizer_state_dict(model, optimizer)
    distributed.set_optimizer_state_dict(other_model, other, saved)
    assert snapshot(optimizer) == before
    assert bits(other_model.state_dict()) == other_before
    assert all(p.grad is None for p in model.parameters())


@every_path
@pytest.mark.parametrize("options", RESUMED, ids=str)
def test_state_follows_a_model_that_is_converted_in_the_middle(
    path: PathRow, options: dict[str, Any]
):
    def run(how: PathRow) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = network()
        optimizer = build(model.parameters(), how, **options)
        train(optimizer, range(3))
        model.double()
        for p in model.parameters():
            p.grad = None
        train(optimizer, range(3, 6))
        kept = [value for state in optimizer.state.values() for value in state.items()]
        dtypes = {x.dtype for name, x in kept if name not in ("step", "seed")}
        assert dtypes == {torch.float64}
        return [p.detach() for p in model.parameters()]

    reference = run(PathRow("single", {"foreach": False}))
    torch.testing.assert_close(run(path), reference, rtol=1e-5, atol=1e-6)
