"""Von Mises-Fisher distributions against mpmath, closed forms and numerical integrals."""

import math

import mpmath
import pytest
import torch

import nero
from nero import NeuronLayout
from nero.measures import fisher_kl, mean_cosine, sample_fisher


@pytest.mark.parametrize("concentration", [1e-3, 1.0, 30.0, 1e3, 1e5, 1e7])
@pytest.mark.parametrize("fan_in", [3, 4, 10, 784])
def test_mean_cosine_agrees_with_mpmath(fan_in: int, concentration: float) -> None:
    with mpmath.workdps(40):
        order = mpmath.mpf(fan_in - 1) / 2
        exact = mpmath.besseli(order, concentration) / mpmath.besseli(order - 1, concentration)
        assert abs(mean_cosine(fan_in, concentration) / exact - 1) < 1e-12


def test_mean_cosine_at_its_ends() -> None:
    assert mean_cosine(10, 0.0) == 0.0
    with pytest.raises(ValueError, match="fan_in must be at least 3"):
        mean_cosine(2, 1.0)
    with pytest.raises(ValueError, match="concentration must be at least 0"):
        mean_cosine(4, -1.0)


def test_divergence_agrees_with_the_integral_on_the_circle() -> None:
    """Fan-in 3: the integral over the circle of p ln(p / q)."""
    kappa, turn = 3.0, 0.8
    p0 = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2)
    p1 = torch.tensor([1.0, 1.0, -2.0], dtype=torch.float64) / math.sqrt(6)
    w0, w = p0[None], (math.cos(turn) * p0 + math.sin(turn) * p1)[None]
    theta = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)[:-1]
    p, q = torch.exp(kappa * torch.cos(theta - turn)), torch.exp(kappa * torch.cos(theta))
    integral = (p * (p / q).log()).sum() / p.sum()
    kl = fisher_kl({"w": w}, {"w": w0}, {"w": NeuronLayout((1, 3))}, kappa)
    assert kl == pytest.approx(integral.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("fan_in", "concentration"), [(3, 2.0), (4, 0.5), (10, 1e4), (784, 30.0), (784, 1e6)]
)
def test_draws_have_the_mean_and_spread(fan_in: int, concentration: float) -> None:
    """`E cos = A` and `E cos^2 = 1 - (d - 1) A / kappa`, exact for these distributions."""
    count = 4000
    layout = NeuronLayout((count, fan_in))
    w = torch.randn(1, fan_in, dtype=torch.float64)
    w = nero.geometry.project_(w, NeuronLayout((1, fan_in))).expand(count, -1).clone()
    drawn = sample_fisher({"w": w}, {"w": layout}, concentration)["w"]
    assert nero.geometry.is_balanced(drawn, layout, atol=1e-12).all()
    theta = nero.geometry.turning_angle(w, drawn, layout).flatten()
    mean = mean_cosine(fan_in, concentration)
    variance = 1 - (fan_in - 2) * mean / concentration - mean**2
    assert theta.cos().mean().item() == pytest.approx(
        mean, abs=4 * math.sqrt(max(variance, 0) / count) + 1e-9
    )
    assert theta.sin().square().mean().item() == pytest.approx(
        (fan_in - 2) * mean / concentration, rel=0.1
    )


def test_draws_refuse_a_concentration_of_zero() -> None:
    with pytest.raises(ValueError, match="concentration must be above 0"):
        sample_fisher({}, {}, 0.0)
