"""The state of the transformations, and how it is made from the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nero.neurons import NeuronLayout
from nero.optax.geometry import (
    TINY,
    axis_norm,
    axis_sum,
    constraints,
    split,
    starts_at_zero,
    working_dtype,
)
from nero.optax.neurons import DimensionNumbers, neurons_of
from nero.optax.options import Options

# Where a tensor's mean size is below the first number, the second stands for it: of biases and
# gains the paper's sigma_b, of neurons the norm of a balanced one.
ENTRY_SCALE = (TINY, 0.01)
NEURON_SCALE = (0.1, 1.0)
# What stands for the size of biases and gains whose steps are in proportion to it.
RELATIVE_SCALE = 1.0


class ScaleByNeuronRmsState(NamedTuple):
    """State of `scale_by_neuron_rms`, in float32 whatever the parameters' dtype (float64 for it).

    Attributes:
        count: steps taken, int32, `()`.
        rms: like the parameters: the root of each neuron's running average of squared gradient
            norms; size 1 on the fan-in axes (`NeuronLayout.neuron_shape`).
        scale: like the parameters: what a step is multiplied with besides the learning rate. The
            radius, `()`, or under radius="initial" each neuron's own, like `rms`. Where it is
            free: the tensor's mean size when the state was made, 0.01 for biases and gains and 1
            for neurons that were (nearly) zero, `()`; with relative=True the least that a step is
            multiplied with, 1 for biases and gains.
        mu: with momentum the running average of gradients, like the parameters; otherwise None.
        skipped: how often a neuron sat out a step because its gradient was not finite, int32,
            `()`; an entry of a bias counts as a neuron. `optax.tree.get(state, "skipped")`.
        centered: with orthogonal=True, like the parameters: whether the directions of the matrix
            are centred, bool, `()`; those of one that started at zero are not. Otherwise None.
    """

    count: Any
    rms: Any
    scale: Any
    mu: Any
    skipped: jax.Array
    centered: Any = None


class KeepNeuronsBalancedState(NamedTuple):
    """State of `keep_neurons_balanced`.

    Attributes:
        radius: the norm that neurons are to keep, like the parameters, float32 (float64 for
            float64): one number, `()`, or under radius="initial" one per neuron, with size 1 on
            the fan-in axes. 0 leaves a neuron free, as those of a tensor that started at zero.
            None where no norm is kept at all (radius=None).
    """

    radius: Any


def init_rms(params: Any, options: Options, dims: DimensionNumbers) -> ScaleByNeuronRmsState:
    """The state of `scale_by_neuron_rms` before the first step."""
    leaves, tree = jax.tree.flatten(params)
    every = neurons_of(dims, params)
    pairs = list(zip(leaves, every, strict=True))
    mu = None
    if options.has_momentum:
        mu = jax.tree.unflatten(tree, [jnp.zeros_like(p, working_dtype(p.dtype)) for p in leaves])
    centered = None
    if options.orthogonal:
        centered = jax.tree.unflatten(tree, [_centered(p, n.layout, options) for p, n in pairs])
    return ScaleByNeuronRmsState(
        count=jnp.zeros((), jnp.int32),
        rms=jax.tree.unflatten(
            tree, [jnp.zeros(n.layout.neuron_shape, working_dtype(p.dtype)) for p, n in pairs]
        ),
        scale=jax.tree.unflatten(tree, [_scale(p, n.layout, options) for p, n in pairs]),
        mu=mu,
        skipped=jnp.zeros((), jnp.int32),
        centered=centered,
    )


def _centered(p: jax.Array, layout: NeuronLayout, options: Options) -> jax.Array:
    center, normalize = constraints(layout, options.center, options.radius)
    free = starts_at_zero(p, layout) if normalize else False
    return center & ~jnp.asarray(free)


def _scale(p: jax.Array, layout: NeuronLayout, options: Options) -> jax.Array:
    center, normalize = constraints(layout, options.center, options.radius)
    norm = axis_norm(split(p, layout), layout.fan_in_axes)
    if normalize and options.radius != "initial":
        return jnp.where(starts_at_zero(p, layout), 1.0, jnp.asarray(options.number, norm.dtype))
    mean = _mean_size(norm, layout)
    if options.relative and layout.fan_in == 1:
        mean = jnp.full_like(mean, RELATIVE_SCALE)
    if not normalize:
        return mean
    radius = _own_radius(p, layout, mean, center=center)
    return jnp.where(radius > 0, radius, mean)


def _mean_size(norm: jax.Array, layout: NeuronLayout) -> jax.Array:
    least, instead = ENTRY_SCALE if layout.fan_in == 1 else NEURON_SCALE
    mean = jnp.mean(norm) if norm.size else jnp.zeros((), norm.dtype)
    return jnp.where((mean >= least) & jnp.isfinite(mean), mean, instead)


def _own_radius(p: jax.Array, layout: NeuronLayout, scale: jax.Array, *, center: bool) -> jax.Array:
    """The norm that each neuron has, which it is to keep; 0 where there is none to keep.

    Those are neurons of (nearly) no norm and, with `center`, ones that are constant even after
    centring.
    """
    x, axes = split(p, layout), layout.fan_in_axes
    norm = axis_norm(x, axes)
    drift = jnp.abs(axis_sum(x, axes)) / max(1, layout.fan_in) ** 0.5 if center else 0 * norm
    kept = jnp.isfinite(norm) & (norm > TINY * scale) & (drift < norm / 2)
    return jnp.where(kept, norm, 0)


def init_radius(params: Any, options: Options, dims: DimensionNumbers) -> KeepNeuronsBalancedState:
    """The state of `keep_neurons_balanced`."""
    if options.radius is None:
        return KeepNeuronsBalancedState(None)
    leaves, tree = jax.tree.flatten(params)
    every = neurons_of(dims, params)
    radii = [_radius(p, n.layout, options) for p, n in zip(leaves, every, strict=True)]
    return KeepNeuronsBalancedState(jax.tree.unflatten(tree, radii))


def _radius(p: jax.Array, layout: NeuronLayout, options: Options) -> jax.Array:
    dtype = working_dtype(p.dtype)
    center, normalize = constraints(layout, options.center, options.radius)
    if not normalize:
        return jnp.zeros((), dtype)
    if options.radius == "initial":
        norm = axis_norm(split(p, layout), layout.fan_in_axes)
        return _own_radius(p, layout, _mean_size(norm, layout), center=center)
    return jnp.where(starts_at_zero(p, layout), 0, jnp.asarray(options.number, dtype))
