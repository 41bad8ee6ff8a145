"""Rows of layers: what stands between a model's weights, by one batch."""

import math

import pytest
import torch
from torch import Tensor, nn

from helpers import bits
from nero.model.trace import trace


class Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class RMSNorm(nn.Module):
    """A normalisation of one's own, of plain operators."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class TanhGELU(nn.Module):
    """GELU by hand: a product and a sum of functions of one signal."""

    def forward(self, x: Tensor) -> Tensor:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 7)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return self.head(x)


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


ROWS = {
    "plain": (nn.Sequential(linear(), nn.ReLU(), linear(), nn.Tanh(), linear()), [3, 3, 3]),
    "normalised": (
        nn.Sequential(linear(), nn.LayerNorm(4), linear(), RMSNorm(), linear(), linear()),
        [1, 1, 2, 2],
    ),
    "batch norm": (nn.Sequential(linear(), nn.BatchNorm1d(4), nn.ReLU(), linear()), [1, 1]),
    "residual": (
        nn.Sequential(linear(), Residual(linear(), nn.ReLU(), linear()), linear()),
        [3, 3, 3, 1],
    ),
    "pre-norm residual": (
        nn.Sequential(linear(), Residual(nn.LayerNorm(4), linear(), nn.ReLU(), linear()), linear()),
        [1, 2, 2, 1],
    ),
    "gated": (nn.Sequential(linear(), Gated()), [3, 3, 3, 3]),
    "recurrent": (nn.Sequential(linear(), nn.LSTM(4, 4)), [2, 2]),
}


@pytest.mark.parametrize(("model", "rows"), ROWS.values(), ids=ROWS)
def test_rows(model: nn.Module, rows: list[int]) -> None:
    assert [layer.row for layer in trace(model, torch.randn(3, 4)).values()] == rows


def test_attention_stands_between_its_weights() -> None:
    model, mask = Attention(), nn.Transformer.generate_square_subsequent_mask(5)
    layers = trace(model, (torch.randint(7, (2, 5)), mask))
    assert list(layers) == [
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "head.weight",
    ]
    assert [layer.row for layer in layers.values()] == [2, 2, 1]
    assert layers["attention.out_proj.weight"].before == ("attention.in_proj_weight",)
    assert layers["attention.out_proj.weight"].ends == {"skip"}
    assert layers["head.weight"].ends == {"output"}


@pytest.mark.parametrize(
    "activation", [nn.ReLU(inplace=True), nn.GELU(), nn.Tanh(), nn.Hardswish(), TanhGELU()]
)
def test_activations_are_found_as_functions(activation: nn.Module) -> None:
    layers = trace(nn.Sequential(linear(), activation, linear()), torch.randn(3, 4))
    function = layers["2.weight"].function
    assert function is not None
    x = torch.linspace(-3, 3, 50, dtype=torch.float64)
    torch.testing.assert_close(function(x), activation(x.clone()))


def test_a_product_of_two_layers_is_no_function() -> None:
    layers = trace(Gated(), torch.randn(3, 4))
    assert layers["down.weight"].before == ("gate.weight", "up.weight")
    assert layers["down.weight"].function is None


def test_operators_between_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), linear())
    layers = trace(model, torch.randn(2, 1, 4, 4))
    assert layers["4.weight"].between == ("max_pool2d_with_indices", "view")


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.spectral_norm])
def test_a_weight_that_is_computed_is_found(wrap: object) -> None:
    model = nn.Sequential(wrap(linear()), nn.ReLU(), linear())  # type: ignore[operator]
    layers = trace(model, torch.randn(3, 4))
    assert [layer.row for layer in layers.values()] == [2, 2]


def test_a_layer_that_returns_counts_once() -> None:
    shared = linear()
    layers = trace(nn.Sequential(shared, nn.ReLU(), shared, linear()), torch.randn(3, 4))
    assert [(layer.uses, layer.row) for layer in layers.values()] == [(2, 2), (1, 2)]


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(linear(), nn.Dropout(), nn.BatchNorm1d(4), linear()).train()
    model[1].eval()
    x = torch.randn(3, 4)
    before, random = bits(model.state_dict()), torch.get_rng_state()
    trace(model, x)
    assert bits(model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(p.grad is None for p in model.parameters())


def test_models_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(linear(), nn.ReLU(), linear())
        assert [layer.row for layer in trace(model, torch.randn(3, 4)).values()] == [2, 2]
