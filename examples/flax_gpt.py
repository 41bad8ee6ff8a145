"""A small GPT in flax, trained by Nero: `python examples/flax_gpt.py`.

Needs `pip install "nero-optim[jax]" flax`. The text is a chain of letters, each of which leaves
two or three choices for the next one, so that its entropy is known: 0.83 nats a letter.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nero.optax import NeuronDimensionNumbers, balance, flax_neurons, nero

LETTERS, LENGTH, WIDTH, HEADS, BLOCKS = 12, 16, 32, 2, 2
LEARNING_RATE = 0.03


class Block(nn.Module):
    """Attention and a perceptron, each on a normalised residual stream."""

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """(batch, length, width) to the same."""
        attention = nn.MultiHeadDotProductAttention(HEADS, name="attention")
        x = x + attention(nn.LayerNorm(name="norm_1")(x), mask=mask)
        hidden = nn.relu(nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm(name="norm_2")(x)))
        return x + nn.Dense(WIDTH, name="down")(hidden)


class GPT(nn.Module):
    """Letters in, scores of the next letter out."""

    @nn.compact
    def __call__(self, letters: jax.Array) -> jax.Array:
        """(batch, length) to (batch, length, letters)."""
        places = nn.Embed(LENGTH, WIDTH, name="places")(jnp.arange(letters.shape[1]))
        x = nn.Embed(LETTERS, WIDTH, name="letters")(letters) + places
        for index in range(BLOCKS):
            x = Block(name=f"block_{index}")(x, nn.make_causal_mask(letters))
        return nn.Dense(LETTERS, name="head")(nn.LayerNorm(name="norm")(x))


def text(sequences: int = 32) -> np.ndarray:
    """Letters, (sequences, LENGTH + 1)."""
    random = np.random.RandomState(0)
    found = np.zeros((sequences, LENGTH + 1), np.int32)
    found[:, 0] = random.randint(LETTERS, size=sequences)
    for place in range(LENGTH):
        step = random.choice(3, size=sequences, p=[0.7, 0.2, 0.1])
        found[:, place + 1] = (5 * found[:, place] + 1 + step) % LETTERS
    return found


def initial() -> Any:
    """Flax's initial weights."""
    return GPT().init(jax.random.key(0), jnp.zeros((1, LENGTH), jnp.int32))["params"]


def train(params: Any, letters: np.ndarray, steps: int) -> list[float]:
    """The loss before each step on all sequences at once, in nats a letter."""
    # A module's type does not show which layer makes the output.
    head = {"head/kernel": NeuronDimensionNumbers((-1,), role="head")}
    dims = flax_neurons(GPT(), letters[:1, :-1], overrides=head)
    params = balance(params, dims)
    optimizer = nero(
        optax.linear_schedule(LEARNING_RATE, 0.0, steps), neuron_dimension_numbers=dims
    )

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        def loss(params: Any) -> jax.Array:
            scores = GPT().apply({"params": params}, letters[:, :-1])
            return optax.losses.softmax_cross_entropy_with_integer_labels(
                scores, letters[:, 1:]
            ).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = jax.jit(optimizer.init)(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses


if __name__ == "__main__":
    for number, loss in enumerate(train(initial(), text(), 300)):
        if number % 50 == 49:
            print(f"step {number + 1}: {loss:.3f} nats a letter")
