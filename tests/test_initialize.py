"""Initial weights: exact balance, and signals and gradients that keep their size at depth 100."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import nero
from helpers import bits
from nero.initialize import first_layer, gain_of, hidden_layer, last_layer

DEPTH = 100


class Scaled(nn.Module):
    """The paper's activation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) * math.sqrt(2)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.sigmoid(self.gate(x)) * self.up(x))


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


# Activation, norm of its hidden neurons, how far rms and gradient norms may go from layer to layer
# 1 to 99. The first two are exact; SiLU and GELU but for the even part of their slope; tanh
# takes the signal from the inputs' size to where it is nearly linear.
ACTIVATIONS = [
    pytest.param(Scaled, 1.0, 1 + 1e-4, id="relu x sqrt 2"),
    pytest.param(nn.ReLU, math.sqrt(2), 1 + 1e-4, id="relu"),
    pytest.param(nn.GELU, math.sqrt(2), 1.1, id="gelu"),
    pytest.param(nn.SiLU, math.sqrt(2), 1.1, id="silu"),
    pytest.param(nn.Hardswish, math.sqrt(2), 1.1, id="hardswish"),
    pytest.param(nn.Tanh, 1.0, 5.0, id="tanh"),
]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def mlp(activation: Callable[[], nn.Module], depth: int = DEPTH, width: int = 32) -> nn.Sequential:
    hidden = [m for _ in range(depth - 2) for m in (activation(), nn.Linear(width, width))]
    return nn.Sequential(nn.Linear(20, width), *hidden, activation(), nn.Linear(width, 5)).double()


def cnn(activation: Callable[[], nn.Module], depth: int = DEPTH, width: int = 8) -> nn.Sequential:
    conv = lambda channels: nn.Conv2d(channels, width, 3, padding=1)  # noqa: E731
    hidden = [m for _ in range(depth - 2) for m in (activation(), conv(width))]
    end = [activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5)]
    return nn.Sequential(conv(3), *hidden, *end).double()


def sizes(model: nn.Sequential, x: Tensor) -> tuple[Tensor, Tensor]:
    """The rms of what each hidden layer puts out, and the norm of the loss's gradient there."""
    outputs = []
    for module in model:
        x = module(x)
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            x.retain_grad()
            outputs.append(x)
    x.sum().backward()
    found = [(h.detach().square().mean().sqrt(), h.grad.norm()) for h in outputs[:-1]]
    rms, gradients = zip(*found, strict=True)
    return torch.stack(rms), torch.stack(gradients)


def neurons(model: nn.Module) -> list[Tensor]:
    return [p.detach().flatten(1) for p in model.parameters() if p.ndim > 1]


@pytest.mark.parametrize(("activation", "norm", "drift"), ACTIVATIONS)
@pytest.mark.parametrize("build", [mlp, cnn])
def test_a_hundred_layers_keep_the_size_of_signals_and_gradients(
    build: Callable[..., nn.Sequential],
    activation: Callable[[], nn.Module],
    norm: float,
    drift: float,
) -> None:
    model = build(activation)
    x = torch.randn(64, 20, dtype=torch.float64, generator=seeded())
    if build is cnn:
        x = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=seeded())
    done = nero.initialize_(model, x, generator=seeded())
    assert [each.place for each in done] == ["first", *["hidden"] * (DEPTH - 2), "last"]
    assert done[1].norm == pytest.approx(norm, abs=1e-3)
    assert ('radius="initial"' in done[1].why) == (norm > 1)
    for each, w in zip(done, neurons(model), strict=True):
        # Rounding, which depends on the processor: one row had 1.03e-14 on an Intel Xeon.
        assert w.mean(1).abs().max() < 1e-13
        torch.testing.assert_close(w.norm(dim=1), torch.full_like(w[:, 0], each.norm or 0))
    rms, gradients = sizes(model, x)
    assert 0.7 < rms[0] < 1.2
    assert rms.max() / rms.min() < drift
    assert gradients.max() / gradients.min() < drift


def test_two_inputs_keep_their_distance() -> None:
    """What sees no mean sees inputs part all the same: a chain of random weights mixes them."""
    model = mlp(Scaled, width=64)
    x = torch.randn(2, 20, dtype=torch.float64, generator=seeded())
    nero.initialize_(model, x)
    with torch.no_grad():
        shallow, deep = model[0](x), model[:-2](x)
    distance = (shallow[0] - shallow[1]).norm()
    torch.testing.assert_close((deep[0] - deep[1]).norm(), distance)


@pytest.mark.parametrize("activation", [Scaled, nn.Tanh])
def test_the_optimiser_leaves_unit_weights_as_they_are(activation: Callable[[], nn.Module]) -> None:
    model = mlp(activation, depth=6).float()
    nero.initialize_(model, torch.randn(3, 20))
    before = bits(model.state_dict())
    nero.Nero(model.parameters())
    assert bits(model.state_dict()) == before


@pytest.mark.parametrize("width", [2, 3, 7, 8])
@pytest.mark.parametrize("inputs", [1, 2, 3, 20])
def test_any_width(width: int, inputs: int) -> None:
    model = nn.Sequential(
        *(nn.Linear(inputs, width), Scaled(), nn.Linear(width, width + 5), nn.Tanh()),
        *(nn.Linear(width + 5, width), Scaled(), nn.Linear(width, 1)),
    )
    nero.initialize_(model, torch.randn(3, inputs))
    for w in neurons(model):
        assert torch.allclose(w.norm(dim=1), torch.ones(len(w)), atol=1e-6)
        if w.shape[1] > 2:
            assert w.mean(1).abs().max() < 1e-6
    assert all(not p.any() for p in model.parameters() if p.ndim == 1)


def test_wide_layers_are_isometries() -> None:
    gain = gain_of(lambda x: torch.relu(x) * math.sqrt(2))
    w = hidden_layer(16, 4, 8, gain, generator=seeded())
    a = torch.randn(4, dtype=torch.float64, generator=seeded())
    h = torch.cat([a.relu(), (-a).relu()]) * math.sqrt(2)
    out = w @ h
    torch.testing.assert_close(out.square().mean(), a.square().mean())
    torch.testing.assert_close(out[:8], -out[8:])


def test_rows_are_orthogonal() -> None:
    w = first_layer(12, 20, generator=seeded())
    torch.testing.assert_close(w[:6] @ w[:6].T, torch.eye(6, dtype=torch.float64))
    v = last_layer(3, 6, 13, generator=seeded())
    torch.testing.assert_close(v @ v.T, torch.eye(3, dtype=torch.float64))
    assert not v[:, 12].any()


@pytest.mark.parametrize("activation", [torch.abs, torch.zeros_like, lambda x: x / 0])
def test_activations_without_an_odd_part_are_refused(
    activation: Callable[[Tensor], Tensor],
) -> None:
    with pytest.raises(ValueError, match="even or not finite"):
        gain_of(activation)


LEFT = {
    "a residual branch": (
        lambda: nn.Sequential(Residual(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))),
        "in a residual branch",
    ),
    "between normalisations": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)),
        "alone between normalisations",
    ),
    "gated units": (Gated, "takes what several layers made: gate.weight, up.weight"),
    "an even activation": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1), nn.Linear(8, 8)),
        "after _softmax, which may mix",
    ),
    "groups": (
        lambda: nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 8, 1, groups=2)),
        "a convolution of 2 groups",
    ),
    "transposed": (
        lambda: nn.Sequential(nn.Unflatten(1, (8, 1)), nn.ConvTranspose1d(8, 8, 1)),
        "a transposed convolution",
    ),
    "frozen": (lambda: nn.Linear(8, 8).requires_grad_(False), "frozen"),
    "parametrised": (
        lambda: nn.utils.spectral_norm(nn.Linear(8, 8)),
        "not the weight of a linear layer",
    ),
    "shared": (lambda: nn.Sequential(*[nn.Linear(8, 8)] * 2), "used 2 times"),
    "meta": (lambda: nn.Linear(8, 8, device="meta"), "on the meta device"),
}


@pytest.mark.parametrize(("build", "why"), LEFT.values(), ids=LEFT)
def test_what_is_not_understood_is_left_with_a_reason(
    build: Callable[[], nn.Module], why: str
) -> None:
    model = build()
    meta = any(p.is_meta for p in model.parameters())
    before = None if meta else bits(model.state_dict())
    done = nero.initialize_(model, torch.randn(3, 8, device="meta" if meta else "cpu"))
    assert all(each.place == "left" and each.norm is None for each in done)
    assert why in done[-1].why
    assert why in repr(done)
    if before:
        assert bits(model.state_dict()) == before


def test_a_chain_behind_something_else_is_initialized() -> None:
    trunk = Residual(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model = nn.Sequential(trunk, nn.LayerNorm(8), nn.Linear(8, 6), Scaled(), nn.Linear(6, 2))
    done = nero.initialize_(model, torch.randn(3, 8))
    assert [each.place for each in done] == ["left", "left", "first", "last"]


def test_a_generator_gives_the_same_weights() -> None:
    models = [mlp(Scaled, depth=4) for _ in range(2)]
    state = torch.get_rng_state()
    for model in models:
        nero.initialize_(model, torch.zeros(1, 20).double(), generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert bits(models[0].state_dict()) == bits(models[1].state_dict())
