"""Von Mises-Fisher distributions on the sphere of a balanced neuron: divergence and draws.

Their density is proportional to `exp(kappa cos theta)`, theta the angle from the centre, on the
unit sphere of R^d, d = fan-in - 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from nero.geometry import turning_angle
from nero.measures.sphere import Layouts, turn
from nero.neurons import NeuronLayout


def mean_cosine(fan_in: int, concentration: float) -> float:
    """The mean of cos theta: `A = I_(d/2)(kappa) / I_(d/2 - 1)(kappa)`, d = fan-in - 1.

    The ratio of modified Bessel functions follows its recursion downwards, `r_v = 1 / (2 (v + 1) /
    kappa + r_(v + 1))`, from Amos' estimate far above; all terms are positive.

    Args:
        fan_in: number of weights of the neuron; at least 3.
        concentration: kappa, 0 or above.

    Returns:
        From 0 (uniform) to 1 (a point).

    Raises:
        ValueError: the fan-in is below 3 or the concentration negative or infinite.

    Source:
        D. E. Amos, "Computation of modified Bessel functions and their ratios", 1974.

    Examples:
        On the ordinary sphere, fan-in 4, it is coth kappa - 1 / kappa.

        >>> from nero.measures import mean_cosine
        >>> round(mean_cosine(4, 2.0), 9)
        0.537314721
    """
    if fan_in < 3:
        raise ValueError(f"fan_in must be at least 3, got {fan_in}: smaller neurons cannot turn")
    if not 0 <= concentration < math.inf:
        raise ValueError(f"concentration must be at least 0 and finite, got {concentration}")
    if concentration == 0:
        return 0.0
    order = (fan_in - 1) / 2 - 1
    # A step of the recursion shrinks the error by r^2, 1 - r being about (v + 1/2) / kappa.
    above = 50 + int(6 * math.sqrt(concentration))
    top = order + above
    ratio = concentration / (top + 0.5 + math.hypot(top + 1.5, concentration))
    for step in range(above - 1, -1, -1):
        ratio = 1 / (2 * (order + step + 1) / concentration + ratio)
    return ratio


def fisher_kl(
    weights: Mapping[str, Tensor],
    centre: Mapping[str, Tensor],
    layouts: Layouts,
    concentration: float,
) -> float:
    """KL divergence of von Mises-Fisher distributions around `weights` from those at `centre`.

    `KL = kappa sum over neurons of A(kappa) (1 - cos theta)`, theta the angle between the two
    centres, A `mean_cosine`; both distributions have the concentration kappa.

    Args:
        weights: parameter name -> balanced weights, the posterior's.
        centre: the same, the prior's; the initial weights.
        layouts: parameter name -> its neurons.
        concentration: kappa.

    Returns:
        The divergence in nats.

    Raises:
        ValueError: as `mean_cosine`.

    Examples:
        >>> import torch
        >>> from nero import NeuronLayout
        >>> from nero.measures import fisher_kl, mean_cosine
        >>> w, w0 = torch.tensor([[1.0, -1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0, -1.0]])
        >>> kl = fisher_kl({"weight": w}, {"weight": w0}, {"weight": NeuronLayout((1, 4))}, 2.0)
        >>> round(kl / 2.0 / mean_cosine(4, 2.0), 9)  # a right angle
        1.0
    """
    total = 0.0
    for name, layout in layouts.items():
        theta = turning_angle(centre[name], weights[name], layout)
        turned = (2 * (theta / 2).sin().square()).sum().item()
        total += concentration * mean_cosine(layout.fan_in, concentration) * turned
    return total


def sample_fisher(
    weights: Mapping[str, Tensor],
    layouts: Layouts,
    concentration: float,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Turn every neuron to a point drawn from the von Mises-Fisher distribution around it.

    Args:
        weights: parameter name -> balanced weights.
        layouts: parameter name -> its neurons.
        concentration: kappa, above 0.
        generator: of the draws, on the weights' device; torch's own where None.

    Returns:
        New weights of the same shapes and dtypes.

    Raises:
        ValueError: the concentration is not above 0.

    Source:
        A. T. A. Wood, "Simulation of the von Mises Fisher distribution", 1994.

    Examples:
        >>> import torch, nero
        >>> layer = nero.balance_(torch.nn.Linear(16, 4, bias=False))
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(layer))
        >>> w = {"weight": layer.weight.detach()}
        >>> drawn = nero.measures.sample_fisher(w, layouts, 1e6)
        >>> angles = nero.geometry.turning_angle(w["weight"], drawn["weight"], layouts["weight"])
        >>> bool((angles < 0.02).all())
        True
    """
    if not 0 < concentration < math.inf:
        raise ValueError(f"concentration must be above 0 and finite, got {concentration}")
    drawn = {}
    for name, layout in layouts.items():
        w = weights[name]
        by = _fisher_angles(layout, concentration, w.device, generator)
        drawn[name] = turn(w, layout, by, generator)
    return drawn


def _fisher_angles(
    layout: NeuronLayout,
    concentration: float,
    device: torch.device,
    generator: torch.Generator | None,
) -> Tensor:
    """Angles from the centre, `neuron_shape`, float64, by Wood's rejection.

    In terms of the distance u = 1 - cos theta, so that large concentrations lose no digits.
    """
    d, kappa, count = layout.fan_in - 1, concentration, layout.neurons
    options = {"dtype": torch.float64, "device": device, "generator": generator}
    b = (d - 1) / (2 * kappa + math.hypot(2 * kappa, d - 1))
    x0 = (1 - b) / (1 + b)  # where the envelope touches the density
    u0 = 2 * b / (1 + b)  # 1 - x0
    found = torch.empty(0, dtype=torch.float64, device=device)
    while len(found) < count:
        # (1 + a coordinate of a uniform point of the sphere) / 2 has the beta distribution needed.
        g = torch.randn(count, d, **options)
        z = (1 + g[:, 0] / g.norm(dim=1)) / 2
        u = 2 * b * z / (1 - (1 - b) * z)
        log_accept = kappa * (u0 - u) + (d - 1) * torch.log((u0 + x0 * u) / (u0 * (1 + x0)))
        uniform = torch.rand(count, **options)
        found = torch.cat([found, u[uniform.log() <= log_accept]])
    return 2 * torch.asin((found[:count] / 2).clamp(0, 1).sqrt()).view(layout.neuron_shape)
