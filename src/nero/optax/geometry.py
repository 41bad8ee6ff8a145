"""Mean, norm and projection of neurons for JAX: `nero.geometry` on arrays that do not change."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nero.neurons import NeuronLayout

Axes = tuple[int, ...]

# As in nero.geometry: a neuron whose centred norm is below this many units of rounding of the norm
# it had before is constant as far as its dtype can show.
NOISE_ULPS = 16
# Neurons of a smaller norm have none that is worth keeping: they are meant to start at zero.
TINY = 1e-3
# What rounding leaves of a projected neuron's mean and of its distance from the radius.
ROUNDING_ULPS = 4


def working_dtype(dtype: Any) -> Any:
    """The dtype in which an array of `dtype` is computed: float64 for float64, else float32."""
    return jnp.float64 if dtype == jnp.float64 else jnp.float32


def split(x: jax.Array, layout: NeuronLayout) -> jax.Array:
    """`x` in `layout.split_shape` and in its working dtype."""
    return jnp.reshape(x, layout.split_shape).astype(working_dtype(x.dtype))


def axis_sum(x: jax.Array, axes: Axes) -> jax.Array:
    """Sum over `axes`, kept with size 1."""
    return jnp.sum(x, axis=axes, keepdims=True)


def axis_norm(x: jax.Array, axes: Axes) -> jax.Array:
    """2-norm over `axes`, kept with size 1, over the whole range of the dtype."""
    if not axes:
        return jnp.abs(x)
    # From 0, since XLA on CPU takes ten times as long for a maximum that starts from -infinity.
    peak = lax.reduce(jnp.abs(x), jnp.zeros((), x.dtype), lax.max, axes)
    peak = jnp.expand_dims(peak, axes)
    unit = jnp.where(peak > 0, 1 / jnp.where(peak > 0, peak, 1), 1)
    square = axis_sum(jnp.square(x * unit), axes)
    # A second use of the sum: fused with the product alone, XLA on CPU takes ten times as long.
    return jnp.where(square == 0, square, peak * jnp.sqrt(square))


def starts_at_zero(w: jax.Array, layout: NeuronLayout) -> jax.Array:
    """Whether the neurons of a tensor are so small in the mean that they are meant to grow."""
    if not w.size or layout.fan_in == 1:
        return jnp.zeros((), bool)
    return jnp.mean(axis_norm(split(w, layout), layout.fan_in_axes)) <= TINY


def constraints(layout: NeuronLayout, center: bool, radius: Any) -> tuple[bool, bool]:
    """Which constraints a tensor obeys: (centred, normalised).

    Those asked for, or none where the fan-in is too small for a neuron to turn under them.
    """
    normalize = radius is not None
    if layout.can_hold(center=center, normalize=normalize):
        return center, normalize
    return False, False


def project(w: jax.Array, layout: NeuronLayout, *, center: bool, radius: Any) -> jax.Array:
    """`nero.geometry.project_` as a function: each neuron on its constraint set.

    Neurons that are there to within the rounding of their dtype keep every bit, and so do those
    that cannot be projected.

    Args:
        w: weights, `layout.shape`.
        layout: which axes count neurons.
        center: whether to subtract the mean.
        radius: the norm to scale to, one number or one per neuron (`layout.neuron_shape`), where
            0 leaves that neuron unprojected; None leaves every norm free.

    Returns:
        Weights of the shape and dtype of `w`.
    """
    if not w.size or not layout.can_hold(center=center, normalize=radius is not None):
        return w
    axes, x = layout.fan_in_axes, split(w, layout)
    norm, mean = axis_norm(x, axes), axis_sum(x, axes) / layout.fan_in
    tolerance = ROUNDING_ULPS * float(jnp.finfo(w.dtype).eps)
    off = jnp.zeros_like(norm, bool)
    if center:
        off |= jnp.abs(mean) * layout.fan_in**0.5 > tolerance * norm
    if radius is not None:
        off |= jnp.abs(norm - radius) > tolerance * radius
        off &= jnp.asarray(radius) > 0
    # Twice, for weights whose mean is orders of magnitude above the spread around it: what the
    # rounding of that mean adds to the norm is gone the second time.
    for _ in range(2):
        x = _project_once(x, axes, center=center, radius=radius, where=off)
    return jnp.reshape(x.astype(w.dtype), w.shape)


def _project_once(
    x: jax.Array, axes: Axes, *, center: bool, radius: Any, where: jax.Array
) -> jax.Array:
    count = fan_in(x, axes)
    mean = axis_sum(x, axes) / count if center else jnp.zeros_like(where, x.dtype)
    centred = x - mean
    norm = axis_norm(centred, axes)
    noise = NOISE_ULPS * float(jnp.finfo(x.dtype).eps) * count**0.5 * jnp.abs(mean)
    done = where & jnp.isfinite(norm) & (norm > noise)
    if radius is not None:
        centred = centred * (radius / jnp.where(done, norm, 1))
    if center:
        # Where the centred norm was small, dividing by it has magnified the rounding of the mean.
        centred = centred - axis_sum(centred, axes) / count
    return jnp.where(done, centred, x)


def fan_in(x: jax.Array, axes: Axes) -> int:
    """The number of entries of one neuron."""
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count
