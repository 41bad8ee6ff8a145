"""Balanced initial weights for plain networks: `nero.initialize` as JAX initialisers."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PLACES = ("first", "hidden", "last")
# As in nero.initialize: the variance of pre-activations that gains keep, and the sample of them.
VARIANCE = 0.05
POINTS = 4096

Initializer = Callable[..., jax.Array]


def isometric(
    place: str = "hidden",
    activation: Callable[[Any], Any] = jax.nn.relu,
    *,
    in_axis: int = -2,
    out_axis: int = -1,
) -> Initializer:
    """An initialiser that keeps the size of signals through any number of plain layers.

    For chains of dense layers or convolutions with nothing between them but one elementwise
    activation, and biases of zero. Units come in pairs with pre-activations a and -a, so that
    neurons of mean 0 lose nothing of what they see; `nero.initialize` has the construction.
    Neurons have norm 1 where the activation allows it, as ReLU x sqrt(2) and tanh do. Plain ReLU,
    GELU and SiLU take norm sqrt(2): train those with `radius="initial"`.

    Args:
        place: "first", "hidden" (default) or "last", the layer's place in its chain. All layers
            but the last should have an even number of units; an odd one is a neuron by itself.
        activation: the one before this layer; of no matter to the first one and the last.
        in_axis: the axis of input units. Default -2, as flax has it; equinox has 1.
        out_axis: the axis of output units. Default -1, as flax has it; equinox has 0.

    Returns:
        A function of (key, shape, dtype), as `jax.nn.initializers` has them. All axes but the two
        are a convolution's kernel; only its centre is not zero, except in the first layer.

    Raises:
        ValueError: an unknown place, or an activation for which no weights keep the signal.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from nero.optax import isometric
        >>> relu = lambda x: jax.nn.relu(x) * 2**0.5
        >>> kernel = isometric("hidden", relu)(jax.random.key(0), (16, 16), jnp.float32)
        >>> bool(abs(kernel.sum(0)).max() < 1e-5)
        True
        >>> bool(abs(jnp.linalg.norm(kernel, axis=0) - 1).max() < 1e-5)
        True
    """
    if place not in PLACES:
        raise ValueError(f"place must be one of {PLACES}, got {place!r}")
    gain, norm = gain_of(activation) if place == "hidden" else (1.0, 1.0)

    def initialize(key: Any, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        ndim = len(shape)
        inputs, outputs = in_axis % ndim, out_axis % ndim
        kernel = [axis for axis in range(ndim) if axis not in (inputs, outputs)]
        order = [outputs, inputs, *kernel]
        rows, columns, *sizes = [shape[axis] for axis in order]
        if place == "first":
            w = _first(key, rows, columns * math.prod(sizes))
        else:
            make = _last if place == "last" else _hidden
            middle = make(key, rows, columns, gain, norm)
            centre = (slice(None), slice(None), *(size // 2 for size in sizes))
            w = jnp.zeros((rows, columns, *sizes), middle.dtype).at[centre].set(middle)
        w = jnp.reshape(w, (rows, columns, *sizes))
        return jnp.transpose(w, np.argsort(order).tolist()).astype(dtype)

    return initialize


def gain_of(activation: Callable[[Any], Any]) -> tuple[float, float]:
    """How a hidden layer keeps the signal behind an activation: its gain, and its neurons' norm.

    Raises:
        ValueError: f(a) - f(-a) is zero or not finite, so that no gain keeps the signal.
    """
    quantile = NormalDist(sigma=math.sqrt(VARIANCE)).inv_cdf
    a = np.array([quantile((k + 0.5) / POINTS) for k in range(POINTS)])
    plus, minus = (np.asarray(activation(jnp.asarray(x)), np.float64) for x in (a, -a))
    odd = float(((plus - minus) ** 2).mean() / (a**2).mean())
    even = float((plus + minus).var() / (a**2).mean())
    if not (math.isfinite(odd) and math.isfinite(even) and odd > 1e-6):
        raise ValueError("the activation is even or not finite: no weights keep the signal's size")
    # g^2/4 odd + rho^2 even = 1, with R's norm rho from g^2/2 + 2 rho^2 = 1; or rho = 0.
    square = 4 * (1 - even / 2) / (odd - even) if odd > even else math.inf
    if 0 < square <= 2:
        return math.sqrt(square), 1.0
    return 2 / math.sqrt(odd), math.sqrt(2 / odd)


def _first(key: Any, rows: int, columns: int) -> jax.Array:
    """[A; -A] of centred rows."""
    half = _rows(key, (rows + 1) // 2, columns, center=columns > 2)
    return jnp.concatenate([half[: rows // 2], -half[: rows // 2], half[rows // 2 :]])


def _hidden(key: Any, rows: int, columns: int, gain: float, norm: float) -> jax.Array:
    """[[P, -P'], [-P, P']] with P = g/2 Q + R and P' = g/2 Q - R."""
    pairs, half = columns // 2, (rows + 1) // 2
    keys = jax.random.split(key)
    q = gain / 2 * _rows(keys[0], half, pairs, center=False)
    r = jnp.zeros_like(q)
    rest = math.sqrt(max(0.0, (norm**2 - gain**2 / 2) / 2))
    if rest > 0 and pairs > 1:
        r = rest * _rows(keys[1], half, pairs, center=True)
    top = jnp.concatenate([q + r, r - q, jnp.zeros((half, columns - 2 * pairs))], 1)
    top = top * (norm / jnp.linalg.norm(top, axis=1, keepdims=True))
    return jnp.concatenate([top[: rows // 2], -top[: rows // 2], top[rows // 2 :]])


def _last(key: Any, rows: int, columns: int, gain: float, norm: float) -> jax.Array:
    """[V, -V] / sqrt(2)."""
    del gain, norm
    pairs = columns // 2
    v = _rows(key, rows, pairs, center=False) / math.sqrt(2)
    return jnp.concatenate([v, -v, jnp.zeros((rows, columns - 2 * pairs))], 1)


def _rows(key: Any, rows: int, columns: int, *, center: bool) -> jax.Array:
    """Random rows of norm 1, orthogonal to each other in blocks as large as there can be."""
    largest = columns - center
    blocks = []
    for start in range(0, rows, largest):
        x = jax.random.normal(jax.random.fold_in(key, start), (columns, min(largest, rows - start)))
        q, r = jnp.linalg.qr(x - x.mean(0) if center else x)
        q = q * jnp.sign(jnp.diagonal(r))
        if center:  # once more: as many rows as there can be are far from orthogonal at first
            q, r = jnp.linalg.qr(q - q.mean(0))
            q = q * jnp.sign(jnp.diagonal(r))
        blocks.append(q.T)
    return jnp.concatenate(blocks)
