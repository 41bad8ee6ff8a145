"""Isometric initial weights: exact balance, and signals that keep their size at depth 100."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nero.optax import isometric
from nero.optax.initialize import gain_of

DEPTH, WIDTH = 100, 32


def relu(x: Any) -> Any:
    return jax.nn.relu(x) * 2**0.5


def test_gains() -> None:
    """Those of nero.initialize."""
    assert gain_of(jax.nn.relu)[1] == pytest.approx(2**0.5, abs=1e-6)
    assert gain_of(relu)[1] == pytest.approx(1, abs=1e-6)
    assert gain_of(jnp.tanh)[0] == pytest.approx(1.05, abs=0.01)
    with pytest.raises(ValueError, match="even"):
        gain_of(jnp.square)


@pytest.mark.parametrize("activation", [relu, jax.nn.relu, jax.nn.gelu, jnp.tanh])
def test_signals_keep_their_size(activation: Callable[[Any], Any]) -> None:
    keys = jax.random.split(jax.random.key(0), DEPTH)
    norm = gain_of(activation)[1]
    make = jax.jit(isometric("hidden", activation), static_argnums=1)
    x = jax.random.normal(jax.random.key(1), (256, 8))
    x = x - x.mean(1, keepdims=True)
    x = 0.2 * x @ isometric("first")(keys[0], (8, WIDTH))
    start = float(jnp.sqrt(jnp.mean(x**2)))
    for key in keys[1:]:
        w = make(key, (WIDTH, WIDTH))
        np.testing.assert_allclose(w.sum(0), 0, atol=1e-5)
        np.testing.assert_allclose(jnp.linalg.norm(w, axis=0), norm, rtol=1e-5)
        x = activation(x) @ w
    assert 0.5 < float(jnp.sqrt(jnp.mean(x**2))) / start < 2


@pytest.mark.parametrize("place", ["first", "hidden", "last"])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((7, 5), {}), ((3, 3, 6, 9), {}), ((9, 6, 3), {"in_axis": 1, "out_axis": 0})],
)
def test_every_neuron_is_balanced(place: str, shape: tuple[int, ...], axes: dict[str, int]) -> None:
    w = isometric(place, relu, **axes)(jax.random.key(0), shape, jnp.bfloat16)
    assert (w.shape, w.dtype) == (shape, jnp.bfloat16)
    rows = jnp.moveaxis(w.astype(jnp.float32), axes.get("out_axis", -1), 0)
    rows = rows.reshape(rows.shape[0], -1)
    np.testing.assert_allclose(rows.sum(1), 0, atol=0.03)
    np.testing.assert_allclose(jnp.linalg.norm(rows, axis=1), 1, atol=0.02)


def test_as_a_kernel_init() -> None:
    layer = nn.Dense(8, kernel_init=isometric("hidden", relu))
    params = layer.init(jax.random.key(0), jnp.ones((1, 8)))["params"]
    np.testing.assert_allclose(jnp.linalg.norm(params["kernel"], axis=0), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="place must be one of"):
        isometric("middle")
