"""nero.Nero against what nero.optax computed, and what its tests are given against nero.Nero.

Neither needs JAX: both are stored, by `with_jax/jax_side.py` and `torch_side.py`.
"""

from pathlib import Path

import numpy as np
import pytest

from optax_problem import FROM_JAX, FROM_TORCH, JAX_SEED, TORCH_SEED
from torch_side import results
from torch_training import losses
from training_problem import FROM_TORCH as TRAINING_FROM_TORCH


@pytest.mark.parametrize(
    ("path", "seed"),
    [
        pytest.param(FROM_JAX, JAX_SEED, id="what JAX computed"),
        pytest.param(FROM_TORCH, TORCH_SEED, id="what the JAX side is tested against"),
    ],
)
def test_the_stored_results(path: Path, seed: int) -> None:
    with np.load(path) as file:
        expected = dict(file)
    found = results(seed)
    assert found.keys() == expected.keys(), "write both files anew"
    for name, value in found.items():
        # A weight at the middle between two bfloat16 numbers may go either way.
        tolerance = 1e-10
        if name.startswith("bfloat16"):
            tolerance = 2**-7 if name.endswith("weights") else 1e-5
        np.testing.assert_allclose(
            value, expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_the_stored_losses() -> None:
    found = losses()
    with np.load(TRAINING_FROM_TORCH) as file:
        assert set(file) == set(found)
        for name, value in found.items():
            # Processors round otherwise, and a training is chaotic on its way: the end is what the
            # JAX side is held to.
            np.testing.assert_allclose(value, file[name], rtol=0.05, err_msg=name)
            np.testing.assert_allclose(value[-1], file[name][-1], rtol=0.01, err_msg=name)
