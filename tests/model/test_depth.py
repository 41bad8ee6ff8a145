"""Rows of layers, and the rates that follow from them."""

import pytest
import torch
from torch import nn

from nero.model.depth import C, layers_by_parameter, rate_factor
from nero.model.trace import trace


def mlp(depth: int, width: int = 8) -> nn.Sequential:
    layers = [part for _ in range(depth - 1) for part in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, width))


def rows_of(model: nn.Module) -> dict[int, int]:
    layers = layers_by_parameter(model, trace(model, torch.randn(2, 8)))
    return {p: layer.row for p, layer in layers.items()}


@pytest.mark.parametrize("row", [1, 2, 4, 5, 100])
def test_a_row_of_any_length_changes_by_the_same_at_most(row: int) -> None:
    eta = 1e-3 * rate_factor(row)
    assert (1 + eta) ** row - 1 <= 1.01 * C * 1e-3
    assert 0 < eta <= 1e-3


def test_the_row_of_a_plain_network_changes_no_more_than_the_bound_says() -> None:
    """Orthogonal weights, each turned by eta in an orthogonal direction: the worst case."""
    torch.manual_seed(0)
    for depth in (8, 64):
        eta = 0.01 * rate_factor(depth)
        whole, changed = torch.eye(16).double(), torch.eye(16).double()
        for _ in range(depth):
            w = torch.linalg.qr(torch.randn(16, 16).double())[0]
            whole, changed = w @ whole, (w + eta * w) @ changed
        relative = torch.linalg.matrix_norm(changed - whole, 2)
        assert 0.9 * C * 0.01 < relative < 1.1 * C * 0.01


def test_every_parameter_of_a_plain_network_stands_in_its_row() -> None:
    model = mlp(7)
    rows = rows_of(model)
    assert {rows[id(p)] for p in model.parameters()} == {7}


def test_normalisations_end_a_row_and_have_none() -> None:
    model = nn.Sequential(mlp(3), nn.LayerNorm(8), mlp(2))
    rows = rows_of(model)
    assert [rows.get(id(p)) for p in model.parameters()] == [3] * 6 + [None] * 2 + [2] * 4


def test_wrappers_and_parametrisations_are_looked_through() -> None:
    model = mlp(5)
    nn.utils.parametrizations.weight_norm(model[2])
    compiled = torch.compile(model)
    rows = rows_of(compiled)
    assert rows[id(model.get_parameter("2.bias"))] == 5
    assert rows[id(model.get_parameter("0.weight"))] == 5
