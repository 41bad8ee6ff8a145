"""Sharded over a mesh: the same numbers, and no more communication than the neurons need."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nero.optax import NeuronDimensionNumbers, balance, nero

DIMS = NeuronDimensionNumbers((-1,))
COLLECTIVE = re.compile(
    r"= (\(.*?\)|\S+) (all-reduce|all-gather|all-to-all|collective-permute)\S*\("
)


def collectives(compiled: Any) -> list[tuple[str, int]]:
    """Each kind of communication in a compiled program, and how many numbers each carries."""
    found = []
    for shapes, kind in COLLECTIVE.findall(compiled.as_text()):
        sizes = re.findall(r"\[([\d,]*)\]", shapes)
        found += [(kind, sum(int(np.prod([int(n or 1) for n in s.split(",")])) for s in sizes))]
    return found


@pytest.mark.parametrize("devices", [4, 8])
@pytest.mark.parametrize("axis", [0, 1], ids=["fan-in sharded", "neurons sharded"])
def test_sharded_step(axis: int, devices: int) -> None:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("model",))
    spec = PartitionSpec(*["model" if i == axis else None for i in range(2)])
    w = balance(jax.random.normal(jax.random.key(0), (32, 16)), DIMS)
    g = jax.random.normal(jax.random.key(1), (32, 16)).at[3, 5].set(jnp.nan)
    tx = nero(neuron_dimension_numbers=DIMS)

    @jax.jit
    def step(w: jax.Array, state: Any, g: jax.Array) -> Any:
        updates, state = tx.update(g, state, w)
        return optax.apply_updates(w, updates), state

    expected = step(w, tx.init(w), g)
    w, g = (jax.device_put(x, NamedSharding(mesh, spec)) for x in (w, g))
    state = jax.jit(tx.init)(w)
    compiled = step.lower(w, state, g).compile()
    new, new_state = compiled(w, state, g)
    assert new.sharding.spec == spec
    for found, value in zip(
        jax.tree.leaves((new, new_state)), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-6)
    carried = collectives(compiled)
    assert {kind for kind, _ in carried} == {"all-reduce"}
    if axis == 1:
        assert carried == [("all-reduce", 1)]  # the count of skipped neurons
    else:
        # One number per neuron each: the largest |g|, then the sums that the norm of g and the
        # new mean and norm are made of.
        assert sum(size for _, size in carried) <= 8 * 16
