"""Orthogonal directions for JAX: `nero.directions`, where the definition and its sources stand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from nero.neurons import NeuronLayout
from nero.optax.geometry import NOISE_ULPS, Axes, axis_sum

# (a, b, c) of each iteration X <- a X + (b G + c G^2) X with G = X X^T, as in nero.directions.
COEFFICIENTS = (
    (7.458181060, -20.782832759, 14.930233873),
    (4.115959103, -3.493165227, 0.764288374),
    (3.959575992, -3.309694459, 0.720806141),
    (2.816141310, -2.066961049, 0.448688300),
    (2.005020321, -1.373686078, 0.377571877),
)
ROWS: Axes = (-1,)


def directions(
    d: jax.Array,
    layout: NeuronLayout,
    *,
    center: bool | jax.Array,
    blocks: int = 1,
    row_axes: int = 1,
) -> jax.Array:
    """The direction of every neuron of a layer: polar(d), each neuron's part scaled to norm 1.

    Args:
        d: gradients or their running average, in `layout.split_shape`.
        layout: their layout, with a fan-in above 1.
        center: whether neurons are centred, so that their mean is no direction to turn in.
        blocks: how many equal pieces of the rows are matrices of their own.
        row_axes: how many of the last axes of neurons count rows; those before count matrices.

    Returns:
        Directions like `d`; zero for a neuron whose gradient is zero or, where centred, constant;
        NaN for one whose gradient is not finite, which counts as zero to the others.
    """
    order = [axis for axis in range(d.ndim) if axis not in layout.fan_in_axes]
    rows = math.prod([d.shape[axis] for axis in order[max(0, len(order) - row_axes) :]])
    if rows % blocks:
        raise ValueError(f"blocks {blocks} does not divide the {rows} rows of shape {layout.shape}")
    order += layout.fan_in_axes
    stack = jnp.transpose(d, order)
    shape = stack.shape
    stack = jnp.reshape(stack, (-1, rows // blocks, layout.fan_in))
    stack, finite = _scaled(stack, center=center)
    u = polar(stack)
    norm = _norm(u, ROWS)
    u = jnp.where(finite, u / jnp.where(norm > 0, norm, 1), jnp.nan)
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return jnp.transpose(jnp.reshape(u, shape), inverse)


def polar(x: jax.Array) -> jax.Array:
    """The polar factors of a stack of matrices of Frobenius norm 1 at most, or of zeros."""
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for iteration, (a, b, c) in enumerate(COEFFICIENTS):
        gram = _product(x, x.mT)
        square = _product(gram, gram)
        if iteration == 0:
            # ||G^2||_F = (sum of sigma^8)^(1/2) bounds the largest sigma to the fourth.
            bound = _norm(square, (-2, -1))
            shrink = jax.lax.rsqrt(jnp.where(bound > 0, bound, 1))
            x, gram, square = x * jnp.sqrt(shrink), gram * shrink, square * shrink * shrink
        x = a * x + _product(b * gram + c * square, x)
    return x.mT if tall else x


def _scaled(d: jax.Array, *, center: bool | jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each matrix of Frobenius norm 1, or zero; and which of its rows were finite.

    The others are zero, as are rows without a direction and those below 1e-18 of the largest.
    """
    peak = jnp.max(jnp.abs(d), axis=-1, keepdims=True)
    finite = jnp.isfinite(peak)
    largest = jnp.max(jnp.where(finite, peak, 0), axis=-2, keepdims=True, initial=0)
    x = d / jnp.where(largest > 0, largest, 1)
    mean = jnp.where(center, axis_sum(x, ROWS) / d.shape[-1], 0)
    x = x - mean
    # What rounding leaves of a constant row is no direction.
    noise = NOISE_ULPS * float(jnp.finfo(d.dtype).eps) * math.sqrt(d.shape[-1]) * jnp.abs(mean)
    norm = _norm(x, ROWS)
    kept = finite & (norm > noise)
    total = _norm(jnp.where(kept, norm, 0), (-2,))
    return jnp.where(kept, x / jnp.where(total > 0, total, 1), 0), finite


def _norm(x: jax.Array, axes: Axes) -> jax.Array:
    """2-norm of numbers whose squares are in range."""
    return jnp.sqrt(axis_sum(x * x, axes))


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    # In the working precision: accelerators would otherwise multiply in fewer bits.
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
