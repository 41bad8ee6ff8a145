"""Dimension numbers of a flax or equinox model, by the types of its modules.

The libraries are imported when their function is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nero.optax.neurons import NeuronDimensionNumbers, keys
from nero.optax.registry import numbers_of, overridden

Overrides = Mapping[str, NeuronDimensionNumbers] | None


def flax_neurons(
    model: Any, *args: Any, overrides: Overrides = None, rngs: Any = None, **kwargs: Any
) -> dict[str, Any]:
    """Dimension numbers of the parameters of a `flax.linen` model, by the types of its modules.

    Known are those of flax.linen with parameters, attention's and recurrent cells' among them,
    also under `nn.scan`, `nn.vmap` and `nn.remat`, and what `register_neurons` has added. Nothing
    is computed: the model's `init` is traced.

    Args:
        model: the module.
        *args: what its `init` takes after the random keys; arrays or `jax.ShapeDtypeStruct`s.
        overrides: dimension numbers by fnmatch pattern of parameter names such as
            "block_0/*/kernel", for parameters that no row of the registry describes or that have
            another role, such as the head; later patterns win.
        rngs: random keys for `init`, where it needs others than "params" and "dropout".
        **kwargs: what its `init` takes besides.

    Returns:
        Nested dicts like the "params" collection.

    Raises:
        ValueError: a parameter whose owner is not known (the message says how to register it), or
            a pattern that matches none.

    Examples:
        >>> import flax.linen as nn, jax.numpy as jnp
        >>> from nero.optax import flax_neurons
        >>> dims = flax_neurons(nn.Dense(3), jnp.zeros((1, 5)))
        >>> dims["kernel"].neuron_axes, dims["bias"].role
        ((1,), 'bias')
    """
    import flax.linen as nn

    owners: dict[tuple[str, ...], tuple[Any, dict[str, tuple[int, ...]]]] = {}

    def record(method: Any, given: Any, named: Any, context: Any) -> Any:
        result = method(*given, **named)
        module = context.module
        if module.scope is not None:
            own = nn.meta.unbox(module.variables.get("params", {}))
            shapes: dict[str, tuple[int, ...]] = {
                _joined(path): tuple(jnp.shape(x)) for path, x in jax.tree.leaves_with_path(own)
            }
            owners[module.path] = module, shapes
        return result

    def init() -> Any:
        key = jax.random.key(0)
        given = {"params": key, "dropout": key} if rngs is None else rngs
        concrete = jax.tree.map(_zeros, (args, kwargs))
        return model.init(given, *concrete[0], **concrete[1])

    with nn.intercept_methods(record):
        params = nn.meta.unbox(jax.eval_shape(init).get("params", {}))
    shapes = {keys(path): tuple(x.shape) for path, x in jax.tree.leaves_with_path(params)}
    given = overridden(overrides, ["/".join(path) for path in shapes])
    owner_of = {path: _longest(path, owners) for path in shapes}
    inner: dict[Any, tuple[int, ...]] = {
        path: owners[owner][1].get("/".join(path[len(owner) :]), shapes[path])
        for path, owner in owner_of.items()
    }
    axis = _stack_axis([(shapes[path], inner[path]) for path in shapes])
    found: dict[str, Any] = {}
    for path, shape in shapes.items():
        name, owner = "/".join(path), owner_of[path]
        numbers = given.get(name) or numbers_of(
            owners[owner][0],
            "/".join(path[len(owner) :]),
            name,
            shape,
            base_ndim=len(inner[path]),
            stacked=[axis] if len(shape) == len(inner[path]) + 1 else None,
        )
        _put(found, path, numbers)
    return found


def nnx_neurons(model: Any, *, overrides: Overrides = None) -> dict[Any, Any]:
    """Dimension numbers of the parameters of a `flax.nnx` model, by the types of its modules.

    Known are those of flax.nnx with parameters, also where `nnx.vmap` has stacked them along the
    first axis, and what `register_neurons` has added.

    Args:
        model: the module.
        overrides: as for `flax_neurons`.

    Returns:
        Nested dicts like `nnx.state(model, nnx.Param)`.

    Raises:
        ValueError: as `flax_neurons`.

    Examples:
        >>> from flax import nnx
        >>> from nero.optax import nnx_neurons
        >>> nnx_neurons(nnx.Linear(5, 3, rngs=nnx.Rngs(0)))["kernel"].neuron_axes
        (1,)
    """
    from flax import nnx

    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return _owned(model, state, nnx.Module, overrides)


def equinox_neurons(model: Any, *, overrides: Overrides = None) -> dict[Any, Any]:
    """Dimension numbers of the arrays of an equinox model, by the types of its modules.

    Known are those of `equinox.nn` with parameters, also where `equinox.filter_vmap` has stacked
    them along the first axis, and what `register_neurons` has added.

    Args:
        model: the module.
        overrides: as for `flax_neurons`.

    Returns:
        Nested dicts with the names on the way to each array of
        `equinox.filter(model, equinox.is_inexact_array)`.

    Raises:
        ValueError: as `flax_neurons`.

    Examples:
        >>> import equinox as eqx, jax
        >>> from nero.optax import equinox_neurons
        >>> model = eqx.nn.MLP(5, 3, 8, 1, key=jax.random.key(0))
        >>> equinox_neurons(model)["layers"][0]["weight"].neuron_axes
        (0,)
    """
    import equinox as eqx

    return _owned(model, eqx.filter(model, eqx.is_inexact_array), eqx.Module, overrides)


def _owned(model: Any, params: Any, module_type: type, overrides: Overrides) -> dict[Any, Any]:
    """Walk the way to each parameter; the last module on it owns the parameter."""
    leaves = [(keys(path), jnp.shape(p)) for path, p in jax.tree.leaves_with_path(params)]
    given = overridden(overrides, ["/".join(map(str, path)) for path, _ in leaves])
    found: dict[Any, Any] = {}
    for path, shape in leaves:
        node, owner, start = model, model, 0
        for depth, key in enumerate(path):
            if isinstance(node, module_type):
                owner, start = node, depth
            is_attribute = isinstance(key, str) and not isinstance(node, Mapping)
            node = getattr(node, key) if is_attribute else node[key]
        name, attribute = "/".join(map(str, path)), "/".join(map(str, path[start:]))
        _put(found, path, given.get(name) or numbers_of(owner, attribute, name, shape))
    return found


def _longest(path: tuple[str, ...], owners: Mapping[tuple[str, ...], Any]) -> tuple[str, ...]:
    return next(path[:n] for n in range(len(path) - 1, -1, -1) if path[:n] in owners)


def _stack_axis(shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> int:
    """The axis that `nn.scan` or `nn.vmap` has added, from shapes with it and without it.

    One parameter may fit several axes; all together nearly always leave one. Else it is the first
    that fits, axis 0 being flax's habit.
    """
    fits = [
        {axis for axis in range(len(outer)) if outer[:axis] + outer[axis + 1 :] == inner}
        for outer, inner in shapes
        if len(outer) == len(inner) + 1
    ]
    return min(set.intersection(*fits), default=0) if fits else 0


def _put(tree: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _joined(path: Any) -> str:
    return "/".join(map(str, keys(path)))


def _zeros(x: Any) -> Any:
    return jnp.zeros(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
