"""Bounds: the binary divergence's inverse, coverage, and what enters the bounds for networks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import nero
from nero.measures import (
    balanced_layouts,
    binary_kl,
    binary_kl_upper,
    cap_bounds,
    cap_kl,
    fisher_bounds,
    fisher_kl,
    pac_bayes_bound,
)


@given(q=st.floats(0, 1), budget=st.floats(0, 5))
def test_the_inverse_is_the_largest_probability_within_the_budget(q: float, budget: float) -> None:
    p = binary_kl_upper(q, budget)
    assert q <= p <= 1
    if p < 1:
        assert binary_kl(q, p) >= budget * (1 - 1e-9) - 1e-12
        below = p - 1e-9 * (p - q) - 1e-15
        assert binary_kl(q, max(q, below)) <= budget + 1e-12


def test_the_bound_with_no_error_is_in_closed_form() -> None:
    confidence = math.log(2 * math.sqrt(500) / 0.05)
    expected = 1 - math.exp(-(100 + confidence) / 500)
    assert pac_bayes_bound(0.0, 100.0, 500) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5, 1.0, 100), r"q and p must be in \[0, 1\]"),
        ((0.1, -1.0, 100), "kl must be at least 0"),
        ((0.1, 1.0, 7), "at least 8"),
        ((0.1, 1.0, 100, 1.0), "delta must be in"),
    ],
)
def test_the_bound_refuses(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pac_bayes_bound(*arguments)  # pyright: ignore[reportArgumentType]


def linear_task(examples: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A balanced neuron of fan-in 4, and labels by a neuron 0.3 away with a tenth flipped."""
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.5, 0.5, -0.5, -0.5]]))
    teacher = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=torch.float64)
    teacher = math.cos(0.3) * model.weight.detach()[0] + math.sin(0.3) * teacher
    inputs = torch.randn(examples, 4, dtype=torch.float64)
    labels = torch.sign(inputs @ teacher)
    return model, inputs, torch.where(torch.rand(examples) < 0.1, -labels, labels)


def test_bounds_hold_for_the_posterior_on_fresh_data() -> None:
    model, inputs, labels = linear_task(2000)
    layouts = balanced_layouts(nero.param_groups(model))
    grid = [0.1, 0.5, 1.5]
    bounds = cap_bounds(model, layouts, (inputs[:500], labels[:500]), grid, draws=200)
    fresh = cap_bounds(model, layouts, (inputs[500:], labels[500:]), grid, draws=200)
    for bound, other, angle in zip(bounds, fresh, grid, strict=True):
        assert bound.spread == angle
        assert bound.kl == cap_kl(layouts, angle)
        assert bound.train_error < bound.train_error_upper < bound.test_error_upper
        assert other.train_error < bound.test_error_upper
    # Half of delta for the theorem; the other half over the grid, in Chernoff's bound.
    first = bounds[0]
    upper = binary_kl_upper(first.train_error, math.log(3 / 0.025) / 200)
    assert first.train_error_upper == pytest.approx(upper)
    assert first.test_error_upper == pytest.approx(pac_bayes_bound(upper, first.kl, 500, 0.025))


def test_the_training_error_of_a_cap_is_in_closed_form_on_the_circle() -> None:
    """Fan-in 3: a neuron turned by t misclassifies |t| / pi of a rotation-invariant input."""
    model = nero.balance_(nn.Linear(3, 1, bias=False))
    inputs = torch.randn(20_000, 3)
    with torch.no_grad():
        labels = model(inputs - inputs.mean(1, keepdim=True)).flatten().sign()
    layouts = balanced_layouts(nero.param_groups(model))
    (bound,) = cap_bounds(model, layouts, (inputs, labels), [0.6], draws=400)
    assert bound.train_error == pytest.approx(0.3 / math.pi, abs=0.01)


def test_the_fisher_bound_pays_for_what_was_learnt_and_for_the_grid() -> None:
    model, inputs, labels = linear_task(500)
    layouts = balanced_layouts(nero.param_groups(model))
    initial = {"weight": model.weight.detach().roll(1, dims=1)}
    grid = [3.0, 30.0]
    bounds = fisher_bounds(model, initial, layouts, (inputs, labels), grid, draws=100)
    weights = {"weight": model.weight.detach()}
    for bound, kappa in zip(bounds, grid, strict=True):
        assert bound.kl == fisher_kl(weights, initial, layouts, kappa)
        expected = pac_bayes_bound(bound.train_error_upper, bound.kl, 500, 0.05 / 4)
        assert bound.test_error_upper == pytest.approx(expected)


def test_a_bound_covers_every_trained_parameter() -> None:
    model = nero.balance_(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1, bias=False)))
    layouts = balanced_layouts(nero.param_groups(model))
    data = torch.randn(10, 4), torch.ones(10)
    with pytest.raises(ValueError, match=r"'0\.bias' is trainable and not among the layouts"):
        cap_bounds(model, layouts, data, [0.5])
    model[0].bias.requires_grad_(False)
    assert cap_bounds(model, layouts, data, [0.5], draws=1)[0].test_error_upper <= 1
    with pytest.raises(ValueError, match="draws must be at least 1"):
        cap_bounds(model, layouts, data, [0.5], draws=0)
