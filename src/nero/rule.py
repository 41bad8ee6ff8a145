"""Nero's update of one tensor, in the paper's symbols: the reference for every faster path.

For each neuron with weights w and gradient g, at this parameter's t-th step (Liu et al., ICML
2021, algorithm 1):

    v  <- beta v + (1 - beta) ||g||^2              one number per neuron
    w  <- w - lr r g / sqrt(v / (1 - beta^t))      r: the neuron's radius, so that lr is an angle
    w  <- w - mean(w);  w <- r w / ||w||           projection

Biases and gains have no fan-in: each entry is its own neuron, r is their scale sigma_b, and
nothing is projected.

Free neurons (radius None) and entries step by lr sigma, where sigma was measured at construction.
With `relative` it is max(sigma, ||w||): the step is in proportion to the neuron or entry as it is
now, so that a size of any order is reached in a number of steps that is its logarithm over lr.

Where `max_turn` caps the angle, sqrt(v / (1 - beta^t)) is at least ||g|| / max_turn: no neuron
turns by more than max_turn lr, not even one whose gradient comes rarely, and so is large beside
its running average.

It departs from the letter of the paper in two ways, neither of which changes a number in exact
arithmetic. The state is `rms = sqrt(v)`, updated by hypot, because the square of a small
gradient underflows. And a neuron that has nothing to do (no gradient yet, a gradient of zero, a
gradient that is not finite, lr = 0) is not projected again, so that it keeps every bit.

Where weights are kept in 16 bits the rule runs on a float32 copy, and `nero.rounding` says how
that goes back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nero.geometry import Axes, axis_norm, axis_project_


def nero_(
    w: Tensor,  # (neurons, fan_in), here and below in any order of axes; updated
    g: Tensor,  # (neurons, fan_in); not modified
    m: Tensor | None,  # (neurons, fan_in), the running average of g; None without momentum; updated
    rms: Tensor,  # (neurons, 1), the root of v; updated
    axes: Axes,  # the fan-in axes
    *,
    lr: float | Tensor,
    beta: float,
    debias: float | Tensor,  # 1 - beta^t
    momentum: float,
    debias_m: float | Tensor,  # 1 - momentum^t
    r: float | Tensor,  # the neuron's radius, or what stands for it: (neurons, 1) or one number
    center: bool,
    radius: float | Tensor | None,  # the norm to project to
    max_turn: float | None = None,  # the largest step in multiples of lr r; None for no cap
    relative: bool = False,  # whether r is at least the norm that a free neuron has now
    maximize: bool = False,
    propagate: bool = False,
) -> Tensor:
    """One step of one tensor, in place; w, g, m and rms have the same, working, dtype.

    Returns:
        Which neurons had a finite gradient (booleans, `(neurons, 1)`). The others kept their
        weights and state, unless `propagate`, which lets NaN through as torch.optim does.
    """
    g_norm = axis_norm(g, axes)
    finite = torch.isfinite(g_norm)
    seen = torch.ones_like(finite) if propagate else finite
    if m is not None:
        m.lerp_(torch.where(seen, g, m), 1 - momentum)
        g, g_norm = m, axis_norm(m, axes) / debias_m

    rms.copy_(torch.where(seen, torch.hypot(beta**0.5 * rms, (1 - beta) ** 0.5 * g_norm), rms))
    rms_hat = rms / debias**0.5
    if max_turn is not None:
        rms_hat = torch.maximum(rms_hat, g_norm / max_turn)
    if relative and radius is None:
        r = axis_norm(w, axes).clamp(min=r)
    step = lr * r * (-1 if maximize else 1)
    turns = seen & (g_norm != 0) & (rms_hat != 0) & (step != 0)

    dw = g / torch.where(turns, rms_hat * debias_m / step, 1)
    w.sub_(keep_(dw, turns))
    del dw  # the projection needs a temporary of the same size
    axis_project_(w, axes, center=center, radius=radius, where=turns)
    return finite


def one_minus_power(beta: float, t: float | Tensor) -> float | Tensor:
    """`1 - beta^t`, exact for small t; the bias correction of a running average."""
    log_beta = math.log(beta) if beta > 0 else -math.inf
    if isinstance(t, Tensor):
        return -torch.expm1(t * log_beta)
    return -math.expm1(t * log_beta)


def keep_(x: Tensor, keep: Tensor) -> Tensor:
    """Set the neurons outside `keep` to +0, even where they hold NaN, in place.

    A bitwise and with the mask's sign extension: 10 times faster on CPU than `masked_fill_` with
    a mask that broadcasts.
    """
    bits = torch.int64 if x.dtype == torch.float64 else torch.int32
    x.view(bits).bitwise_and_(-keep.to(bits))
    return x
