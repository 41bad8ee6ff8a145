"""What starts at zero or tiny grows from there, by steps that suit its role, on every path."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from helpers import balanced, bits, build, every_path, give_gradients, snapshot, train, weights_like
from nero import Nero, balance_, for_model, param_groups
from optimizer_table import PathRow

pytestmark = pytest.mark.filterwarnings("ignore:.*start at .nearly. zero:UserWarning")
STARTS = pytest.mark.parametrize("start", [0.0, 1e-5])
CONSTRAINTS = [{}, {"center": False}, {"radius": 3.0}, {"center": False, "radius": "initial"}]


class Adapter(nn.Module):
    """A trained layer beside a product of two whose second is zero."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.base = nn.Linear(16, 16)
        self.a = nn.Linear(16, 4, bias=False)
        self.b = nn.Linear(4, 16, bias=False)
        nn.init.normal_(self.b.weight, std=start)
        self.base.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(x))


@every_path
@STARTS
@pytest.mark.parametrize("options", CONSTRAINTS, ids=str)
def test_a_matrix_that_starts_at_zero_grows_by_lr_a_step(
    path: PathRow, start: float, options: dict[str, Any]
):
    zero, other = weights_like((5, 4), (5, 4))
    zero.data.mul_(start)
    before = zero.detach().clone()
    optimizer = build([zero, other], path, lr=0.01, momentum=0.9, **options)
    assert torch.equal(zero, before), "building changes nothing"
    give_gradients([zero, other], 0)
    optimizer.step()
    step = (zero.detach() - before).norm(dim=1)
    torch.testing.assert_close(step, torch.full((5,), 0.01), rtol=1e-4, atol=0)
    for seed in range(1, 40):
        give_gradients([zero, other], seed)
        optimizer.step()
        grown = zero.detach().clone()
        optimizer.project_()
        assert torch.equal(zero, grown)
    assert zero.norm(dim=1).max() < 0.4


@pytest.mark.parametrize("preset", ["balanced", "paper", "finetune"])
def test_one_step_beside_trained_weights_changes_little(preset: str):
    model, x = Adapter(), torch.randn(64, 16)
    before = model(x)
    optimizer = Nero(param_groups(model, preset=preset), lr=1e-4)
    assert torch.equal(model(x), before)
    (model(x) - torch.randn(64, 16)).square().mean().backward()
    optimizer.step()
    change = (model(x) - before).norm() / before.norm()
    assert 0 < change < 0.002


@pytest.mark.parametrize("preset", ["balanced", "finetune"])
def test_zeros_are_named_when_the_optimizer_is_built(preset: str):
    model = Adapter()
    with pytest.warns(
        UserWarning, match=r"parameter 'b.weight' of shape \(16, 4\): .*zero"
    ) as found:
        optimizer = Nero(param_groups(model, preset=preset))
    assert "a.weight" not in str(found[0].message)
    assert found[0].filename == __file__
    late = nn.Parameter(torch.zeros(3, 4))
    with pytest.warns(UserWarning, match="late") as found:
        optimizer.add_param_group({"params": [("late", late)]})
    assert found[0].filename == __file__


def test_ordinary_weights_and_zero_biases_are_not_named():
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.bias)
    nn.init.normal_(layer.weight, std=0.01)
    table = nn.Embedding(5, 4, padding_idx=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Nero(param_groups(nn.Sequential(layer, table)))
    assert balanced(layer.weight)


def test_balance_leaves_zeros_as_the_optimiser_does():
    model = Adapter(1e-5)
    before = bits(model.b.weight)
    balance_(model)
    assert bits(model.b.weight) == before
    assert balanced(model.a.weight)


@every_path
def test_what_has_grown_is_resumed_bit_for_bit(path: PathRow):
    model = Adapter()
    optimizer = build(param_groups(model), path)
    for seed in range(3):
        give_gradients([p for p in model.parameters() if p.requires_grad], seed)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    again = Adapter()
    again.load_state_dict(model.state_dict())  # before the optimiser is built: not zero any more
    weights = bits(again.state_dict())
    resumed = build(param_groups(again, preset="finetune"), path)
    for group in resumed.param_groups:
        group.update(center=True, radius="unit")
    resumed.load_state_dict(saved)
    assert bits(again.state_dict()) == weights
    for each in (model, again):
        for seed in range(3, 5):
            give_gradients([p for p in each.parameters() if p.requires_grad], seed)
            (optimizer if each is model else resumed).step()
    assert bits(again.b.weight) == bits(model.b.weight)
    assert snapshot(resumed)["state"] == snapshot(optimizer)["state"]


@pytest.mark.parametrize("start", [0.0, 1e-6, 1e-4])
def test_a_gain_that_starts_small_moves_as_one_that_starts_at_zero(start: float):
    gain = nn.Parameter(torch.full((4,), start))
    optimizer = Nero([gain], lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        (gain - 1).square().sum().backward()
        optimizer.step()
    assert (gain - start > 0.1).all()
    assert optimizer.state[gain]["scale"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("preset", "scale"), [("balanced", 1.0), ("finetune", 1.0), ("paper", 0.01)]
)
@pytest.mark.parametrize("start", [0.0, 1e-6])
def test_a_small_gain_is_stepped_as_one_of_one(preset: str, scale: float, start: float):
    norm = nn.BatchNorm1d(4)
    nn.init.constant_(norm.weight, start)
    optimizer = Nero(param_groups(norm, preset=preset))
    assert optimizer.state[norm.weight]["scale"] == pytest.approx(scale)
    assert optimizer.state[norm.bias]["scale"] == pytest.approx(0.01)


def test_a_new_head_under_finetune_finds_its_size():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))
    target = torch.randn(4, 32)
    nn.init.normal_(model[2].weight, std=0.02 / 32**0.5)
    body = copy.deepcopy(model[:2])
    optimizer = Nero(param_groups(model, preset="finetune", head="2"), lr=0.03)
    for _ in range(300):
        x = torch.randn(64, 16)
        wanted = (body(x) @ target.T).detach()
        optimizer.zero_grad()
        loss = (model(x) - wanted).square().mean() / wanted.square().mean()
        loss.backward()
        optimizer.step()
    assert model[2].weight.norm(dim=1).min() > 1
    assert loss < 0.3


def test_a_tiny_neuron_among_others_is_free_under_initial():
    (w,) = weights_like((3, 4))
    w.data[1] *= 1e-7
    optimizer = Nero([w], center=False, radius="initial", lr=0.1)
    train(optimizer, range(20))
    assert w[1].norm() > 0.05


def test_centring_what_is_mostly_zeros_is_named():
    layer = nn.Linear(8, 4)
    with torch.no_grad():
        layer.weight[:, 2:] = 0
    message = r"parameter 'weight' of shape \(4, 8\): more than half .* center=False"
    with pytest.warns(UserWarning, match=message) as found:
        Nero(list(copy.deepcopy(layer).named_parameters()))
    assert found[0].filename == __file__
    optimizer = Nero(list(nn.Linear(2, 2).named_parameters()))
    with pytest.warns(UserWarning, match=message):
        optimizer.add_param_group({"params": list(copy.deepcopy(layer).named_parameters())})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Nero(layer.parameters(), center=False)
        balance_(layer, overrides={"weight": {"center": False}})
    assert torch.equal(layer.weight[:, 2:], torch.zeros(4, 6))
    with pytest.warns(UserWarning, match=r"more than half .*center.*: weight$") as found:
        balance_(layer)
    assert found[0].filename == __file__


def test_convolutions_drawn_anew_are_not_taken_for_pruned_ones():
    # An isometric 3 x 3 convolution starts with all but its middle pixel at zero.
    layers = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(18)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 16, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for_model(model, batch=torch.randn(2, 4, 4, 4), fresh=True)
    assert torch.count_nonzero(layers[5][0].weight) < layers[5][0].weight.numel() / 2
