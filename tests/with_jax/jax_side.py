"""nero.optax on `optax_problem`: `python tests/with_jax/jax_side.py` writes golden/from_jax.npz."""

import functools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nero.optax import NeuronDimensionNumbers, balance, nero
from nero.optax.directions import directions
from nero.optax.geometry import split

sys.path.insert(0, str(Path(__file__).parents[1]))
from optax_problem import (
    BLOCKS,
    CASES,
    DIRECTIONS,
    FROM_JAX,
    JAX_SEED,
    LOW_PRECISION,
    STEPS,
    TENSORS,
    flat,
    gradients,
    initial_weights,
    learning_rate,
)

DIMS = {
    name: NeuronDimensionNumbers(axes, blocks=BLOCKS.get(name, 1))
    for name, (_, axes) in TENSORS.items()
}


@functools.cache
def runner(case: str) -> tuple[optax.GradientTransformationExtraArgs, Any]:
    """The optimiser of a case, and all its steps as one compiled function."""
    rates = np.asarray([learning_rate(t) for t in range(1, STEPS + 1)])
    optimizer = nero(lambda t: jnp.asarray(rates)[t], neuron_dimension_numbers=DIMS, **CASES[case])

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    return optimizer, jax.jit(lambda carry, every: jax.lax.scan(step, carry, every)[0])


def run(seed: int, dtype: Any, case: str) -> dict[str, np.ndarray]:
    """Weights, running averages and skipped neurons after all steps."""
    options, (optimizer, train) = CASES[case], runner(case)
    kept = {name: options[name] for name in ("center", "radius") if name in options}
    params = {name: jnp.asarray(w, dtype) for name, w in initial_weights(seed).items()}
    params = balance(params, DIMS, **kept)
    stacked = jax.tree.map(lambda *g: jnp.asarray(np.stack(g), dtype), *gradients(seed))

    params, state = train((params, jax.jit(optimizer.init)(params)), stacked)
    return {
        "weights": flat({name: np.asarray(w, np.float64) for name, w in params.items()}),
        "rms": flat({name: np.asarray(v) for name, v in state[0].rms.items()}),
        "skipped": np.asarray(state[0].skipped),
    }


def orthogonal(seed: int) -> dict[str, np.ndarray]:
    """Orthogonal directions of the first gradients."""
    found = {}
    for name in DIRECTIONS:
        g = jnp.asarray(gradients(seed)[0][name])
        layout, blocks = DIMS[name].layout(g.shape), DIMS[name].blocks
        u = directions(split(g, layout), layout, center=True, blocks=blocks)
        found[name] = np.asarray(u).reshape(g.shape)
    return found


def results(seed: int) -> dict[str, np.ndarray]:
    """All cases: "case/weights" and so on."""
    found = {}
    with jax.enable_x64(True):
        for case in CASES:
            found |= {f"{case}/{k}": x for k, x in run(seed, jnp.float64, case).items()}
        found |= {f"directions/{name}": u for name, u in orthogonal(seed).items()}
    for case in LOW_PRECISION:
        made = run(seed, jnp.bfloat16, case)
        found |= {f"bfloat16, {case}/{k}": x for k, x in made.items()}
    return found


if __name__ == "__main__":
    np.savez_compressed(FROM_JAX, **results(JAX_SEED))
