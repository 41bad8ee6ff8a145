"""Properties of a step that hold for any weights and gradients, on every path."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import nero
from nero import NeuronLayout, geometry
from optimizer_table import PATHS, PathRow, names

SEEDS = st.integers(0, 2**31)
every_path = pytest.mark.parametrize("path", PATHS, ids=names(PATHS))


def build(tensors: list[Tensor], path: PathRow, lr: float = 0.01, **options: Any) -> nero.Nero:
    return nero.Nero(
        [torch.nn.Parameter(w) for w in tensors],
        lr=torch.tensor(lr) if path.tensor_lr else lr,
        **{**path.options, **options},
    )


def parameters(optimizer: nero.Nero) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer: nero.Nero, gradients: list[Tensor]) -> None:
    for p, g in zip(parameters(optimizer), gradients, strict=True):
        p.grad = g
    optimizer.step()


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def bits(x: Tensor) -> Tensor:
    sizes = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.detach().clone().view(sizes[x.element_size()])


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
        for t in range(20)
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
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lr_zero_changes_no_bit(path: PathRow, dtype: torch.dtype, momentum: float) -> None:
    weights = [randn(k, 4, 6).to(dtype) for k in range(3)] + [randn(9, 6).to(dtype)] * 2
    weights[2][1] = -0.0
    optimizer = build([w.clone() for w in weights], path, 0.0, momentum=momentum)
    before = [bits(p) for p in parameters(optimizer)]
    for t in range(3):
        step(optimizer, [randn(20 * t + k, *w.shape).to(dtype) for k, w in enumerate(weights)])
    for old, p in zip(before, parameters(optimizer), strict=True):
        assert torch.equal(old, bits(p))
    assert (optimizer.state[parameters(optimizer)[0]]["rms"] > 0).all()  # it did see the gradients


@every_path
def test_a_zero_gradient_changes_no_bit(path: PathRow) -> None:
    optimizer = build([randn(k, 4, 6) for k in range(2)], path)
    step(optimizer, [randn(5 + k, 4, 6) for k in range(2)])
    before = [bits(p) for p in parameters(optimizer)]
    step(optimizer, [torch.zeros(4, 6)] * 2)
    for old, p in zip(before, parameters(optimizer), strict=True):
        assert torch.equal(old, bits(p))


@every_path
@pytest.mark.parametrize("steps", [0, 3])
def test_reading_copying_and_loading_state_changes_no_bit(path: PathRow, steps: int) -> None:
    shapes = [(4, 6), (4, 6), (3,), ()]
    optimizer = build([randn(k, *s) for k, s in enumerate(shapes)], path, momentum=0.9)
    for t in range(steps):
        step(optimizer, [randn(10 * t + k, *s) for k, s in enumerate(shapes)])
    before = [bits(p) for p in parameters(optimizer)]
    saved = optimizer.state_dict()
    copies = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    repr(optimizer)
    optimizer.load_state_dict(copy.deepcopy(saved))
    for one in (optimizer, *copies):
        for old, p in zip(before, parameters(one), strict=True):
            assert torch.equal(old, bits(p))
        for key, state in one.state_dict()["state"].items():
            for name, value in state.items():
                assert torch.equal(value, saved["state"][key][name])


@every_path
def test_finetune_construction_changes_no_bit_and_keeps_each_norm(path: PathRow) -> None:
    weights = [3 * randn(k, 8, 20) for k in range(2)]
    optimizer = build([w.clone() for w in weights], path, center=False, radius="initial")
    norms = [w.norm(dim=1) for w in weights]
    for w, p in zip(weights, parameters(optimizer), strict=True):
        assert torch.equal(bits(w), bits(p))
    for t in range(100):
        step(optimizer, [randn(10 * t + k, 8, 20) for k in range(2)])
    for w, norm, p in zip(weights, norms, parameters(optimizer), strict=True):
        assert not torch.allclose(w, p)
        torch.testing.assert_close(p.norm(dim=1), norm, rtol=1e-6, atol=0)
