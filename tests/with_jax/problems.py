"""A small regression for the tests: parameters, their neurons, and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nero.optax import NeuronDimensionNumbers, balance, nero

DIMS = {
    "hidden": {"kernel": NeuronDimensionNumbers((-1,)), "bias": NeuronDimensionNumbers((), "bias")},
    "out": NeuronDimensionNumbers((-1,)),
}
X = jax.random.normal(jax.random.key(7), (64, 8))
Y = X[:, :1] * X[:, 1:2]


def parameters(seed: int = 0, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Balanced weights of two layers: 8 inputs, 16 hidden neurons, 1 output."""
    keys = jax.random.split(jax.random.key(seed), 3)
    params = {
        "hidden": {
            "kernel": jax.random.normal(keys[0], (8, 16)),
            "bias": 0.1 * jax.random.normal(keys[1], (16,)),
        },
        "out": jax.random.normal(keys[2], (16, 1)),
    }
    return balance(jax.tree.map(lambda x: x.astype(dtype), params), DIMS)


def loss(params: Any) -> jax.Array:
    """Mean squared error, in float32."""
    hidden = jax.nn.relu(X @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return jnp.mean(jnp.square((hidden @ params["out"]).astype(jnp.float32) - Y))


def optimizer(**options: Any) -> optax.GradientTransformationExtraArgs:
    """Nero on these parameters."""
    return nero(**{"learning_rate": 0.02, "neuron_dimension_numbers": DIMS, **options})


def init(tx: Any, params: Any) -> Any:
    """`tx.init`, compiled as a whole: one operation after another takes ten times as long."""
    return jax.jit(tx.init)(params)


def update(tx: Any, *args: Any) -> Any:
    """`tx.update`, compiled."""
    return jax.jit(tx.update)(*args)


def train(tx: Any, params: Any, steps: int) -> tuple[Any, Any]:
    """Parameters and state after some compiled steps."""
    step = jax.jit(lambda params, state: one_step(tx, params, state))
    state = init(tx, params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def one_step(tx: Any, params: Any, state: Any) -> tuple[Any, Any]:
    """Gradient, update, new parameters and state."""
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


def off_balance(params: Any) -> float:
    """The largest mean (times the root of the fan-in) or distance of a norm from 1."""
    worst = 0.0
    for w in (params["hidden"]["kernel"], params["out"]):
        mean = jnp.abs(w.mean(0)).max() * w.shape[0] ** 0.5
        worst = max(worst, float(mean), float(jnp.abs(jnp.linalg.norm(w, axis=0) - 1).max()))
    return worst
