"""Dimension numbers from the types of modules: flax.linen, flax.nnx and equinox."""

from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from nero.optax import (
    NeuronDimensionNumbers,
    balance,
    equinox_neurons,
    flax_neurons,
    neuron_roles,
    nnx_neurons,
    register_neurons,
)
from nero.optax.neurons import keys, neurons_of

KEY = jax.random.key(0)
X = jnp.ones((2, 4))
IMAGES = jnp.ones((1, 6, 6, 4))
W = "weight"


def flat(tree: Any) -> dict[str, Any]:
    is_leaf = lambda x: isinstance(x, NeuronDimensionNumbers)  # noqa: E731
    leaves = jax.tree.leaves_with_path(tree, is_leaf=is_leaf)
    return {"/".join(map(str, keys(path))): leaf for path, leaf in leaves}


def neurons(dims: Any, params: Any) -> dict[str, tuple[str, int, int]]:
    """Role, number of neurons and fan-in of each parameter."""
    return {
        path: (each.numbers.role, each.layout.neurons, each.layout.fan_in)
        for path, each in zip(flat(params), neurons_of(dims, params), strict=True)
    }


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [
        (nn.Dense(3), X, {"kernel": (W, 3, 4), "bias": ("bias", 3, 1)}),
        (nn.DenseGeneral((2, 5)), X, {"kernel": (W, 10, 4), "bias": ("bias", 10, 1)}),
        (nn.DenseGeneral(3, axis=(-2, -1), use_bias=False), X[None], {"kernel": (W, 3, 8)}),
        (nn.Einsum((4, 2, 5), "...d,dhk->...hk", False), X, {"kernel": (W, 10, 4)}),
        (nn.Conv(6, (3, 3), use_bias=False), IMAGES, {"kernel": (W, 6, 36)}),
        (
            nn.Conv(6, (3, 3), feature_group_count=2, use_bias=False),
            IMAGES,
            {"kernel": (W, 6, 18)},
        ),
        (nn.ConvLocal(5, (3, 3), use_bias=False, padding="VALID"), IMAGES, {"kernel": (W, 80, 36)}),
        (nn.ConvTranspose(6, (2, 2), use_bias=False), IMAGES, {"kernel": (W, 6, 16)}),
        (
            nn.ConvTranspose(6, (2, 2), transpose_kernel=True, use_bias=False),
            IMAGES,
            {"kernel": (W, 6, 16)},
        ),
        (nn.Embed(7, 4), jnp.zeros(2, int), {"embedding": ("embedding", 7, 4)}),
        (nn.GroupNorm(2), X, {"scale": ("gain", 4, 1), "bias": ("bias", 4, 1)}),
        (nn.PReLU(), X, {"negative_slope": ("gain", 1, 1)}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_of_linen(layer: nn.Module, x: jax.Array, expected: Any) -> None:
    params = layer.init(KEY, x)["params"]
    assert neurons(flax_neurons(layer, x), params) == expected


class Block(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: Any = None) -> Any:
        x = x + nn.MultiHeadDotProductAttention(2, qkv_features=6)(nn.LayerNorm()(x))
        return x + nn.Dense(4)(nn.Dense(8)(x)), None


class Language(nn.Module):
    """A small model whose blocks are scanned over, with as many of them as it has channels."""

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = True) -> jax.Array:
        x = nn.Embed(11, 4)(tokens)
        blocks = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        x, _ = blocks()(x, None)
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(11, name="head")(x)


def test_scanned_layers() -> None:
    tokens = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    head = NeuronDimensionNumbers((-1,), role="head")
    dims = flax_neurons(Language(), tokens, overrides={"head/kernel": head})
    params = Language().init(KEY, jnp.zeros((2, 3), int), train=False)["params"]
    found = neurons(dims, params)
    scan = "ScanCheckpointBlock_0"
    attention = f"{scan}/MultiHeadDotProductAttention_0"
    assert found[f"{attention}/query/kernel"] == (W, 4 * 6, 4)
    assert found[f"{attention}/out/kernel"] == (W, 4 * 4, 6)
    assert found[f"{scan}/Dense_1/kernel"] == (W, 4 * 8, 4)
    assert found[f"{scan}/LayerNorm_0/scale"] == ("gain", 16, 1)
    assert found["Embed_0/embedding"] == ("embedding", 11, 4)
    assert found["head/kernel"] == ("head", 11, 4)
    assert flat(dims)[f"{attention}/query/kernel"].row_axes == 2
    assert neuron_roles(dims, params)["head"] == {"kernel": "head", "bias": "bias"}


class Parts(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 3, rngs=rngs)])
        self.attention = nnx.MultiHeadAttention(2, 4, 6, rngs=rngs)
        self.stack = nnx.vmap(lambda rngs: nnx.Linear(4, 4, rngs=rngs))(rngs.split(3))
        self.conv = nnx.Conv(4, 6, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(4, 6, (2, 2), transpose_kernel=True, rngs=rngs)
        self.cell = nnx.GRUCell(4, 5, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.lora = nnx.LoRA(4, 2, 5, rngs=rngs)


def test_nnx() -> None:
    model = Parts(nnx.Rngs(0))
    found = neurons(nnx_neurons(model), nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    assert found["embed/embedding"] == ("embedding", 7, 4)
    assert found["layers/0/kernel"] == (W, 3, 4)
    assert found["attention/query/kernel"] == (W, 6, 4)
    assert found["attention/query/bias"] == ("bias", 6, 1)
    assert found["attention/out/kernel"] == (W, 4, 6)
    assert found["stack/kernel"] == (W, 12, 4)
    assert found["conv/kernel"] == (W, 6, 36)
    assert found["up/kernel"] == (W, 6, 16)
    assert found["cell/dense_i/kernel"] == (W, 15, 4)
    assert found["norm/scale"] == ("gain", 4, 1)
    assert found["lora/lora_a"] == (W, 2, 4)


class Pieces(eqx.Module):
    mlp: eqx.nn.MLP
    conv: eqx.nn.Conv2d
    up: eqx.nn.ConvTranspose2d
    stack: eqx.nn.Linear
    cells: dict[str, Any]
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    embedding: eqx.nn.Embedding


def test_equinox() -> None:
    model = Pieces(
        eqx.nn.MLP(3, 2, 5, 1, key=KEY),
        eqx.nn.Conv2d(4, 6, 3, groups=2, key=KEY),
        eqx.nn.ConvTranspose2d(4, 6, 2, key=KEY),
        eqx.filter_vmap(lambda key: eqx.nn.Linear(3, 3, key=key))(jax.random.split(KEY, 5)),
        {"gru": eqx.nn.GRUCell(2, 3, key=KEY), "lstm": eqx.nn.LSTMCell(2, 3, key=KEY)},
        eqx.nn.MultiheadAttention(2, 4, key=KEY),
        eqx.nn.LayerNorm((2, 3)),
        eqx.nn.Embedding(7, 4, key=KEY),
    )
    dims = equinox_neurons(model)
    found = neurons(dims, eqx.filter(model, eqx.is_inexact_array))
    assert found["mlp/layers/1/weight"] == (W, 2, 5)
    assert found["conv/weight"] == (W, 6, 18)
    assert found["conv/bias"] == ("bias", 6, 1)
    assert found["up/weight"] == (W, 6, 16)
    assert found["stack/weight"] == (W, 15, 3)
    assert found["cells/gru/weight_ih"] == (W, 9, 2)
    assert found["attention/query_proj/weight"] == (W, 4, 4)
    assert found["norm/weight"] == ("gain", 6, 1)
    assert found["embedding/weight"] == ("embedding", 7, 4)
    assert dims["cells"]["lstm"]["weight_hh"].blocks == 4
    balanced = balance(eqx.filter(model, eqx.is_inexact_array), dims)
    norms = jnp.linalg.norm(balanced.mlp.layers[0].weight, axis=1)
    assert jnp.allclose(norms, 1, atol=1e-6)


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.param("mix", nn.initializers.normal(), (4, 3))


class Registered(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.param("mix", nn.initializers.normal(), (4, 3))


def test_unknown_owner() -> None:
    with pytest.raises(
        ValueError, match=r"'mix' of shape \(4, 3\) belongs to a .*\.Mixer"
    ) as error:
        flax_neurons(Mixer(), X)
    assert "nero.optax.register_neurons(" in str(error.value)
    numbers = NeuronDimensionNumbers((-1,))
    assert flax_neurons(Mixer(), X, overrides={"*": numbers}) == {"mix": numbers}
    with pytest.raises(ValueError, match="'kernel' matches no parameter; they are mix"):
        flax_neurons(Mixer(), X, overrides={"kernel": numbers})


def test_registered_owner_in_a_stack() -> None:
    register_neurons(Registered, "mix", NeuronDimensionNumbers((1,)))
    stack = nn.vmap(
        Registered,
        variable_axes={"params": 1},
        split_rngs={"params": True},
        in_axes=None,
        axis_size=5,
    )
    assert flax_neurons(stack(), X)["mix"].neuron_axes == (1, 2)
