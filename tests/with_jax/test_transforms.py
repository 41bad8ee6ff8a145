"""The parts of nero.optax.nero and what each promises, beyond the numbers of test_parity.py."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nero.optax import (
    NeuronDimensionNumbers,
    balance,
    keep_neurons_balanced,
    nero,
    scale_by_neuron_rms,
)
from with_jax.problems import DIMS, X, init, loss, off_balance, optimizer, parameters, train, update

ROWS = NeuronDimensionNumbers((0,))


def same(a: Any, b: Any, tolerance: float = 0) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        np.allclose(x, y, rtol=tolerance, atol=tolerance)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "radius": "initial"},
        {"center": False, "radius": None, "max_turn": 1.0},
        {"orthogonal": True, "momentum": 0.9},
        {"relative": True, "center": False, "radius": None},
    ],
    ids=str,
)
def test_it_is_the_chain_of_its_parts(options: dict[str, Any]) -> None:
    kept = {name: options[name] for name in ("center", "radius") if name in options}
    parts = optax.chain(
        scale_by_neuron_rms(neuron_dimension_numbers=DIMS, **options),
        optax.scale_by_learning_rate(optax.linear_schedule(0.02, 0, 30)),
        keep_neurons_balanced(neuron_dimension_numbers=DIMS, **kept),
    )
    whole = optimizer(learning_rate=optax.linear_schedule(0.02, 0, 30), **options)
    assert same(train(parts, parameters(), 20), train(whole, parameters(), 20), tolerance=1e-5)


def test_neurons_stay_balanced_and_turn_by_the_learning_rate() -> None:
    params, _ = train(optimizer(), parameters(), 50)
    assert off_balance(params) < 1e-6
    tx = optimizer(learning_rate=0.01)
    before = parameters()
    after, _ = train(tx, before, 1)
    cosine = (before["hidden"]["kernel"] * after["hidden"]["kernel"]).sum(0)
    angles = np.arccos(np.clip(cosine, -1, 1))
    # The part of a gradient along the neuron or its mean is projected away.
    assert (angles < 0.0101).all()
    assert np.median(angles) > 0.004


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_any_size_of_gradient(size: float) -> None:
    w = balance(jax.random.normal(jax.random.key(0), (3, 8)), ROWS)
    g = jax.random.normal(jax.random.key(1), (3, 8))
    tx = nero(neuron_dimension_numbers=ROWS)
    expected, _ = update(tx, g, init(tx, w), w)
    found, _ = update(tx, g * size, init(tx, w), w)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_what_does_not_move_keeps_every_bit() -> None:
    w = jax.random.normal(jax.random.key(0), (4, 8))  # not balanced
    tx = nero(neuron_dimension_numbers=ROWS)
    g = jnp.ones((4, 8)).at[0].set(0).at[1, 3].set(jnp.nan).at[2, 0].set(jnp.inf) * w
    updates, state = update(tx, g, init(tx, w), w)
    assert not np.any(updates[:3])
    assert np.any(updates[3])
    assert int(optax.tree.get(state, "skipped")) == 2
    assert np.isfinite(np.asarray(state[0].rms)).all()
    still = nero(0.0, neuron_dimension_numbers=ROWS)
    assert not np.any(update(still, w, init(still, w), w)[0])


def test_propagate() -> None:
    w = balance(jax.random.normal(jax.random.key(0), (2, 8)), ROWS)
    tx = nero(neuron_dimension_numbers=ROWS, nonfinite="propagate")
    updates, _ = update(tx, w.at[0, 0].set(jnp.nan), init(tx, w), w)
    assert np.isnan(updates[0]).all()
    assert np.isfinite(updates[1]).all()


def test_neurons_off_their_set_come_back() -> None:
    """Far-off weights lose digits of a norm that is computed as a difference; steps repair it."""
    w = jax.random.normal(jax.random.key(0), (5, 64))
    w = w + jnp.array([[0.0], [1.0], [30.0], [1e3], [0.0]])
    w = w.at[4].set(0.5)  # constant
    tx = nero(neuron_dimension_numbers=ROWS)
    state = init(tx, w)
    for seed in range(5):
        g = jax.random.normal(jax.random.key(seed), w.shape)
        updates, state = update(tx, g, state, w)
        w = w + updates
    assert np.isfinite(np.asarray(w)).all()
    near = np.abs(np.linalg.norm(w, axis=1) - 1) < 1e-5
    assert near[[0, 1, 2, 4]].all()


def test_neurons_that_cannot_be_projected() -> None:
    narrow = jnp.array([[3.0, 4.0]])
    assert balance(narrow, ROWS).tolist() == [[3.0, 4.0]]
    np.testing.assert_array_equal(balance(1e-4 * rows_of_four(), ROWS), 1e-4 * rows_of_four())
    rows = jnp.array([[0.0] * 4, [2.0] * 4, [jnp.nan, 1, 2, 3], [1.0, 2, 3, 4]])
    balanced = balance(rows, ROWS)
    np.testing.assert_array_equal(balanced[:3], rows[:3])
    assert abs(float(jnp.linalg.norm(balanced[3])) - 1) < 1e-6
    np.testing.assert_array_equal(balance(balanced, ROWS), balanced)


def rows_of_four() -> jax.Array:
    return jnp.array([[1.0, 2, 3, 4], [4.0, 0, -1, 2]])


@pytest.mark.parametrize("radius", ["unit", "initial", None])
def test_what_starts_at_zero_grows(radius: Any) -> None:
    """As an adapter's second matrix: held to no norm, by about the learning rate a step."""
    tx = nero(0.01, neuron_dimension_numbers=ROWS, radius=radius)
    w, g = jnp.zeros((2, 4)), rows_of_four()
    state = init(tx, w)
    for _ in range(3):
        updates, state = update(tx, g - g.mean(1, keepdims=True), state, w)
        w = w + updates
    np.testing.assert_allclose(jnp.linalg.norm(w, axis=1), 0.03, rtol=1e-5)


def test_cap() -> None:
    """A neuron that first sees a gradient late would turn by 1 / sqrt(1 - beta) learning rates."""
    w = balance(jax.random.normal(jax.random.key(0), (1, 64)), ROWS)
    turned = {}
    for cap in (None, 1.0):
        tx = scale_by_neuron_rms(neuron_dimension_numbers=ROWS, max_turn=cap)
        state = init(tx, w)
        for _ in range(200):
            _, state = update(tx, 0 * w, state)
        u, _ = update(tx, w, state)
        turned[cap] = float(jnp.linalg.norm(u))
    assert turned[None] > 10
    assert turned[1.0] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes(dtype: Any) -> None:
    params = parameters(dtype=dtype)
    tx = optimizer(momentum=0.9, radius="initial")
    state = init(tx, params)
    updates, new = update(tx, jax.grad(loss)(params), state, params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    types = {x.dtype for x in jax.tree.leaves(new)}
    assert types == {jnp.dtype(jnp.float32), jnp.dtype(jnp.int32)}
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )


def test_state_is_small() -> None:
    w = {"kernel": jnp.zeros((512, 64))}
    state = nero(neuron_dimension_numbers=NeuronDimensionNumbers((-1,))).init(w)
    assert sum(x.size for x in jax.tree.leaves(state)) == 64 + 4  # scale, radius, two counts


@pytest.mark.parametrize(
    "dims",
    [
        NeuronDimensionNumbers((-1,)),
        {"hidden": NeuronDimensionNumbers((-1,)), "out": NeuronDimensionNumbers((-1,))},
        lambda params: jax.tree.map(lambda _: NeuronDimensionNumbers((-1,)), params),
    ],
    ids=["one", "prefix", "function"],
)
def test_ways_to_give_dimension_numbers(dims: Any) -> None:
    found = train(optimizer(neuron_dimension_numbers=dims), parameters(), 3)
    assert same(found, train(optimizer(), parameters(), 3))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta": 1.0}, ValueError, r"beta must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, ValueError, "momentum must be in"),
        ({"radius": "big"}, ValueError, 'radius must be "unit", "initial", a positive float'),
        ({"radius": 0.0}, ValueError, "radius must be"),
        ({"max_turn": 0}, ValueError, "max_turn must be positive"),
        ({"nonfinite": "raise"}, ValueError, "optax.apply_if_finite"),
        ({"nonfinite": "ignore"}, ValueError, "nonfinite must be one of"),
        ({"center": 1}, TypeError, "center must be True or False"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimizer(**options)


@pytest.mark.parametrize(
    ("dims", "params", "error", "message"),
    [
        ({}, {"w": jnp.ones((2, 3))}, ValueError, r"\['w'\] of shape \(2, 3\) has no entry"),
        ({"w": None}, {"w": jnp.ones((2, 3))}, ValueError, "has no entry"),
        ({"w": (0,)}, {"w": jnp.ones((2, 3))}, TypeError, "must be a NeuronDimensionNumbers"),
        (ROWS, {"w": jnp.ones((2, 3), int)}, TypeError, r"\['w'\] is int"),
        (NeuronDimensionNumbers((2,)), {"w": jnp.ones((2, 3))}, ValueError, r"\['w'\]: .*axis 2"),
    ],
)
def test_wrong_dimension_numbers(
    dims: Any, params: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        nero(neuron_dimension_numbers=dims).init(params)


def test_parameters_are_needed() -> None:
    tx = optimizer()
    params = parameters()
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        update(tx, params, init(tx, params))
    tx = scale_by_neuron_rms(neuron_dimension_numbers=DIMS, relative=True)
    with pytest.raises(ValueError, match=r"call update\(updates, state, params\)"):
        update(tx, params, init(tx, params))


def test_outputs_of_size_1000_are_learnt_at_an_ordinary_rate() -> None:
    def error(**head: Any) -> float:
        tx = optax.partition(
            {
                "body": optimizer(learning_rate=0.03),
                "head": optimizer(learning_rate=0.03, center=False, **head),
            },
            {"hidden": "body", "out": "head"},
        )

        def far(params: Any) -> jax.Array:
            hidden = jax.nn.relu(X @ params["hidden"]["kernel"] + params["hidden"]["bias"])
            return jnp.mean(jnp.square(hidden @ params["out"] - 1000 * jnp.abs(X[:, :1])))

        def step(carry: Any, _: Any) -> Any:
            updates, state = tx.update(jax.grad(far)(carry[0]), carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        params = parameters()
        carry = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=300)[0])(params)
        return float(far(carry[0]) / far(params))

    assert error(radius=None, relative=True) < 0.2
    assert error(radius=None) > 0.8


def test_wrong_numbers() -> None:
    with pytest.raises(ValueError, match="role must be one of"):
        NeuronDimensionNumbers((0,), role="neuron")
    with pytest.raises(ValueError, match="blocks must be at least 1"):
        NeuronDimensionNumbers((0,), blocks=0)
    tx = nero(neuron_dimension_numbers=NeuronDimensionNumbers((0,), blocks=2), orthogonal=True)
    w = jnp.ones((3, 4))
    with pytest.raises(ValueError, match="blocks 2 does not divide the 3 rows"):
        update(tx, w, init(tx, w), w)
