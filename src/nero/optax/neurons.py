"""Which axes of which parameter count neurons: the dimension numbers of a tree of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nero.neurons import NeuronLayout, normalize_axes

ROLES = ("weight", "embedding", "head", "gain", "bias")
# Roles whose every entry is a neuron of its own, however many axes the tensor has.
PER_ENTRY_ROLES = ("gain", "bias")


@dataclass(frozen=True)
class NeuronDimensionNumbers:
    """Which axes of one parameter count neurons; all its other axes are fan-in.

    A leaf to JAX: trees of these have the shape of a tree of parameters, or of a prefix of one.

    Args:
        neuron_axes: as `nero.NeuronLayout` takes them: axes, or pairs `(axis, blocks)`. A dense
            kernel `(in, out)` has `(-1,)`, a convolution's `(height, width, in, out)` too, an
            embedding `(tokens, width)` has `(0,)`. Ignored for parameters with one axis or none.
        role: "weight" (default), "embedding", "head", "gain" or "bias". Each entry of a gain or
            bias is a neuron of its own, however many axes it has. Only weights are given
            orthogonal directions.
        blocks: how many equal pieces of the last neuron axis are matrices of their own, which
            orthogonal directions treat one by one: 3 for packed q, k and v. Default 1.
        row_axes: how many of the last entries of `neuron_axes` count the rows of one matrix
            together, the entries before them counting matrices. Default 1; 2 for an attention
            kernel `(in, heads, width)`, whose matrix has a row for each entry of each head.

    Raises:
        ValueError: an unknown role, or `blocks` or `row_axes` below 1.
        TypeError: axes of a wrong type.

    Examples:
        >>> from nero.optax import NeuronDimensionNumbers
        >>> NeuronDimensionNumbers((-1,)).layout((3, 3, 16, 32)).fan_in
        144
    """

    neuron_axes: Iterable[object]
    role: str = "weight"
    blocks: int = 1
    row_axes: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "neuron_axes", normalize_axes(self.neuron_axes))
        if self.role not in ROLES:
            raise ValueError(f"role must be one of {ROLES}, got {self.role!r}")
        for name in ("blocks", "row_axes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)!r}")

    def layout(self, shape: tuple[int, ...]) -> NeuronLayout:
        """The layout of a parameter of this shape."""
        if self.role in PER_ENTRY_ROLES:
            return NeuronLayout(shape, tuple(range(len(shape))))
        return NeuronLayout(shape, normalize_axes(self.neuron_axes))


DimensionNumbers = Any | Callable[[Any], Any]
"""A tree of `NeuronDimensionNumbers` like the parameters, a prefix of one (one alone holds for all
parameters), or a function from the parameters to such a tree."""


class Neurons(NamedTuple):
    """One parameter's neurons: what a transformation asks about it."""

    name: str
    layout: NeuronLayout
    numbers: NeuronDimensionNumbers


def neurons_of(neuron_dimension_numbers: DimensionNumbers, params: Any) -> list[Neurons]:
    """The neurons of each parameter, in the order of `jax.tree.leaves(params)`.

    Entries are found by the names on the way to them, so that the two trees need not be of the
    same types (a dict serves an `nnx.State`), and parameters that `optax.masked` took out of
    `params` may have theirs.

    Raises:
        ValueError: a parameter without an entry, or axes that it does not have.
        TypeError: an entry or a parameter of a wrong type.
    """
    found = {}
    for path, entry in jax.tree.leaves_with_path(_tree(neuron_dimension_numbers, params)):
        if not isinstance(entry, NeuronDimensionNumbers):
            raise TypeError(
                f"neuron_dimension_numbers{jax.tree_util.keystr(path)} must be a "
                f"NeuronDimensionNumbers, got {entry!r}"
            )
        found[keys(path)] = entry
    return [_neurons(found, path, p) for path, p in jax.tree.leaves_with_path(params)]


def neuron_roles(neuron_dimension_numbers: DimensionNumbers, params: Any) -> Any:
    """The role of each parameter, as a tree like `params`: labels for `optax.partition`.

    Args:
        neuron_dimension_numbers: as `nero.optax.nero` takes them.
        params: the parameters.

    Returns:
        A tree of strings.

    Raises:
        ValueError: a parameter without dimension numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from nero.optax import NeuronDimensionNumbers, neuron_roles
        >>> dims = {"emb": NeuronDimensionNumbers((0,), role="embedding")}
        >>> neuron_roles(dims, {"emb": jnp.zeros((10, 4))})
        {'emb': 'embedding'}
    """
    roles = [each.numbers.role for each in neurons_of(neuron_dimension_numbers, params)]
    return jax.tree.unflatten(jax.tree.structure(params), roles)


def keys(path: Iterable[Any]) -> tuple[Any, ...]:
    """The names and indices on the way to a leaf, whatever kinds of nodes lie there."""
    attributes = ("key", "name", "idx")
    return tuple(next(getattr(each, a) for a in attributes if hasattr(each, a)) for each in path)


def _tree(neuron_dimension_numbers: DimensionNumbers, params: Any) -> Any:
    # A tree may be callable too, such as an equinox module; a function is its own only leaf.
    is_leaf = jax.tree.leaves(neuron_dimension_numbers) == [neuron_dimension_numbers]
    if is_leaf and callable(neuron_dimension_numbers):
        return neuron_dimension_numbers(params)
    return neuron_dimension_numbers


def _neurons(found: dict[tuple[Any, ...], NeuronDimensionNumbers], path: Any, p: Any) -> Neurons:
    name, names = jax.tree_util.keystr(path), keys(path)
    shape, dtype = jnp.shape(p), jnp.result_type(p)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"parameter {name} is {dtype}; Nero updates real floating-point arrays: leave the "
            "others out, with optax.masked for example"
        )
    prefixes = (found.get(names[:length]) for length in range(len(names), -1, -1))
    numbers = next((each for each in prefixes if each is not None), None)
    if numbers is None:
        raise ValueError(
            f"parameter {name} of shape {shape} has no entry in neuron_dimension_numbers; which "
            "axes count neurons cannot be read from a shape: give it NeuronDimensionNumbers(...)"
        )
    try:
        return Neurons(name, numbers.layout(shape), numbers)
    except ValueError as error:
        raise ValueError(f"parameter {name}: {error}") from None
