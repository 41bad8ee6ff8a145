"""Caps on the sphere of a balanced neuron: their measure, and uniform draws from them.

A balanced neuron of fan-in n is a point of the unit sphere of R^d, d = n - 1: the hyperplane
orthogonal to the all-ones vector. The cap of half-angle phi is all that lies within phi of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nero.measures.sphere import Layouts, angles_by_name, turn
from nero.neurons import NeuronLayout

# The continued fraction needs about the root of the fan-in: a few hundred terms at 1e5.
_MAX_TERMS = 100_000


def log_cap_fraction(fan_in: int, angle: float) -> float:
    """The logarithm of the fraction of a balanced neuron's sphere that a cap covers.

    With `a = (n - 2) / 2` the fraction is `I_x(a, 1/2) / 2`, `x = sin^2 angle`, up to a right
    angle, and one minus that of the cap opposite beyond it. The regularised incomplete beta
    function I is computed in logarithms by its continued fraction, from whichever end converges:
    a cap of 1e-3 at fan-in 1e5 covers exp(-3e5) of its sphere. The relative error is below 1e-9.

    Args:
        fan_in: number of weights of the neuron, n; at least 3.
        angle: half-angle of the cap in radians, above 0 and up to pi.

    Returns:
        The logarithm, 0 or below.

    Raises:
        ValueError: the fan-in is below 3 or the angle outside of (0, pi].

    Source:
        S. Li, "Concise formulas for the area and volume of a hyperspherical cap", 2011. The
        continued fraction: NIST Digital Library of Mathematical Functions, 8.17.22.

    Examples:
        At fan-in 4 the sphere is the ordinary one, where a cap has the area 2 pi (1 - cos angle).

        >>> import math
        >>> from nero.measures import log_cap_fraction
        >>> round(math.exp(log_cap_fraction(4, math.pi / 3)), 12)
        0.25
    """
    if fan_in < 3:
        raise ValueError(f"fan_in must be at least 3, got {fan_in}: smaller neurons cannot turn")
    if not 0 < angle <= math.pi:
        raise ValueError(f"angle must be in (0, pi], got {angle}")
    if angle > math.pi / 2:
        opposite = math.pi - angle
        return math.log1p(-math.exp(log_cap_fraction(fan_in, opposite))) if opposite > 0 else 0.0
    a = (fan_in - 2) / 2
    sin2, cos2 = math.sin(angle) ** 2, math.cos(angle) ** 2
    # Near a right angle the sine is rounded to 1, the cosine is not.
    log_sin2 = math.log1p(-cos2) if cos2 < 0.5 else 2 * math.log(math.sin(angle))
    log_front = a * log_sin2 + math.log(math.cos(angle)) - _log_beta_half(a)
    if sin2 < (a + 1) / (a + 2.5):
        log_i = log_front - math.log(a) + math.log(_beta_fraction(a, 0.5, sin2))
    else:
        log_i = math.log1p(-math.exp(log_front) * 2 * _beta_fraction(0.5, a, cos2))
    return log_i - math.log(2)


def _log_beta_half(a: float) -> float:
    """`ln B(a, 1/2)`; the difference of two lgammas would lose 1e-10 at large a."""
    if a < 30:
        return math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    b = 1 / a
    series = b * (-1 / 8 + b * b * (1 / 192 + b * b * (-1 / 640 + b * b * 17 / 14336)))
    return 0.5 * (math.log(math.pi) - math.log(a)) - series


def _beta_fraction(a: float, b: float, x: float) -> float:
    """`I_x(a, b) a B(a, b) / (x^a (1 - x)^b)`: DLMF 8.17.22, by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            return value
    raise ArithmeticError(f"no convergence of the incomplete beta function at {a}, {b}, {x}")


def cap_kl(layouts: Layouts, angle: float | Mapping[str, float]) -> float:
    """KL divergence of uniform caps around every neuron from uniform spheres, in nats.

    `KL = sum over neurons of -log_cap_fraction(fan-in, angle)`. The weights themselves do not
    enter: a cap has the same size wherever it lies.

    Args:
        layouts: parameter name -> its neurons, as `balanced_layouts` returns.
        angle: half-angle of the caps in radians, one for all or one for each parameter.

    Returns:
        The divergence.

    Raises:
        ValueError: as `log_cap_fraction`, or a parameter has no angle.

    Examples:
        >>> import math
        >>> from nero import NeuronLayout
        >>> from nero.measures import cap_kl
        >>> half_spheres = cap_kl({"weight": NeuronLayout((5, 4))}, math.pi / 2)
        >>> round(half_spheres / math.log(2), 9)
        5.0
    """
    angles = angles_by_name(layouts, angle)
    return sum(
        -layout.neurons * log_cap_fraction(layout.fan_in, angles[name])
        for name, layout in layouts.items()
    )


def sample_caps(
    weights: Mapping[str, Tensor],
    layouts: Layouts,
    angle: float | Mapping[str, float],
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Turn every neuron to a point drawn uniformly from the cap around it.

    Args:
        weights: parameter name -> balanced weights.
        layouts: parameter name -> its neurons.
        angle: half-angle of the caps in radians, up to a right angle; one for all or one for each
            parameter.
        generator: of the draws, on the weights' device; torch's own where None.

    Returns:
        New weights of the same shapes and dtypes.

    Raises:
        ValueError: an angle is outside of (0, pi / 2].

    Examples:
        >>> import torch, nero
        >>> layer = nero.balance_(torch.nn.Linear(16, 4, bias=False))
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(layer))
        >>> w = {"weight": layer.weight.detach()}
        >>> drawn = nero.measures.sample_caps(w, layouts, 0.1)
        >>> angles = nero.geometry.turning_angle(w["weight"], drawn["weight"], layouts["weight"])
        >>> bool((angles <= 0.1 + 1e-6).all())
        True
    """
    angles = angles_by_name(layouts, angle)
    drawn = {}
    for name, layout in layouts.items():
        w = weights[name]
        by = _cap_angles(layout, angles[name], w.device, generator)
        drawn[name] = turn(w, layout, by, generator)
    return drawn


def _cap_angles(
    layout: NeuronLayout, angle: float, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    """Angles from the centre of points drawn uniformly from caps: `neuron_shape`, float64.

    Their density is sin^m on (0, angle), m = fan-in - 3. With the distance s = angle - theta
    from the rim and k = cot(angle), `ln sin theta - ln sin angle <= -k s - s^2 / 2`, since the
    second derivative of ln sin is at most -1: a proposal from the exponential where the slope
    k sqrt(m) decides, else from the normal distribution, is accepted by what is left.
    """
    if not 0 < angle <= math.pi / 2:
        raise ValueError(f"angle must be in (0, pi / 2] to draw from a cap, got {angle}")
    m, count = layout.fan_in - 3, layout.neurons
    options = {"dtype": torch.float64, "device": device, "generator": generator}
    if m == 0:
        return angle * torch.rand(count, **options).view(layout.neuron_shape)
    k = 1 / math.tan(angle)
    found = torch.empty(0, dtype=torch.float64, device=device)
    while len(found) < count:
        proposals = 4 * count + 16
        if k * math.sqrt(m) >= 1:
            s = -torch.rand(proposals, **options).log() / (m * k)
            left = k * s
        else:
            s = torch.randn(proposals, **options) / math.sqrt(m) - k
            left = k * s + s.square() / 2
        s, left = s[(s > 0) & (s < angle)], left[(s > 0) & (s < angle)]
        log_accept = m * (torch.log(torch.sin(angle - s) / math.sin(angle)) + left)
        uniform = torch.rand(len(s), **options)
        found = torch.cat([found, (angle - s)[uniform.log() <= log_accept]])
    return found[:count].view(layout.neuron_shape)
