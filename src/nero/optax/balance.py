"""Initial weights for `nero`: a transformation's `init` cannot change parameters."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from nero.optax.geometry import constraints, project, starts_at_zero
from nero.optax.neurons import DimensionNumbers, neurons_of
from nero.optax.options import Options


def balance(
    params: Any,
    neuron_dimension_numbers: DimensionNumbers,
    *,
    center: bool = True,
    radius: str | float | None = "unit",
) -> Any:
    """Put each neuron on its constraint set, as `nero.optax.nero` keeps it there.

    What the optimiser for torch does when it is built. Neurons that are on their set keep every
    bit, and so do those that cannot be projected: zero or constant ones, those with too small a
    fan-in, and tensors that start at (nearly) zero, whose neurons grow from there, free.

    Args:
        params: the parameters, floating-point arrays of any number of axes.
        neuron_dimension_numbers: as `nero.optax.nero` takes them.
        center: subtract each neuron's mean. Default True.
        radius: norm to scale each neuron to. "unit" (default): 1; a positive float; "initial" or
            None: the norm it has after centring.

    Returns:
        Parameters of the same shapes and dtypes.

    Raises:
        ValueError: as `nero.optax.nero`.
        TypeError: as `nero.optax.nero`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from nero.optax import NeuronDimensionNumbers, balance
        >>> balance(jnp.array([[3.0, -1.0], [1.0, 3.0]]), NeuronDimensionNumbers((0,))).tolist()
        [[3.0, -1.0], [1.0, 3.0]]

        A fan-in of two leaves nothing to turn once a neuron is centred and normalised, so those
        stay as they are.

        >>> balance(jnp.array([[0.0, 4.0]]), NeuronDimensionNumbers((0,)), center=False).tolist()
        [[0.0, 1.0]]
    """
    options = Options(center, radius).checked()
    every = neurons_of(neuron_dimension_numbers, params)

    def projected(leaves: list[jax.Array]) -> list[jax.Array]:
        new = []
        for p, neurons in zip(leaves, every, strict=True):
            center, normalize = constraints(neurons.layout, options.center, options.radius)
            norm = options.number if normalize and options.radius != "initial" else None
            balanced = project(p, neurons.layout, center=center, radius=norm)
            grows = starts_at_zero(p, neurons.layout) & normalize
            new.append(jnp.where(grows, p, balanced))
        return new

    leaves, tree = jax.tree.flatten(params)
    # Compiled as a whole: one operation after another would be compiled one by one.
    return jax.tree.unflatten(tree, jax.jit(projected)(leaves))
