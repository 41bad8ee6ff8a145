"""nero.optax does what nero.Nero does: weights, running averages and counts after 100 steps."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optax_problem import CASES, FROM_JAX, FROM_TORCH, JAX_SEED, LOW_PRECISION, TORCH_SEED
from with_jax.jax_side import orthogonal, run

# Both sides do the same arithmetic in another order.
FLOAT64_TOLERANCE = 1e-10
# A weight at the middle between two bfloat16 numbers may go either way, and is then followed by
# gradients that do not depend on it.
BFLOAT16_TOLERANCE = 2**-7


@functools.cache
def stored(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("path", "seed"),
    [
        pytest.param(FROM_TORCH, TORCH_SEED, id="what torch computed"),
        pytest.param(FROM_JAX, JAX_SEED, id="what the torch side is tested against"),
    ],
)
@pytest.mark.parametrize("case", CASES)
def test_float64(case: str, path: Path, seed: int) -> None:
    with jax.enable_x64(True):
        found = run(seed, jnp.float64, case)
    for name, value in found.items():
        expected = stored(path)[f"{case}/{name}"]
        np.testing.assert_allclose(value, expected, rtol=FLOAT64_TOLERANCE, atol=FLOAT64_TOLERANCE)


def test_orthogonal_directions() -> None:
    with jax.enable_x64(True):
        found = orthogonal(TORCH_SEED)
    for name, value in found.items():
        np.testing.assert_allclose(value, stored(FROM_TORCH)[f"directions/{name}"], atol=1e-10)


@pytest.mark.parametrize("case", LOW_PRECISION)
def test_bfloat16(case: str) -> None:
    found = run(TORCH_SEED, jnp.bfloat16, case)
    expected = {name: stored(FROM_TORCH)[f"bfloat16, {case}/{name}"] for name in found}
    np.testing.assert_allclose(found["weights"], expected["weights"], atol=BFLOAT16_TOLERANCE)
    np.testing.assert_allclose(found["rms"], expected["rms"], rtol=1e-5)
    assert found["skipped"] == expected["skipped"]
