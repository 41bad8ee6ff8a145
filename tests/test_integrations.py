"""What nero.integrations does with torch alone; tests/integrations has the libraries."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nero
from nero.integrations import clip_grad_norm_, unwrap


class Wrapper(torch.optim.Optimizer):
    """As accelerate's and others: it keeps the optimiser and shows its groups."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer


def two_layers(dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nero.Nero]:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 5)).to(dtype)
    return model, nero.Nero(nero.param_groups(model), lr=0.01)


def with_gradients(model: nn.Module, scale: float = 1.0) -> list[Tensor]:
    for p in model.parameters():
        p.grad = scale * torch.randn_like(p)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_unwrap_goes_through_wrappers_of_any_depth() -> None:
    _, optimizer = two_layers()
    assert unwrap(Wrapper(Wrapper(optimizer))) is optimizer


@pytest.mark.parametrize(
    "other", [None, Wrapper(torch.optim.SGD([torch.zeros(2, requires_grad=True)]))]
)
def test_unwrap_names_what_it_found(other: Any) -> None:
    with pytest.raises(TypeError, match=r"optimizer must be a nero\.Nero or wrap one, got "):
        unwrap(other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_norm", [0.0, 0.7, 1e3, float("inf")])
def test_finite_gradients_are_clipped_as_torch_does(max_norm: float, dtype: torch.dtype) -> None:
    model, optimizer = two_layers(dtype)
    given = with_gradients(model)
    norm = clip_grad_norm_(Wrapper(optimizer), max_norm)
    found = [p.grad for p in model.parameters()]
    for p, gradient in zip(model.parameters(), given, strict=True):
        p.grad = gradient
    expected = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(found, [p.grad for p in model.parameters()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_neuron_that_is_not_finite_counts_for_nothing(value: float) -> None:
    model, optimizer = two_layers()
    weight = next(model.parameters())  # (in, out, height, width): neuron 2 is weight[:, 2]
    with_gradients(model)
    assert weight.grad is not None
    weight.grad[:, 2] = 0
    expected = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    weight.grad[1, 2, 0, 0] = value
    assert clip_grad_norm_(optimizer, 0.5) == pytest.approx(expected.item(), rel=1e-12)
    others = [0, 1, 3]
    assert weight.grad[:, others].isfinite().all()
    optimizer.step()
    assert optimizer.skipped_neurons() == 1


def test_without_gradients_the_norm_is_zero() -> None:
    _, optimizer = two_layers()
    assert clip_grad_norm_(optimizer, 1.0) == 0


@pytest.mark.parametrize("max_norm", [-1.0, float("nan")])
def test_a_negative_limit_is_refused(max_norm: float) -> None:
    _, optimizer = two_layers()
    with pytest.raises(ValueError, match="max_norm must not be negative"):
        clip_grad_norm_(optimizer, max_norm)
