"""Properties of a step that hold for any weights and gradients, on every path."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import helpers
import nero
from helpers import bits, every_path
from nero import NeuronLayout, geometry
from optimizer_table import PathRow

SEEDS = st.integers(0, 2**31)


def build(tensors: list[Tensor], path: PathRow, lr: float = 0.01, **options: Any) -> nero.Nero:
    return helpers.build([torch.nn.Parameter(w) for w in tensors], path, lr, **options)


def parameters(optimizer: nero.Nero) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer: nero.Nero, gradients: list[Tensor]) -> None:
    for p, g in zip(parameters(optimizer), gradients, strict=True):
        p.grad = g
    optimizer.step()


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@every_path
@settings(max_examples=25)
@given(
    neurons=st.integers(1, 6),
    fan_in=st.sampled_from([3, 4, 17, 1000, 30_000]),
    lr=st.sampled_from([1e-4, 0.01, 0.3, 3.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    seed=SEEDS,
)
def test_weights_stay_balanced(
    path: PathRow, neurons: int, fan_in: int, lr: float, momentum: float, seed: int
) -> None:
    layout = NeuronLayout((neurons, fan_in))
    weights = [randn(seed + k, neurons, fan_in) for k in range(2)]
    optimizer = build(weights, path, lr, momentum=momentum)
    for t in range(5):
        step(optimizer, [randn(seed + 10 * t + k, neurons, fan_in) for k in range(2)])
        for p in parameters(optimizer):
            assert geometry.neuron_mean(p, layout).abs().max() < 1e-6
            assert (geometry.neuron_norm(p, layout) - 1).abs().max() < 1e-6


@every_path
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=20)
@given(
    exponent=st.floats(-30, 30),
    momentum=st.sampled_from([0.0, 0.9]),
    center=st.booleans(),
    radius=st.sampled_from(["unit", "initial", None]),
    seed=SEEDS,
)
def test_the_size_of_gradients_does_not_matter(
    path: PathRow,
    dtype: torch.dtype,
    exponent: float,
    momentum: float,
    center: bool,
    radius: str | None,
    seed: int,
) -> None:
    shapes = [(4, 6), (4, 6), (5,), (5,), ()]
    gradients = [
        [randn(seed + 10 * t + k, *shape, dtype=dtype) for k, shape in enumerate(shapes)]
        for t in range(8)
    ]
    ends = []
    for c in (1.0, 10.0**exponent):
        weights = [randn(k, *shape, dtype=dtype) for k, shape in enumerate(shapes)]
        optimizer = build(weights, path, 0.05, momentum=momentum, center=center, radius=radius)
        for g in gradients:
            step(optimizer, [c * x for x in g])
        ends.append(parameters(optimizer))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for plain, scaled in zip(*ends, strict=True):
        assert not torch.isnan(plain).any()
        torch.testing.assert_close(scaled, plain, rtol=0, atol=tolerance)


@every_path
@settings(max_examples=20)
@given(
    data=st.data(),
    momentum=st.sampled_from([0.0, 0.9]),
    center=st.booleans(),
    radius=st.sampled_from(["unit", "initial", None]),
    seed=SEEDS,
)
def test_neurons_and_synapses_have_no_order(
    path: PathRow,
    data: st.DataObject,
    momentum: float,
    center: bool,
    radius: str | None,
    seed: int,
) -> None:
    rows = torch.tensor(data.draw(st.permutations(range(5))))
    columns = torch.tensor(data.draw(st.permutations(range(7))))

    def permuted(x: Tensor) -> Tensor:
        return x[rows][:, columns]

    def same(x: Tensor) -> Tensor:
        return x

    ends = []
    for order in (same, permuted):
        weights = [order(randn(seed + k, 5, 7, dtype=torch.float64)) for k in range(2)]
        optimizer = build(weights, path, 0.05, momentum=momentum, center=center, radius=radius)
        for t in range(5):
            g = [order(randn(seed + 10 * t + k, 5, 7, dtype=torch.float64)) for k in range(2)]
            step(optimizer, g)
        ends.append(parameters(optimizer))
    for plain, shuffled in zip(*ends, strict=True):
        torch.testing.assert_close(shuffled, permuted(plain), rtol=0, atol=1e-12)


@every_path
@settings(max_examples=25)
@given(lr=st.floats(1e-7, 1.0), fan_in=st.integers(3, 50), seed=SEEDS)
def test_first_step_turns_each_neuron_by_the_angle_of_the_tangent_part(
    path: PathRow, lr: float, fan_in: int, seed: int
) -> None:
    weights = [randn(seed + k, 4, fan_in, dtype=torch.float64) for k in range(2)]
    optimizer = build(weights, path, momentum=0.0)
    if path.tensor_lr:
        optimizer.param_groups[0]["lr"] = torch.tensor(lr, dtype=torch.float64)
    else:
        optimizer.param_groups[0]["lr"] = lr
    before = [p.detach().clone() for p in parameters(optimizer)]
    gradients = [randn(seed + 10 + k, 4, fan_in, dtype=torch.float64) for k in range(2)]
    step(optimizer, gradients)
    for w, g, p in zip(before, gradients, parameters(optimizer), strict=True):
        angles = geometry.turning_angle(w, p, NeuronLayout((4, fan_in))).flatten().tolist()
        for neuron in range(4):
            direction = g[neuron] / g[neuron].norm()
            direction = direction - direction.mean()
            along = float(direction @ w[neuron])
            tangent = float((direction - along * w[neuron]).norm())
            expected = math.atan2(lr * tangent, 1 - lr * along)
            assert angles[neuron] == pytest.approx(expected, rel=1e-6, abs=1e-15)


@every_path
def test_a_zero_gradient_changes_no_bit(path: PathRow) -> None:
    optimizer = build([randn(k, 4, 6) for k in range(2)], path)
    step(optimizer, [randn(5 + k, 4, 6) for k in range(2)])
    before = bits(parameters(optimizer))
    step(optimizer, [torch.zeros(4, 6)] * 2)
    assert bits(parameters(optimizer)) == before
