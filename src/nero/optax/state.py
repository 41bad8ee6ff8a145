"""The state of the transformations, and how it is made from the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nero.neurons import NeuronLayout
from nero.optax.geometry import axis_norm, axis_sum, constraints, split, working_dtype
from nero.optax.neurons import DimensionNumbers, neurons_of
from nero.optax.options import Options

# What a bias, a gain or a neuron of norm zero is taken to measure where its own scale is zero.
ZERO_SCALE = 0.01


class ScaleByNeuronRmsState(NamedTuple):
    """State of `scale_by_neuron_rms`, in float32 whatever the parameters' dtype (float64 for it).

    Attributes:
        count: steps taken, int32, `()`.
        rms: like the parameters: the root of each neuron's running average of squared gradient
            norms; size 1 on the fan-in axes (`NeuronLayout.neuron_shape`).
        scale: like the parameters: what a step is multiplied with besides the learning rate.
            Where the radius is free, the tensor's mean neuron norm when the state was made, `()`;
            under radius="initial" each neuron's radius, like `rms`; otherwise 1, `()`.
        mu: with momentum the running average of gradients, like the parameters; otherwise None.
        skipped: how often a neuron sat out a step because its gradient was not finite, int32,
            `()`; an entry of a bias counts as a neuron. `optax.tree.get(state, "skipped")`.
    """

    count: Any
    rms: Any
    scale: Any
    mu: Any
    skipped: jax.Array


class KeepNeuronsBalancedState(NamedTuple):
    """State of `keep_neurons_balanced`.

    Attributes:
        radius: under radius="initial" the norm that each neuron is to keep, like the parameters,
            float32 (float64 for float64), size 1 on the fan-in axes, 0 for a neuron that has
            none; otherwise None.
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
    return ScaleByNeuronRmsState(
        count=jnp.zeros((), jnp.int32),
        rms=jax.tree.unflatten(
            tree, [jnp.zeros(n.layout.neuron_shape, working_dtype(p.dtype)) for p, n in pairs]
        ),
        scale=jax.tree.unflatten(tree, [_scale(p, n.layout, options) for p, n in pairs]),
        mu=mu,
        skipped=jnp.zeros((), jnp.int32),
    )


def _scale(p: jax.Array, layout: NeuronLayout, options: Options) -> jax.Array:
    center, normalize = constraints(layout, options.center, options.radius)
    if normalize and options.radius != "initial":
        return jnp.ones((), working_dtype(p.dtype))
    norm = axis_norm(split(p, layout), layout.fan_in_axes)
    mean = jnp.mean(norm) if p.size else jnp.zeros((), norm.dtype)
    mean = jnp.where((mean > 0) & jnp.isfinite(mean), mean, ZERO_SCALE)
    if not normalize:
        return mean
    radius = _own_radius(p, layout, center=center)
    return jnp.where(radius > 0, radius, mean)


def _own_radius(p: jax.Array, layout: NeuronLayout, *, center: bool) -> jax.Array:
    """The norm that each neuron has, which it is to keep; 0 where there is none to keep.

    Those are neurons of norm zero and, with `center`, ones that are constant even after centring.
    """
    x, axes = split(p, layout), layout.fan_in_axes
    norm = axis_norm(x, axes)
    drift = jnp.abs(axis_sum(x, axes)) / max(1, layout.fan_in) ** 0.5 if center else 0 * norm
    return jnp.where(jnp.isfinite(norm) & (drift < norm / 2), norm, 0)


def init_radius(params: Any, options: Options, dims: DimensionNumbers) -> KeepNeuronsBalancedState:
    """The state of `keep_neurons_balanced`."""
    if options.radius != "initial":
        return KeepNeuronsBalancedState(None)
    leaves, tree = jax.tree.flatten(params)
    radii = []
    for p, neurons in zip(leaves, neurons_of(dims, params), strict=True):
        center, normalize = constraints(neurons.layout, options.center, options.radius)
        radius = _own_radius(p, neurons.layout, center=center)
        radii.append(radius if normalize else 0 * radius)
    return KeepNeuronsBalancedState(jax.tree.unflatten(tree, radii))
