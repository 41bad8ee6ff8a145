"""Mean, norm, projection, balance and angle over every layout, against plain float64 loops."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nero
from nero import NeuronLayout, geometry
from optimizer_table import TENSORS, TensorRow, names

BALANCEABLE = [row for row in TENSORS if len(row.shape) > 1]


def neuron_values(w: torch.Tensor, row: TensorRow) -> list[list[float]]:
    flat = w.double().flatten().tolist()
    return [[flat[i] for i in entries] for entries in row.neurons]


def as_listed(x: torch.Tensor, row: TensorRow, layout: NeuronLayout) -> list[float]:
    """One number per neuron, in the order of the row's hand-made list."""
    spread = x.expand(layout.split_shape).reshape(-1)
    index = torch.arange(math.prod(row.shape)).view(layout.split_shape).reshape(-1)
    by_entry = dict(zip(index.tolist(), spread.tolist(), strict=True))
    return [by_entry[entries[0]] for entries in row.neurons]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("row", TENSORS, ids=names(TENSORS))
def test_mean_and_norm(row: TensorRow, dtype: torch.dtype) -> None:
    layout = NeuronLayout(row.shape, row.neuron_axes)
    w = torch.randn(row.shape, dtype=torch.float64).to(dtype)
    values = neuron_values(w, row)
    exact = 1e-14 if dtype == torch.float64 else 1e-6
    mean, norm = geometry.neuron_mean(w, layout), geometry.neuron_norm(w, layout)
    assert mean.dtype == norm.dtype == geometry.working_dtype(dtype)
    assert as_listed(mean, row, layout) == pytest.approx(
        [math.fsum(v) / len(v) for v in values], rel=exact, abs=exact
    )
    assert as_listed(norm, row, layout) == pytest.approx(
        [math.sqrt(math.fsum(x * x for x in v)) for v in values], rel=exact
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_norm_covers_the_range_of_the_dtype(scale: float) -> None:
    w = scale * torch.randn(4, 1000)
    norm = geometry.neuron_norm(w, NeuronLayout((4, 1000)))
    expected = w.double().square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(norm.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("shape", "axes"), [((2, 500_000), (0,)), ((500_000, 2), (1,))])
def test_norm_of_a_long_neuron_is_exact_to_float32(
    shape: tuple[int, int], axes: tuple[int, ...]
) -> None:
    w = torch.randn(shape)
    norm = geometry.neuron_norm(w, NeuronLayout(shape, axes)).double()
    expected = torch.linalg.vector_norm(w.double(), dim=1 - axes[0], keepdim=True)
    torch.testing.assert_close(norm, expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("radius", [1.0, 3.0, None])
@pytest.mark.parametrize("row", BALANCEABLE, ids=names(BALANCEABLE))
def test_projection_lands_on_the_nearest_point_of_the_set(
    row: TensorRow, center: bool, radius: float | None
) -> None:
    layout = NeuronLayout(row.shape, row.neuron_axes)
    w = torch.randn(row.shape, dtype=torch.float64) + 0.5
    before = neuron_values(w, row)
    assert geometry.project_(w, layout, center=center, radius=radius) is w
    for old, new in zip(before, neuron_values(w, row), strict=True):
        mean = math.fsum(old) / len(old) if center else 0.0
        norm = math.sqrt(math.fsum((x - mean) ** 2 for x in old))
        factor = 1.0 if radius is None else radius / norm
        assert new == pytest.approx([(x - mean) * factor for x in old], abs=1e-14)


@given(
    neurons=st.integers(1, 5),
    fan_in=st.integers(3, 40),
    offset=st.sampled_from([0.0, 1.0, -1e3]),
    scale=st.sampled_from([1e-18, 1e-3, 1.0, 1e18]),
    seed=st.integers(0, 2**31),
)
def test_projection_is_idempotent(
    neurons: int, fan_in: int, offset: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = scale * (torch.randn(neurons, fan_in, generator=generator) + offset)
    layout = NeuronLayout((neurons, fan_in))
    geometry.project_(w, layout)
    assert geometry.is_balanced(w, layout).all()
    once = w.clone()
    geometry.project_(w, layout)
    torch.testing.assert_close(w, once, rtol=0, atol=3e-7)


UNPROJECTABLE = {
    "zero": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    "minus zero": [-0.0, -0.0, -0.0, -0.0, -0.0, -0.0, -0.0],
    "constant": [0.1] * 7,
    "constant up to rounding": [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1 + 1e-8],
    "nan": [1.0, 2.0, float("nan"), 0.0, 1.0, 5.0, -1.0],
    "infinite": [1.0, 2.0, float("inf"), 0.0, 1.0, 5.0, -1.0],
}


@pytest.mark.parametrize("name", UNPROJECTABLE)
def test_what_cannot_be_projected_keeps_every_bit(name: str) -> None:
    w = torch.tensor([UNPROJECTABLE[name], [1.0, 2.0, 3.0, 5.0, 8.0, 13.0, -21.0]])
    before = w.clone()
    layout = NeuronLayout((2, 7))
    geometry.project_(w, layout)
    assert torch.equal(w[0].view(torch.int32), before[0].view(torch.int32))
    assert geometry.is_balanced(w, layout).flatten().tolist() == [False, True]


def test_each_neuron_may_have_its_own_radius_and_zero_means_free() -> None:
    w = torch.randn(3, 6)
    before = w.clone()
    radius = torch.tensor([[2.0], [0.0], [0.5]])
    layout = NeuronLayout((3, 6))
    geometry.project_(w, layout, radius=radius)
    assert geometry.neuron_norm(w, layout).flatten().tolist() == pytest.approx(
        [2.0, float(before[1].norm()), 0.5], rel=1e-6
    )
    assert torch.equal(w[1], before[1])


def test_projection_of_bfloat16_is_rounded_once() -> None:
    w = torch.randn(4, 9)
    low = w.bfloat16()
    expected = low.float()
    layout = NeuronLayout((4, 9))
    geometry.project_(expected, layout)
    geometry.project_(low, layout)
    assert torch.equal(low, expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "axes"), [((9, 8), (0,)), ((8, 9), (1,)), ((3, 4, 5), (0, 2)), ((1, 9), (0,))]
)
def test_what_is_taken_in_pieces_is_what_is_taken_at_once(
    shape: tuple[int, ...], axes: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    w, layout = torch.randn(shape).to(dtype), NeuronLayout(shape, axes)
    radius = torch.rand(layout.neuron_shape) + 0.5

    def all_of_it() -> list[torch.Tensor]:
        own = geometry.project_(w.clone(), layout, radius=radius)
        unit = geometry.project_(w.clone(), layout)
        return [own, unit, geometry.neuron_norm(w, layout), geometry.neuron_mean(w, layout)]

    expected = all_of_it()
    monkeypatch.setattr(geometry, "PIECE", 16)
    for mine, theirs in zip(all_of_it(), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6 if dtype == torch.float32 else 0, atol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-9, 1e-4, 0.5, 3.0, math.pi - 1e-9, math.pi])
def test_angle_is_exact_for_small_and_large_turns(angle: float) -> None:
    before = torch.tensor([[3.0, 0.0, 0.0]], dtype=torch.float64)
    after = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    turned = geometry.turning_angle(before, after, NeuronLayout((1, 3))).item()
    # The input itself rounds the cosine near pi.
    assert turned == pytest.approx(angle, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("row", BALANCEABLE, ids=names(BALANCEABLE))
def test_angle_is_per_neuron(row: TensorRow) -> None:
    layout = NeuronLayout(row.shape, row.neuron_axes)
    before, after = torch.randn(row.shape), torch.randn(row.shape)
    expected = []
    for a, b in zip(neuron_values(before, row), neuron_values(after, row), strict=True):
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        expected.append(math.acos(dot / math.hypot(*a) / math.hypot(*b)))
    angles = geometry.turning_angle(before, after, layout)
    assert angles.shape == layout.neuron_shape
    assert as_listed(angles, row, layout) == pytest.approx(expected, rel=1e-9)


def test_is_balanced_judges_mean_norm_and_radius() -> None:
    layout = NeuronLayout((3, 4))
    w = torch.randn(3, 4)
    geometry.project_(w, layout, radius=2.0)
    assert geometry.is_balanced(w, layout, radius=2.0).all()
    assert not geometry.is_balanced(w, layout).any()
    assert not geometry.is_balanced(w + 1e-3, layout, radius=2.0).any()
    assert geometry.is_balanced(w + 1e-3, layout, radius=2.0, atol=1e-2).all()


def test_a_layout_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layout is of shape \(3, 4\), the tensor \(4, 3\)"):
        nero.geometry.neuron_mean(torch.zeros(4, 3), NeuronLayout((3, 4)))
