"""A perceptron in equinox, trained by Nero: `python examples/equinox_mlp.py`.

Needs `pip install "nero-optim[jax]" equinox`. It learns the product of two of its eight inputs.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nero.optax import balance, equinox_neurons, nero

INPUTS, WIDTH, DEPTH, LEARNING_RATE = 8, 32, 2, 0.01


def data(rows: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, (rows, INPUTS), and targets, (rows, 1)."""
    x = np.random.RandomState(0).standard_normal((rows, INPUTS))
    return x.astype(np.float32), (x[:, :1] * x[:, 1:2]).astype(np.float32)


def initial() -> eqx.nn.MLP:
    """Equinox's initial weights."""
    return eqx.nn.MLP(INPUTS, 1, WIDTH, DEPTH, key=jax.random.key(0))


def train(model: eqx.nn.MLP, x: np.ndarray, y: np.ndarray, steps: int) -> list[float]:
    """The mean squared error before each step on all rows at once."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    dims = equinox_neurons(model)
    params = balance(params, dims)
    optimizer = nero(LEARNING_RATE, neuron_dimension_numbers=dims)

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        def error(params: Any) -> jax.Array:
            return jnp.mean((jax.vmap(eqx.combine(params, static))(x) - y) ** 2)

        value, gradient = jax.value_and_grad(error)(params)
        updates, state = optimizer.update(gradient, state, params)
        return eqx.apply_updates(params, updates), state, value

    state, losses = jax.jit(optimizer.init)(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    for number, loss in enumerate(train(initial(), *data(), 500)):
        if number % 100 == 99:
            print(f"step {number + 1}: {loss:.4f}")
