"""nero.optax within optax, flax, equinox and orbax: what a gradient transformation has to bear."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from nero.optax import (
    balance,
    equinox_neurons,
    keep_neurons_balanced,
    nero,
    neuron_roles,
    nnx_neurons,
    scale_by_neuron_rms,
)
from with_jax.problems import (
    DIMS,
    X,
    Y,
    init,
    loss,
    off_balance,
    one_step,
    optimizer,
    parameters,
    train,
    update,
)


def assert_same(a: Any, b: Any, tolerance: float = 0) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def test_extra_arguments_are_accepted() -> None:
    params = parameters()
    tx = optax.with_extra_args_support(optimizer())
    state = init(tx, params)
    updates, _ = jax.jit(tx.update)(params, state, params, value=1.0)
    assert_same(updates, update(optimizer(), params, init(tx, params), params)[0])


def test_no_recompilation_and_donation() -> None:
    tx, traces = optimizer(learning_rate=optax.cosine_decay_schedule(0.02, 10)), []

    def step(params: Any, state: Any) -> Any:
        traces.append(1)
        return one_step(tx, params, state)

    params = parameters()
    expected = train(tx, params, 4)
    compiled = jax.jit(step, donate_argnums=(0, 1))
    carry = params, init(tx, params)
    for _ in range(4):
        carry = compiled(*carry)
    assert len(traces) == 1
    assert_same(carry, expected, 1e-6)


def test_scan() -> None:
    tx, params = optimizer(), parameters()
    step = lambda carry, _: (one_step(tx, *carry), None)  # noqa: E731
    carry, _ = jax.lax.scan(step, (params, init(tx, params)), length=5)
    assert_same(carry, train(tx, params, 5), 1e-5)


def test_vmap_over_an_ensemble() -> None:
    tx = optimizer(momentum=0.9)
    members = jax.jit(jax.vmap(parameters))(jnp.arange(3))
    state = jax.jit(jax.vmap(tx.init))(members)
    step = jax.jit(jax.vmap(lambda params, state: one_step(tx, params, state)))
    for _ in range(3):
        members, state = step(members, state)
    alone, _ = train(tx, parameters(2), 3)
    assert_same(jax.tree.map(lambda x: x[2], members), alone, 1e-5)


def test_multi_steps_is_a_larger_batch() -> None:
    tx = optax.MultiSteps(optimizer(), every_k_schedule=2)
    params = parameters()
    state = init(tx, params)
    halves = [jax.grad(lambda p, s=s: 2 * loss(p) * s)(params) for s in (0.25, 0.75)]
    new = params
    for g in halves:
        updates, state = update(tx, g, state, new)
        new = optax.apply_updates(new, updates)
    assert_same(new, train(optimizer(), params, 1)[0], 1e-5)


def test_apply_if_finite() -> None:
    tx = optax.apply_if_finite(optimizer(), max_consecutive_errors=3)
    params = parameters()
    state = init(tx, params)
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    updates, state = update(tx, bad, state, params)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    assert int(optax.tree.get(state, "skipped")) == 0
    assert int(state.total_notfinite) == 1


def test_masked_and_partition() -> None:
    """Each parameter is stepped as it would be alone, by paths that still fit."""
    params = parameters()
    only_hidden = {"hidden": {"kernel": True, "bias": True}, "out": False}
    masked = optax.masked(optimizer(), only_hidden)
    parts = optax.partition(
        {"weight": optimizer(), "bias": optax.sgd(0.1)}, lambda p: neuron_roles(DIMS, p)
    )
    g = jax.grad(loss)(params)
    whole, _ = update(optimizer(), g, init(optimizer(), params), params)
    found, _ = update(masked, g, init(masked, params), params)
    assert_same(found["hidden"], whole["hidden"])
    assert_same(found["out"], g["out"])
    found, _ = update(parts, g, init(parts, params), params)
    assert_same(found["hidden"]["kernel"], whole["hidden"]["kernel"])
    assert_same(found["hidden"]["bias"], -0.1 * g["hidden"]["bias"])


def test_inject_hyperparams() -> None:
    tx = optax.inject_hyperparams(nero)(
        learning_rate=optax.linear_schedule(0.02, 0.0, 10),
        neuron_dimension_numbers=DIMS,
        momentum=0.9,
        max_turn=2.0,
        radius=2.0,
    )
    params = balance(parameters(), DIMS, radius=2.0)
    found, state = train(tx, params, 5)
    schedule = optax.linear_schedule(0.02, 0.0, 10)
    plain = optimizer(learning_rate=schedule, momentum=0.9, max_turn=2.0, radius=2.0)
    assert_same(found, train(plain, params, 5)[0], 1e-5)
    assert float(state.hyperparams["learning_rate"]) == pytest.approx(0.012)
    assert set(state.hyperparams) == {"learning_rate", "beta", "momentum", "max_turn", "radius"}


def test_schedule_free() -> None:
    """Balanced where gradients are taken, with the projection around schedule-free's averages."""
    inner = optax.chain(
        scale_by_neuron_rms(neuron_dimension_numbers=DIMS), optax.scale_by_learning_rate(0.02)
    )
    tx = optax.chain(
        optax.contrib.schedule_free(inner, 0.02),
        keep_neurons_balanced(neuron_dimension_numbers=DIMS),
    )
    params, state = train(tx, parameters(), 60)
    assert off_balance(params) < 1e-6
    evaluated = optax.contrib.schedule_free_eval_params(state[0], params)
    start = float(loss(parameters()))
    assert float(loss(params)) < 0.8 * start
    assert float(loss(balance(evaluated, DIMS))) < 0.8 * start


def test_behind_another_optimizer() -> None:
    tx = optax.chain(optax.adam(0.01), keep_neurons_balanced(neuron_dimension_numbers=DIMS))
    params, _ = train(tx, parameters(), 30)
    assert off_balance(params) < 1e-6
    assert float(loss(params)) < float(loss(parameters()))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "radius": "initial"}], ids=str)
def test_orbax_resumes_to_the_last_bit(options: dict[str, Any], tmp_path: Path) -> None:
    tx = optimizer(**options)
    step = jax.jit(lambda params, state: one_step(tx, params, state))
    carry = parameters(), init(tx, parameters())
    for _ in range(3):
        carry = step(*carry)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "step", carry)
        checkpointer.wait_until_finished()
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, carry)
        restored = checkpointer.restore(tmp_path / "step", abstract)
    for _ in range(3):
        carry, restored = step(*carry), step(*restored)
    assert_same(restored, carry)


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden = nnx.Linear(8, 16, rngs=rngs)
        self.out = nnx.Linear(16, 1, use_bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(nnx.relu(self.hidden(x)))


def test_nnx_optimizer() -> None:
    model = Network(nnx.Rngs(0))
    dims = nnx_neurons(model)
    nnx.update(model, balance(nnx.state(model, nnx.Param), dims))
    optimizer = nnx.Optimizer(
        model, nero(0.02, neuron_dimension_numbers=dims, momentum=0.9), wrt=nnx.Param
    )

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer) -> jax.Array:
        value, grads = nnx.value_and_grad(lambda model: jnp.mean((model(X) - Y) ** 2))(model)
        optimizer.update(model, grads)
        return value

    losses = [float(step(model, optimizer)) for _ in range(40)]
    assert losses[-1] < 0.8 * losses[0]
    kernel = model.hidden.kernel[...]
    assert np.abs(kernel.sum(0)).max() < 1e-5
    np.testing.assert_allclose(jnp.linalg.norm(kernel, axis=0), 1, atol=1e-5)


def test_equinox_module() -> None:
    model = eqx.nn.MLP(8, 1, 16, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    dims = equinox_neurons(model)
    params = balance(params, dims)
    tx = nero(0.02, neuron_dimension_numbers=dims)

    @eqx.filter_jit
    def step(params: Any, state: Any) -> Any:
        def mse(params: Any) -> jax.Array:
            return jnp.mean((jax.vmap(eqx.combine(params, static))(X) - Y) ** 2)

        value, grads = jax.value_and_grad(mse)(params)
        updates, state = update(tx, grads, state, params)
        return eqx.apply_updates(params, updates), state, value

    state, losses = init(tx, params), []
    for _ in range(40):
        params, state, value = step(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.8 * losses[0]
