"""The rule for one array, as `nero.rule` has it, in two halves: the running average, and the turn.

With w the weights of a neuron, g its gradient, t the step count and r the radius:

    v  <- beta v + (1 - beta) ||g||^2
    u   = g r / sqrt(v / (1 - beta^t))             `direction`
    w  <- w - lr u
    w  <- w - mean(w);  w <- r w / ||w||           `turn`

Both hand on `g` and one number per neuron to multiply it with instead of their product: XLA then
needs no temporary of the parameter's size.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nero.optax.geometry import Axes, axis_norm, axis_sum, fan_in

# A neuron whose squared norm is below this many units of rounding of the numbers that it is the
# difference of is not normalised: it is constant, or nearly, and what was computed is noise.
CANCELLED_ULPS = 64


class Direction(NamedTuple):
    """What `direction` returns; arrays per neuron have size 1 on the fan-in axes.

    Attributes:
        d: the gradient, or its running average, (neurons, fan_in).
        a: what to multiply it with, (neurons, 1); 0 for a neuron that is not to move.
        mu: the running average of g, (neurons, fan_in); None without momentum.
        rms: the root of v, (neurons, 1).
        finite: which neurons had a finite gradient, (neurons, 1).
    """

    d: jax.Array
    a: jax.Array
    mu: jax.Array | None
    rms: jax.Array
    finite: jax.Array


def direction(
    g: jax.Array,  # (neurons, fan_in), here and below in any order of axes
    mu: jax.Array | None,  # (neurons, fan_in), the running average of g; None without momentum
    rms: jax.Array,  # (neurons, 1), the root of v
    axes: Axes,  # the fan-in axes
    *,
    t: jax.Array,  # the step count, from 1
    r: Any,  # the neuron's radius, or what stands for it: (neurons, 1) or one number
    beta: Any,
    momentum: Any,
    max_turn: Any,
    propagate: bool,
) -> Direction:
    """The direction u = a d of a step, and the new running averages."""
    g_norm = axis_norm(g, axes)
    finite = jnp.isfinite(g_norm)
    seen = jnp.ones_like(finite) if propagate else finite
    debias_m = 1.0
    if mu is not None:
        mu = jnp.where(seen, momentum * mu + (1 - momentum) * g, mu)
        debias_m = one_minus_power(momentum, t, rms.dtype)
        g, g_norm = mu, axis_norm(mu, axes) / debias_m

    new_rms = jnp.hypot(beta**0.5 * rms, (1 - beta) ** 0.5 * g_norm)
    rms = jnp.where(seen, new_rms, rms)
    rms_hat = rms / jnp.sqrt(one_minus_power(beta, t, rms.dtype))
    if max_turn is not None:
        rms_hat = jnp.maximum(rms_hat, g_norm / max_turn)
    turns = seen & (g_norm != 0) & (rms_hat != 0)
    a = jnp.where(turns, r / (jnp.where(turns, rms_hat, 1) * debias_m), 0)
    return Direction(g, a, mu, rms, finite)


def turn(
    w: jax.Array,  # (neurons, fan_in)
    d: jax.Array,  # (neurons, fan_in)
    c: jax.Array,  # (neurons, 1)
    axes: Axes,
    *,
    center: bool,
    radius: Any,  # the norm to project to: one number, or (neurons, 1) with 0 where it is free
) -> jax.Array:
    """`w + c d` on the constraint set; neurons where c is 0 keep every bit, whatever d holds.

    The squared norm is that of `w + c d` less that of its mean, so it loses digits where a neuron's
    mean is far above its spread; balanced weights have no mean. The next step repairs that.
    """
    moves = c != 0
    if not axes or not (center or radius is not None):
        return jnp.where(moves, w + c * d, w)
    count = max(1, fan_in(w, axes))

    def total(x: jax.Array) -> jax.Array:
        # Selected, which also keeps XLA's CPU backend from computing what follows together with
        # the sum, in temporaries of the parameter's size.
        return jnp.where(moves, axis_sum(x, axes), 0)

    mean = (total(w) + c * total(d)) / count if center else jnp.zeros_like(c)
    if radius is None:
        return jnp.where(moves, w + c * d - mean, w)
    size, step = total(jnp.square(w + c * d)), c * axis_norm(d, axes)
    square = size - count * mean * mean
    noise = CANCELLED_ULPS * float(jnp.finfo(w.dtype).eps) * (size + step * step)
    normal = (square > noise) & (jnp.asarray(radius) > 0)
    norm = jnp.sqrt(jnp.where(normal, square, 1))
    r, mean = jnp.where(normal, radius, 1), jnp.where(normal, mean, 0)
    # Not (w + c d - mean) r / norm: XLA on CPU would keep `w + c d` in a temporary. Each number per
    # neuron ends in a division, as XLA computes what does not once more for every weight.
    of_w, of_d, shift = r / norm, c * r / norm, mean * r / norm
    return jnp.where(of_d != 0, w * of_w + d * of_d - shift, w)


def one_minus_power(beta: Any, t: jax.Array, dtype: Any) -> jax.Array:
    """`1 - beta^t`, exact for small t; the bias correction of a running average."""
    if isinstance(beta, jax.Array):
        log_beta = jnp.log(beta.astype(dtype))
    else:
        log_beta = math.log(beta) if beta > 0 else -math.inf
    return -jnp.expm1(t.astype(dtype) * log_beta)
