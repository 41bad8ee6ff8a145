"""Angles, flatness and sharpness against closed forms, and their invariances."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import nero
from measures.networks import ReluChain, labelled, permuted, rescaled
from nero import NeuronLayout
from nero.measures import (
    accuracy_when_turned,
    angles_from_initial,
    angular_flatness,
    balanced_layouts,
    distance_from_initial,
    spherical_sharpness,
)


def logistic(outputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.softplus(-outputs.flatten() * labels).mean()


def chain() -> tuple[ReluChain, dict[str, NeuronLayout]]:
    model = nero.balance_(ReluChain(6, 20, 20, 1).double())
    assert isinstance(model, ReluChain)
    return model, balanced_layouts(nero.param_groups(model))


def test_layouts_are_those_of_balanced_tensors() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ConvTranspose2d(4, 2, 2), nn.Linear(2, 5))
    found = balanced_layouts(nero.param_groups(model, overrides={"2.weight": {"radius": None}}))
    assert found == {
        "0.weight": NeuronLayout((4, 3, 2, 2)),
        "1.weight": NeuronLayout((4, 2, 2, 2), (1,)),
    }
    # A neuron of fan-in 2 cannot turn.
    assert balanced_layouts(nero.param_groups(nn.Linear(2, 5))) == {}


def test_distance_is_the_sum_of_one_minus_the_cosines() -> None:
    model, layouts = chain()
    initial = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = nero.Nero(nero.param_groups(model), lr=0.2)
    data = labelled(model, 50, 6)
    for _ in range(3):
        optimizer.zero_grad()
        logistic(model(data[0]), -data[1]).backward()
        optimizer.step()
    expected = sum((1 - (p * initial[n]).sum(1)).sum().item() for n, p in model.named_parameters())
    assert distance_from_initial(model, initial, layouts) == pytest.approx(expected, rel=1e-9)
    angles = angles_from_initial(model, initial, layouts)
    assert {n: a.shape for n, a in angles.items()} == {n: (20, 1) for n in list(angles)[:2]} | {
        "layers.2.weight": (1, 1)
    }
    assert distance_from_initial(model, initial, layouts) > 1e-3


def test_small_distances_keep_their_digits() -> None:
    model = nero.balance_(nn.Linear(5, 1, bias=False).double())
    initial = {"weight": model.weight.detach().clone()}
    direction = torch.tensor([1.0, -2.0, 1.0, 0.0, 0.0], dtype=torch.float64)
    direction -= (direction @ initial["weight"][0]) * initial["weight"][0]
    with torch.no_grad():
        model.weight.add_(1e-9 * direction / direction.norm())
    distance = distance_from_initial(model, initial, {"weight": NeuronLayout((1, 5))})
    assert distance == pytest.approx(0.5e-18, rel=1e-6)


@pytest.mark.parametrize("angle", [0.3, 1.0, math.pi / 2])
def test_accuracy_of_a_turned_neuron_in_closed_form(angle: float) -> None:
    """On rotation-invariant inputs a turn by t puts t / pi of them on the wrong side."""
    model = nero.balance_(nn.Linear(6, 1, bias=False))
    layouts = balanced_layouts(nero.param_groups(model))
    data = labelled(model, 20_000, 6)
    accuracy = accuracy_when_turned(model, layouts, data, angle)
    assert accuracy == pytest.approx(1 - angle / math.pi, abs=0.01)


def test_flatness_of_a_neuron_in_closed_form() -> None:
    model = nero.balance_(nn.Linear(6, 1, bias=False))
    layouts = balanced_layouts(nero.param_groups(model))
    data = labelled(model, 20_000, 6)
    for drop in (0.1, 0.3):
        angle = angular_flatness(model, layouts, data, drop=drop, tolerance=1e-3)
        assert angle == pytest.approx(drop * math.pi, rel=0.02)
    assert angular_flatness(model, layouts, data, drop=0.7) == math.pi / 2


def test_flatness_stops_after_its_halvings() -> None:
    model, layouts = chain()
    data = labelled(model, 100, 6)
    assert angular_flatness(model, layouts, data, halvings=1, tolerance=0) == math.pi / 4


def test_flatness_of_a_classifier_with_a_column_for_each_class() -> None:
    """Two columns of opposite neurons are the single neuron, but each is turned by itself."""
    one = nero.balance_(nn.Linear(6, 1, bias=False))
    two = nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        two.weight.copy_(torch.cat([-one.weight, one.weight]))
    inputs, signs = labelled(one, 20_000, 6)
    layouts = balanced_layouts(nero.param_groups(two))
    angle = angular_flatness(two, layouts, (inputs, (signs > 0).long()), tolerance=1e-3)
    # w1 - w2 turns by arctan(tan(t) |u1 - u2| / 2): about t / sqrt 2.
    assert math.pi / 10 < angle < 2 * math.pi / 10


def test_sharpness_of_a_linear_loss_in_closed_form() -> None:
    """w.x is largest in the cap where w has turned by the angle towards x."""
    model = nero.balance_(nn.Linear(6, 3, bias=False).double())
    x = torch.randn(6, dtype=torch.float64)
    x = (x - x.mean()) / (x - x.mean()).norm()
    away = torch.arccos(model.weight.detach() @ x)  # of each neuron
    for angle in (0.05, 0.4):
        rise = spherical_sharpness(
            model,
            balanced_layouts(nero.param_groups(model)),
            (x[None], torch.zeros(1)),
            lambda outputs, _: outputs.sum(),
            angle,
            steps=100,
        )
        expected = ((away - angle).clamp(min=0).cos() - away.cos()).sum().item()
        assert rise == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("angle", [0.0, 2.0])
def test_sharpness_refuses_an_angle(angle: float) -> None:
    model, layouts = chain()
    with pytest.raises(ValueError, match=r"angle must be in \(0, pi / 2\)"):
        spherical_sharpness(model, layouts, labelled(model, 10, 6), logistic, angle)


def test_permuting_and_rescaling_before_balancing_change_nothing() -> None:
    model, layouts = chain()
    data = labelled(model, 2000, 6)
    initial = {n: p.detach().flip(1) for n, p in model.named_parameters()}
    same = nero.balance_(rescaled(model))
    for other in (permuted(model), same):
        flat = angular_flatness(other, layouts, data, draws=40)
        assert flat == pytest.approx(angular_flatness(model, layouts, data, draws=40), rel=0.1)
        sharp = spherical_sharpness(other, layouts, data, logistic, 0.1, steps=50)
        assert sharp == pytest.approx(
            spherical_sharpness(model, layouts, data, logistic, 0.1, steps=50), rel=0.01
        )
    assert distance_from_initial(same, initial, layouts) == pytest.approx(
        distance_from_initial(rescaled(model), initial, layouts), rel=1e-9
    )


def test_measures_change_no_bit_of_the_model_and_leave_no_gradient() -> None:
    model, layouts = chain()
    before = copy.deepcopy(model.state_dict())
    data = labelled(model, 50, 6)
    angular_flatness(model, layouts, data)
    spherical_sharpness(model, layouts, data, logistic, 0.1)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_what_is_not_balanced_is_refused_by_name() -> None:
    model, layouts = chain()
    data = labelled(model, 10, 6)
    with pytest.raises(ValueError, match=r"'layers\.0\.weight' is not balanced: call nero\.bal"):
        angular_flatness(rescaled(model), layouts, data)
    with pytest.raises(ValueError, match="the model has no parameter 'w'"):
        angular_flatness(model, {"w": NeuronLayout((3, 4))}, data)
    with pytest.raises(ValueError, match=r"labels \+1 and -1"):
        angular_flatness(model, layouts, (data[0], torch.zeros(10)))
