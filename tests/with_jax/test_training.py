"""The examples train, and as torch does: the same networks from the same weights and data."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from training_problem import (
    FROM_TORCH,
    GPT,
    GPT_STEPS,
    MLP,
    MLP_STEPS,
    initial,
    regression,
    sequences,
)

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # flax looks up the module of a class
    spec.loader.exec_module(module)
    return module


def nested(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *way, last = path.split("/")
        node = tree
        for key in way:
            node = node.setdefault(key, {})
        node[last] = jnp.asarray(value)
    return tree


def assert_as_torch(losses: list[float], name: str) -> None:
    expected = np.load(FROM_TORCH)[name]
    np.testing.assert_allclose(losses[0], expected[0], rtol=1e-5)  # one network and its data
    np.testing.assert_allclose(losses[-1], expected[-1], rtol=0.01)
    assert losses[-1] < 0.5 * losses[0]


def test_flax_gpt() -> None:
    module = example("flax_gpt")
    assert_as_torch(module.train(nested(initial(GPT)), sequences(), GPT_STEPS), "gpt")


def test_equinox_mlp() -> None:
    module = example("equinox_mlp")
    weights = initial(MLP)
    model = module.initial()
    places = [(index, name) for index in range(3) for name in ("weight", "bias")]
    model = eqx.tree_at(
        lambda m: [getattr(m.layers[index], name) for index, name in places],
        model,
        [jnp.asarray(weights[f"layers/{index}/{name}"]) for index, name in places],
    )
    assert_as_torch(module.train(model, *regression(), MLP_STEPS), "mlp")


def test_examples_make_their_own_data() -> None:
    gpt, mlp = example("flax_gpt"), example("equinox_mlp")
    assert gpt.train(gpt.initial(), gpt.text(4), 2)[0] > 0
    assert mlp.train(mlp.initial(), *mlp.data(8), 2)[0] > 0
