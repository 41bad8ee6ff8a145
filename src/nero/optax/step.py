"""A step of a whole tree: directions from gradients, and updates from directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nero.optax.directions import directions
from nero.optax.geometry import axis_norm, constraints, split
from nero.optax.neurons import Neurons
from nero.optax.options import Options
from nero.optax.rule import Direction, direction, turn
from nero.optax.state import KeepNeuronsBalancedState, ScaleByNeuronRmsState


class Scaled(NamedTuple):
    """Directions d of a tree and what to multiply each neuron of them with, leaf by leaf."""

    d: Sequence[jax.Array]
    a: Sequence[jax.Array]


def rms_step(
    gradients: Any,
    state: ScaleByNeuronRmsState,
    params: Any,
    options: Options,
    every: list[Neurons],
) -> tuple[Scaled, ScaleByNeuronRmsState]:
    """One step of the running averages of a tree; the directions are yet to be multiplied."""
    leaves, tree = jax.tree.flatten(gradients)
    rms, scale = jax.tree.leaves(state.rms), jax.tree.leaves(state.scale)
    if options.relative:
        scale = _present_sizes(params, scale, every)
    none = [None] * len(leaves)
    averages = none if state.mu is None else jax.tree.leaves(state.mu)
    centered = none if state.centered is None else jax.tree.leaves(state.centered)
    t = jnp.asarray(optax.safe_increment(state.count))
    made = [
        _direction(g, mu, v, r, centre, neurons, options, t)
        for g, mu, v, r, centre, neurons in zip(
            leaves, averages, rms, scale, centered, every, strict=True
        )
    ]
    mu = None
    if state.mu is not None:
        kept = [each.mu for each in made if each.mu is not None]
        shaped = [jnp.reshape(m, g.shape) for m, g in zip(kept, leaves, strict=True)]
        mu = jax.tree.unflatten(tree, shaped)
    skipped = [jnp.sum(~each.finite, dtype=jnp.int32) for each in made]
    new_state = ScaleByNeuronRmsState(
        count=t,
        rms=jax.tree.unflatten(tree, [each.rms for each in made]),
        scale=state.scale,
        mu=mu,
        skipped=sum(skipped, state.skipped),
        centered=state.centered,
    )
    return Scaled([each.d for each in made], [each.a for each in made]), new_state


def _present_sizes(params: Any, scale: list[Any], every: list[Neurons]) -> list[Any]:
    """The present norm of each neuron where it is above the scale of its tensor, else that scale.

    Neurons that are held to a norm have the norm that is their scale.
    """
    norms = [
        axis_norm(split(p, n.layout), n.layout.fan_in_axes)
        for p, n in zip(jax.tree.leaves(params), every, strict=True)
    ]
    return [jnp.maximum(norm, least) for norm, least in zip(norms, scale, strict=True)]


def _direction(
    g: jax.Array,
    mu: jax.Array | None,
    rms: jax.Array,
    r: Any,
    centered: jax.Array | None,
    neurons: Neurons,
    options: Options,
    t: jax.Array,
) -> Direction:
    """The direction of one parameter and its running averages, in `layout.split_shape`."""
    layout = neurons.layout
    hyper: dict[str, Any] = {
        "t": t,
        "r": r,
        "beta": options.beta,
        "momentum": options.momentum,
        "max_turn": options.max_turn,
        "propagate": options.nonfinite == "propagate",
    }
    g = split(g, layout)
    m = None if mu is None else split(mu, layout)
    if centered is not None and neurons.numbers.role == "weight" and layout.fan_in > 1:
        u, m = _orthogonal(g, m, neurons, options, centered)
        return direction(u, None, rms, layout.fan_in_axes, **hyper)._replace(mu=m)
    return direction(g, m, rms, layout.fan_in_axes, **hyper)


def _orthogonal(
    g: jax.Array, m: jax.Array | None, neurons: Neurons, options: Options, centered: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """The orthogonal directions of a layer, and its new running average of gradients.

    Momentum is Nesterov's, and without the correction of its start, as the size is of no matter.
    """
    if m is not None:
        mu = options.momentum
        finite = jnp.isfinite(axis_norm(g, neurons.layout.fan_in_axes))
        m = jnp.where(finite, mu * m + (1 - mu) * g, m)
        g = mu * m + (1 - mu) * g
    numbers = neurons.numbers
    u = directions(
        g, neurons.layout, center=centered, blocks=numbers.blocks, row_axes=numbers.row_axes
    )
    return u, m


def turn_all(
    params: Any,
    made: Scaled,
    state: KeepNeuronsBalancedState,
    options: Options,
    every: list[Neurons],
) -> Any:
    """Updates in the parameters' dtype that take them by `c d` and back to their sets."""
    leaves, tree = jax.tree.flatten(params)
    kept = jax.tree.leaves(state.radius) if state.radius is not None else [None] * len(leaves)
    updates = []
    for p, d, c, own, neurons in zip(leaves, made.d, made.a, kept, every, strict=True):
        layout = neurons.layout
        center, normalize = constraints(layout, options.center, options.radius)
        radius = own if normalize else None
        w = split(p, layout)
        new = turn(w, d.astype(w.dtype), c, layout.fan_in_axes, center=center, radius=radius)
        # Rounded before subtracting, so that adding the difference gives the rounded weight.
        change = (new.astype(p.dtype).astype(w.dtype) - w).astype(p.dtype)
        updates.append(jnp.reshape(change, p.shape))
    return jax.tree.unflatten(tree, updates)
