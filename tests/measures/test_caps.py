"""Caps against high-precision arithmetic, closed forms and Monte Carlo in low dimension."""

import math

import mpmath
import pytest
import torch

import nero
from nero import NeuronLayout
from nero.measures import cap_kl, log_cap_fraction, sample_caps


def log_fraction_mp(fan_in: int, angle: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        a, x = mpmath.mpf(fan_in - 2) / 2, mpmath.sin(mpmath.mpf(angle)) ** 2
        return mpmath.log(mpmath.betainc(a, 0.5, 0, x, regularized=True) / 2)


@pytest.mark.parametrize("angle", [1e-3, 0.01, 0.1, 0.5, 1.0, 1.5, 1.5707, math.pi / 2])
@pytest.mark.parametrize("fan_in", [3, 4, 5, 10, 61, 62, 784, 4608, 100_000])
def test_cap_fraction_agrees_with_mpmath(fan_in: int, angle: float) -> None:
    exact = log_fraction_mp(fan_in, angle)
    assert abs(log_cap_fraction(fan_in, angle) / exact - 1) < 1e-11


@pytest.mark.parametrize("angle", [1e-3, 0.3, 1.0, math.pi / 2, 2.5, math.pi - 1e-3, math.pi])
def test_cap_fraction_in_closed_form(angle: float) -> None:
    """On the circle an arc, on the ordinary sphere a zone."""
    assert log_cap_fraction(3, angle) == pytest.approx(math.log(angle / math.pi), rel=1e-12)
    zone = math.log(math.sin(angle / 2) ** 2)
    assert log_cap_fraction(4, angle) == pytest.approx(zone, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("fan_in", [3, 4, 7, 10])
@pytest.mark.parametrize("angle", [0.7, 1.3, 2.0])
def test_cap_fraction_agrees_with_monte_carlo(fan_in: int, angle: float) -> None:
    """Balanced vectors by projection of normal ones, and how many lie near one of them."""
    points, layout = torch.randn(200_000, fan_in, dtype=torch.float64), NeuronLayout((1, fan_in))
    nero.geometry.project_(points, NeuronLayout((200_000, fan_in)))
    centre = torch.randn(1, fan_in, dtype=torch.float64)
    nero.geometry.project_(centre, layout)
    inside = (points @ centre[0] >= math.cos(angle)).double().mean().item()
    fraction = math.exp(log_cap_fraction(fan_in, angle))
    deviation = math.sqrt(fraction * (1 - fraction) / 200_000)
    assert inside == pytest.approx(fraction, abs=4 * deviation)


@pytest.mark.parametrize(
    ("fan_in", "angle", "message"),
    [(2, 1.0, "fan_in must be at least 3"), (5, 0.0, "angle must be"), (5, 3.2, "angle must be")],
)
def test_cap_fraction_refuses(fan_in: int, angle: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log_cap_fraction(fan_in, angle)


def test_divergence_is_a_sum_over_neurons_of_each_fan_in() -> None:
    layouts = {
        "conv": NeuronLayout((6, 3, 2, 2)),
        "transposed": NeuronLayout((8, 3, 5, 5), neuron_axes=((0, 2), 1)),
    }
    expected = -6 * log_cap_fraction(12, 0.4) - 6 * log_cap_fraction(100, 1.2)
    assert cap_kl(layouts, {"conv": 0.4, "transposed": 1.2}) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no entry for 'transposed'"):
        cap_kl(layouts, {"conv": 0.4})


def cdf_distance(samples: torch.Tensor, cdf: list[float]) -> float:
    """Kolmogorov's distance of sorted samples from the values of a distribution function there."""
    ranks = torch.arange(1, len(samples) + 1, dtype=torch.float64) / len(samples)
    return (torch.tensor(cdf, dtype=torch.float64) - ranks).abs().max().item()


@pytest.mark.parametrize(
    ("fan_in", "angle"),
    [(3, 0.4), (4, 0.2), (4, math.pi / 2), (10, 1.5), (784, 0.01), (784, 1.4), (784, math.pi / 2)],
)
def test_draws_are_uniform_on_the_cap(fan_in: int, angle: float) -> None:
    """The angle from the centre has the distribution that the caps' areas say."""
    count = 4000
    layout = NeuronLayout((count, fan_in))
    w = nero.geometry.project_(
        torch.randn(1, fan_in, dtype=torch.float64), NeuronLayout((1, fan_in))
    )
    drawn = sample_caps({"w": w.expand(count, -1).clone()}, {"w": layout}, angle)["w"]
    assert nero.geometry.is_balanced(drawn, layout, atol=1e-12).all()
    angles = nero.geometry.turning_angle(w.expand(count, -1), drawn, layout).flatten().sort()[0]
    assert angles.max() <= angle * (1 + 1e-9)
    whole = log_cap_fraction(fan_in, angle)
    cdf = [math.exp(log_cap_fraction(fan_in, theta) - whole) for theta in angles.tolist()]
    assert cdf_distance(angles, cdf) < 1.95 / math.sqrt(count)  # exceeded once in a thousand


def test_draws_have_no_direction_of_their_own() -> None:
    """The mean of many draws is along the centre, by the mean cosine of the cap."""
    count, angle = 40_000, 1.0
    layout = NeuronLayout((count, 4))
    w = torch.tensor([[0.5, 0.5, -0.5, -0.5]], dtype=torch.float64)
    drawn = sample_caps({"w": w.expand(count, -1).clone()}, {"w": layout}, angle)["w"]
    expected = w[0] * (1 + math.cos(angle)) / 2  # on the ordinary sphere
    torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=4 / math.sqrt(count))


def test_draws_follow_the_generator_and_refuse_wide_caps() -> None:
    layout = NeuronLayout((3, 5))
    w = {"w": nero.geometry.project_(torch.randn(3, 5), layout)}
    first, second = (
        sample_caps(w, {"w": layout}, 0.3, torch.Generator().manual_seed(1))["w"] for _ in "ab"
    )
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="to draw from a cap"):
        sample_caps(w, {"w": layout}, 2.0)
