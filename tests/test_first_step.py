"""Weights and state that change between building the optimiser and its steps."""

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import bits, build, every_path, give_gradients, network, snapshot, train, weights_like
from nero import Nero, NeuronLayout, geometry, param_groups
from optimizer_table import PathRow


def trained_state(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights whose norms are not those of a new network."""
    model = network(dtype)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.mul_(5 + i).add_(0.5)
    return model.state_dict()


def finetune(model: nn.Module, path: PathRow, **options: Any) -> Nero:
    return build(param_groups(model, preset="finetune"), path, **options)


def norms(model: nn.Module) -> list[Tensor]:
    weights = [p.detach() for p in model.parameters() if p.ndim > 1]
    return [geometry.neuron_norm(p, NeuronLayout(tuple(p.shape))) for p in weights]


WAYS: dict[str, Callable[[nn.Module, dict[str, Tensor]], Any]] = {
    "load_state_dict": lambda model, state: model.load_state_dict(state),
    "data": lambda model, state: [p.data.copy_(state[n]) for n, p in model.named_parameters()],
    "new storage": lambda model, state: [
        setattr(p, "data", state[n].clone()) for n, p in model.named_parameters()
    ],
}


@every_path
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_weights_loaded_after_building_are_those_that_are_finetuned(
    path: PathRow, way: Callable[[nn.Module, dict[str, Tensor]], Any]
):
    late, early = network(), network()
    optimizer = finetune(late, path)
    way(late, trained_state_of := trained_state())
    early.load_state_dict(trained_state_of)
    expected = finetune(early, path)
    before = norms(late)
    train(optimizer, range(3))
    train(expected, range(3))
    torch.testing.assert_close(norms(late), before, rtol=1e-5, atol=0)
    assert snapshot(optimizer) == snapshot(expected), "as if it had been built afterwards"


def test_project_moves_no_neuron_off_its_loaded_norm():
    model = network()
    optimizer = finetune(model, PathRow("default", {}))
    model.load_state_dict(trained_state())
    before = bits(model.state_dict())
    optimizer.project_()
    assert bits(model.state_dict()) == before
    train(optimizer, range(2))
    model.load_state_dict(trained_state())
    kept, before = norms(model), bits(model.state_dict())
    optimizer.project_()
    assert bits(model.state_dict()) == before
    train(optimizer, range(2))
    torch.testing.assert_close(norms(model), kept, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_that_stay_are_not_measured_again(dtype: torch.dtype):
    """What a user has set in the state before the first step holds."""
    model = network(dtype)
    optimizer = finetune(model, PathRow("default", {}))
    for state in optimizer.state.values():
        state["scale"].fill_(0.125)
    train(optimizer, range(2))
    assert all(state["scale"] == 0.125 for state in optimizer.state.values())


def test_a_size_is_taken_anew_only_before_the_first_step():
    w, b = weights_like((3, 4), (4,))
    optimizer = Nero([w, b], center=False, radius=None)
    train(optimizer, range(1))
    scales = [optimizer.state[p]["scale"].clone() for p in (w, b)]
    with torch.no_grad():
        w.mul_(10)
        b.mul_(10)
    train(optimizer, range(1, 3))
    assert [optimizer.state[p]["scale"] for p in (w, b)] == scales


# ---------------------------------------------------------------- state that is gone


def delete(optimizer: Nero) -> None:
    optimizer.state.clear()


def empty(optimizer: Nero) -> None:
    for p in optimizer.state:
        optimizer.state[p] = {}


def replace(optimizer: Nero) -> None:
    optimizer.state = defaultdict(dict)


def zero(optimizer: Nero) -> None:
    for state in optimizer.state.values():
        for x in state.values():
            x.zero_()


@every_path
@pytest.mark.parametrize("lose", [delete, empty, replace, zero])
@pytest.mark.parametrize("options", [{}, {"radius": "initial", "momentum": 0.9}], ids=str)
def test_state_that_is_gone_is_made_anew_from_the_weights_that_are_there(
    path: PathRow, lose: Callable[[Nero], None], options: dict[str, Any]
):
    model = network()
    model.load_state_dict(trained_state())
    optimizer = build(model.parameters(), path, **options)
    train(optimizer, range(3))
    other_model = copy.deepcopy(model)
    before = bits(model.state_dict())
    lose(optimizer)
    other = build(other_model.parameters(), path, **options)
    assert bits(other_model.state_dict()) == before, "the weights are on their set already"
    train(optimizer, range(3, 6))
    train(other, range(3, 6))
    expected = [dict(state) for state in other.state.values()]
    if lose is zero and options == {}:
        # Neurons of fixed radius do not use their scale.
        for p, state in optimizer.state.items():
            if p.ndim > 1:
                state["scale"].fill_(1)
    assert bits([dict(optimizer.state[p]) for p in model.parameters()]) == bits(expected)
    assert bits(model.state_dict()) == bits(other_model.state_dict())


@every_path
@pytest.mark.parametrize("options", [{}, {"center": False, "radius": "initial"}], ids=str)
def test_each_parameter_whose_state_is_zeroed_moves_again(path: PathRow, options: dict[str, Any]):
    """Not the first of its group alone; within as many steps as the group has parameters."""
    model = network()
    model.load_state_dict(trained_state())
    optimizer = build(model.parameters(), path, **options)
    train(optimizer, range(3))
    params = list(model.parameters())
    zeroed, kept = params[3:], norms(model)
    for p in zeroed:
        for x in optimizer.state[p].values():
            x.zero_()
    before = [p.detach().clone() for p in params]
    train(optimizer, range(3, 3 + len(params)))
    assert not any(torch.equal(p, was) for p, was in zip(params, before, strict=True))
    assert all(optimizer.state[p]["scale"] > 0 for p in params if p.ndim < 2 or options)
    torch.testing.assert_close(norms(model), kept, rtol=1e-4, atol=0)


# ---------------------------------------------------------------- parameters that are exchanged


def exchange(optimizer: Nero, made: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Put others in the place of all parameters, as wrappers do."""
    new = []
    for group in optimizer.param_groups:
        group["params"] = [nn.Parameter(made(p.detach())) for p in group["params"]]
        new += group["params"]
    return new


@every_path
def test_parameters_exchanged_for_others_of_their_shapes_start_anew(path: PathRow):
    model = network()
    model.load_state_dict(trained_state())
    optimizer = build(model.parameters(), path, center=False, radius="initial")
    kept = [p.norm(dim=1) for p in model.parameters() if p.ndim > 1]
    new = exchange(optimizer, torch.clone)
    train(optimizer, range(3))
    assert all(optimizer.state[p]["step"] == 3 for p in new)
    after = [p.detach().norm(dim=1) for p in new if p.ndim > 1]
    torch.testing.assert_close(after, [x.detach() for x in kept])


@every_path
def test_parameters_exchanged_for_flattened_ones_are_refused(path: PathRow):
    model = network()
    optimizer = build(model.parameters(), path)
    (group,) = optimizer.param_groups
    group["params"] = [nn.Parameter(torch.cat([p.detach().flatten() for p in group["params"]]))]
    give_gradients(group["params"], 0)
    before = bits(group["params"])
    with pytest.raises(RuntimeError, match=r"parameter 0 of shape \(98,\) .*fully_shard"):
        optimizer.step()
    assert bits(group["params"]) == before


# ---------------------------------------------------------------- meta and swapped tensors


@every_path
@pytest.mark.parametrize("options", [{}, {"radius": "initial"}], ids=str)
def test_a_model_swapped_in_for_one_on_meta_is_trained(path: PathRow, options: dict[str, Any]):
    if path.options.get("fused"):
        pytest.skip("fused=True refuses parameters on the meta device")
    with torch.device("meta"):
        model = network()
    optimizer = build(model.parameters(), path, **options)
    real = network()
    real.load_state_dict(trained_state())
    expected_model = copy.deepcopy(real)
    for p, q in zip(model.parameters(), real.parameters(), strict=True):
        torch.utils.swap_tensors(p, q)
    expected = build(expected_model.parameters(), path, **options)
    optimizer.project_()
    train(optimizer, range(3))
    train(expected, range(3))
    assert snapshot(optimizer) == snapshot(expected)


def test_an_optimizer_left_with_parameters_on_meta_says_so():
    with torch.device("meta"):
        model = nn.Linear(4, 3)
    optimizer = Nero(model.parameters())
    model.to_empty(device="cpu")  # puts other parameters into the model
    model(torch.ones(2, 4)).sum().backward()
    with pytest.raises(RuntimeError, match=r"meta device.*Build the optimizer after"):
        optimizer.step()


@pytest.mark.parametrize("options", [{"foreach": False}, {"foreach": True}, {}], ids=str)
def test_state_follows_a_parameter_that_is_moved(options: dict[str, Any]):
    w, b = weights_like((3, 4), (4,))
    optimizer = Nero([w, b], momentum=0.9, radius="initial", **options)
    train(optimizer, range(2))
    for p in (w, b):
        torch.utils.swap_tensors(p, nn.Parameter(p.detach().to("meta")))
        p.grad = torch.empty_like(p)
    optimizer.step()
    for p in (w, b):
        state = optimizer.state[p]
        assert {x.device.type for name, x in state.items() if name != "step"} == {"meta"}
        assert state["step"] == 3


# ---------------------------------------------------------------- parameters that grow


def test_the_recipe_for_rows_that_are_added_and_taken_away():
    """As docs/how-to/checkpoints.md has it: state goes with the rows, `scale` stays."""
    points = nn.Parameter(torch.randn(6, 3) * 4)
    optimizer = Nero([points], radius=None, center=False, momentum=0.9)
    train(optimizer, range(3))
    before = {name: x.clone() for name, x in optimizer.state[points].items()}
    (group,) = optimizer.param_groups
    rows = torch.tensor([0, 1, 2, 4, 4])  # one is gone, one is there twice
    grown = nn.Parameter(points.detach()[rows])
    state = optimizer.state.pop(points)
    group["params"][0] = grown
    optimizer.state[grown] = {name: x[rows] if x.ndim else x for name, x in state.items()}
    train(optimizer, range(3, 5))
    after = optimizer.state[grown]
    assert after["rms"].shape == (5, 1)
    assert after["exp_avg"].shape == (5, 3)
    assert (after["step"], after["scale"]) == (5, before["scale"])
