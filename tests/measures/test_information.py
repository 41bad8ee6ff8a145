"""The kernel against random networks, the orthant's probability against closed forms."""

import itertools
import math

import pytest
import torch

import nero
from measures.networks import ReluChain
from nero.measures import arccosine_kernel, information_bound, information_estimate

SIGNS = torch.tensor([1.0, -1.0, 1.0])


def correlated(*off: float) -> torch.Tensor:
    """A correlation matrix of three with these entries above its diagonal."""
    a, b, c = off
    return torch.tensor([[1, a, b], [a, 1, c], [b, c, 1]], dtype=torch.float64)


@pytest.mark.parametrize("center", [False, True])
def test_the_kernel_is_that_of_wide_random_networks(center: bool) -> None:
    inputs = torch.randn(4, 30, dtype=torch.float64) + 0.5
    products = torch.zeros(4, 4, dtype=torch.float64)
    for _ in range(400):
        model = ReluChain(30, 100, 100, 1).double()
        for p in model.parameters():
            torch.nn.init.normal_(p)
        if center:
            nero.balance_(model)
        with torch.no_grad():
            outputs = model(inputs / inputs.norm(dim=1, keepdim=True))
        products += outputs @ outputs.T
    scale = products.diagonal().sqrt()
    found = products / scale[:, None] / scale
    expected = arccosine_kernel(inputs, depth=3, center=center)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.15)


def test_centring_makes_inputs_part_faster() -> None:
    """From the derivative of the kernel at 1: pi / (pi - 1) a layer, where it was 1."""
    inputs = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-3, 0.0]], dtype=torch.float64)
    start = 1 - arccosine_kernel(inputs, depth=1)[0, 1]
    for center, factor in ((False, 1.0), (True, math.pi / (math.pi - 1))):
        first = 1 - arccosine_kernel(inputs, depth=1, center=center)[0, 1]
        parted = 1 - arccosine_kernel(inputs, depth=2, center=center)[0, 1]
        assert (parted / first).item() == pytest.approx(factor, rel=2e-3)
    assert start > 0


@pytest.mark.parametrize("off", [(0.0, 0.0, 0.0), (0.5, 0.2, -0.3), (0.9, 0.8, 0.9)])
def test_estimate_and_bound_against_the_orthant_in_three_dimensions(
    off: tuple[float, float, float],
) -> None:
    """P = 1/8 + (arcsin r12 + arcsin r13 + arcsin r23) / (4 pi), the signs in the correlations."""
    kernel = correlated(*off)
    for signs in itertools.product((1.0, -1.0), repeat=3):
        y = torch.tensor(signs)
        turned = y[:, None] * kernel * y
        arcs = turned[[0, 0, 1], [1, 2, 2]].arcsin().sum().item()
        exact = -math.log(1 / 8 + arcs / (4 * math.pi))
        assert information_estimate(kernel, y, draws=20_000) == pytest.approx(exact, abs=0.05)
        bound = information_bound(kernel, y)
        assert exact - 1e-12 <= bound <= information_bound(kernel, y, closed_form=True)


def test_the_bound_is_jensens_at_the_best_scale() -> None:
    """Against Monte Carlo of the log ratio of densities, and a search over the scale."""
    kernel, y = correlated(0.5, 0.2, -0.3), SIGNS
    z = y * torch.randn(100_000, 3, dtype=torch.float64).abs()
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=torch.float64), kernel)

    def jensen(scale: float) -> float:
        log_q = torch.distributions.HalfNormal(scale).log_prob(scale * z.abs()).sum(1)
        return (log_q - normal.log_prob(scale * z)).mean().item()

    best = min(jensen(0.6 + 0.02 * i) for i in range(30))
    assert information_bound(kernel, y) == pytest.approx(best, abs=0.01)
    scale = torch.linalg.det(kernel).item() ** (1 / 6)
    closed = information_bound(kernel, y, closed_form=True)
    assert closed == pytest.approx(jensen(scale) + 3 * (0.2 - math.log(2) + 0.5), abs=0.01)


def test_the_order_of_examples_does_not_matter() -> None:
    kernel, y, order = correlated(0.5, 0.2, -0.3), SIGNS, torch.tensor([2, 0, 1])
    found = information_bound(kernel[order][:, order], y[order])
    assert found == pytest.approx(information_bound(kernel, y), rel=1e-12)


def test_many_random_labels_hold_a_bit_each() -> None:
    kernel = arccosine_kernel(torch.randn(60, 500), depth=2)
    y = torch.randn(60).sign()
    estimate = information_estimate(kernel, y, draws=2000)
    assert estimate <= information_bound(kernel, y) + 0.5
    assert estimate == pytest.approx(60 * math.log(2), rel=0.15)


def test_what_cannot_be_is_refused() -> None:
    twice = torch.ones(2, 2)
    for function in (information_bound, information_estimate):
        with pytest.raises(ValueError, match="do two inputs coincide"):
            function(twice, torch.ones(2))
        with pytest.raises(ValueError, match=r"labels must be \+1 and -1"):
            function(torch.eye(2), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        arccosine_kernel(torch.eye(2), depth=0)
