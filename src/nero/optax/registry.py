"""From the type of a flax or equinox module to the neurons of its parameters.

Rows stand under a type's qualified name, so that nothing here imports those libraries. A subclass
has the rows of its bases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from nero.optax.neurons import PER_ENTRY_ROLES, NeuronDimensionNumbers


class Row(NamedTuple):
    """One line of the registry, below the module type that it belongs to.

    Attributes:
        name: the parameter's attribute name, or an fnmatch pattern of it.
        numbers: its dimension numbers in one module, not counting the axes of a stack.
        ndim: how many axes it has in one module; None where that does not matter or is not known.
    """

    name: str
    numbers: NeuronDimensionNumbers
    ndim: int | None = None


Rows = Callable[[Any], Sequence[Row]]

GAIN = NeuronDimensionNumbers((), role="gain")
BIAS = NeuronDimensionNumbers((), role="bias")
BIASES = Row("bias*", BIAS)


def _rows(*rows: Row) -> Rows:
    return lambda module: rows


def _kernel(axes: Iterable[object], ndim: int, **more: Any) -> Row:
    return Row("kernel", NeuronDimensionNumbers(axes, **more), ndim)


def _dense_general(module: Any) -> Sequence[Row]:
    """(batch axes, inputs, outputs): flax.linen's; heads and their widths count rows together."""
    return _general(len(_many(module.batch_dims)), len(_many(module.axis)), _many(module.features))


def _linear_general(module: Any) -> Sequence[Row]:
    return _general(len(module.batch_axis), len(module.in_features), module.out_features)


def _general(batch: int, inputs: int, outputs: Sequence[int]) -> Sequence[Row]:
    ndim = batch + inputs + len(outputs)
    axes = (*range(batch), *range(batch + inputs, ndim))
    return _kernel(axes, ndim, row_axes=len(outputs)), BIASES


def _einsum(module: Any) -> Sequence[Row]:
    """An axis of the kernel that the output has counts neurons; one that it has not is summed."""
    if not module.einsum_str:
        return (BIASES,)
    operands, _, output = module.einsum_str.replace(" ", "").partition("->")
    letters = operands.partition(",")[2].replace("...", "")
    axes = tuple(axis for axis, letter in enumerate(letters) if letter in output)
    return _kernel(axes, len(letters)), BIASES


def _conv(module: Any) -> Sequence[Row]:
    """(spatial axes, in / groups, out)."""
    axes = len(_many(module.kernel_size)) + 2
    return _kernel((-1,), axes, blocks=module.feature_group_count), BIASES


def _conv_local(module: Any) -> Sequence[Row]:
    """(places, inputs, out): each place has a filter of its own for each output."""
    places = len(_many(module.kernel_size))
    return _kernel((*range(places), places + 1), places + 2), BIASES


def _conv_transpose(module: Any) -> Sequence[Row]:
    axis = -2 if module.transpose_kernel else -1
    return _kernel((axis,), len(_many(module.kernel_size)) + 2), BIASES


def _equinox_conv(module: Any) -> Sequence[Row]:
    """(out, in / groups, spatial axes), transposed or not."""
    numbers = NeuronDimensionNumbers((0,), blocks=module.groups)
    return Row("weight", numbers, module.num_spatial_dims + 2), BIASES


def _gates(count: int) -> Rows:
    """Gates are stacked along axis 0: each row of each gate is a neuron."""
    return _rows(Row("weight_*", NeuronDimensionNumbers((0,), blocks=count), 2), BIASES)


def _many(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


DENSE = _rows(_kernel((1,), 2), BIASES)
EMBED = _rows(Row("embedding", NeuronDimensionNumbers((0,), role="embedding"), 2))
# Of flax's WeightNorm the scales too, which are called "layer/kernel/scale".
NORM = _rows(Row("*scale", GAIN), BIASES)
PRELU = _rows(Row("negative_slope", GAIN))
EQUINOX_NORM = _rows(Row("weight", GAIN), BIASES)
LORA = _rows(Row("lora_[ab]", NeuronDimensionNumbers((1,)), 2))

BUILT_IN: dict[str, Rows] = {
    "flax.linen.linear.Dense": DENSE,
    "flax.linen.linear.DenseGeneral": _dense_general,
    "flax.linen.linear.Einsum": _einsum,
    "flax.linen.linear.Conv": _conv,
    "flax.linen.linear.ConvLocal": _conv_local,
    "flax.linen.linear.ConvTranspose": _conv_transpose,
    "flax.linen.linear.Embed": EMBED,
    "flax.linen.recurrent.DenseParams": DENSE,
    "flax.linen.activation.PReLU": PRELU,
    **{
        f"flax.{half}.normalization.{name}": NORM
        for half in ("linen", "nnx.nn")
        for name in ("BatchNorm", "GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "WeightNorm")
    },
    "flax.nnx.nn.linear.Linear": DENSE,
    "flax.nnx.nn.linear.LinearGeneral": _linear_general,
    "flax.nnx.nn.linear.Einsum": _einsum,
    "flax.nnx.nn.linear.Conv": _conv,
    "flax.nnx.nn.linear.ConvTranspose": _conv_transpose,
    "flax.nnx.nn.linear.Embed": EMBED,
    "flax.nnx.nn.lora.LoRA": LORA,
    "flax.nnx.nn.activations.PReLU": PRELU,
    "equinox.nn._linear.Linear": _rows(Row("weight", NeuronDimensionNumbers((0,)), 2), BIASES),
    "equinox.nn._conv.Conv": _equinox_conv,
    "equinox.nn._conv.ConvTranspose": _equinox_conv,
    "equinox.nn._embedding.Embedding": _rows(
        Row("weight", NeuronDimensionNumbers((0,), role="embedding"), 2)
    ),
    "equinox.nn._rnn.GRUCell": _gates(3),
    "equinox.nn._rnn.LSTMCell": _gates(4),
    "equinox.nn._weight_norm.WeightNorm": _rows(Row("g", GAIN)),
    **{
        f"equinox.nn._{name}": EQUINOX_NORM
        for name in (
            "batch_norm.BatchNorm",
            "normalisation.GroupNorm",
            "normalisation.LayerNorm",
            "normalisation.RMSNorm",
        )
    },
    "equinox.nn._activations.PReLU": PRELU,
}

# What users have registered; the latest comes first.
_user_rows: list[tuple[type | str, Row]] = []


def register_neurons(
    module_type: type | str,
    name: str,
    numbers: NeuronDimensionNumbers,
    *,
    ndim: int | None = None,
) -> None:
    """Say which entries of a module type's parameter make up a neuron.

    For `flax_neurons`, `nnx_neurons` and `equinox_neurons`. Subclasses of the type inherit it. It
    goes before every built-in row, and before what was registered earlier.

    Args:
        module_type: the type of the module that owns the parameter, or its qualified name
            ("package.module.Class"), which may be an fnmatch pattern.
        name: the parameter's attribute name in that module, or an fnmatch pattern. An entry of a
            list or dict is "list/0".
        numbers: its dimension numbers.
        ndim: how many axes the parameter has in one module. With it, further axes in front are
            taken to count modules, as `nnx.vmap` and `equinox.filter_vmap` make them; without it
            (None, the default) such stacks are not known. Not needed for flax.linen.

    Examples:
        >>> from nero.optax import NeuronDimensionNumbers, register_neurons
        >>> register_neurons("my_package.Mixer", "kernel", NeuronDimensionNumbers((-1,)), ndim=2)
    """
    _user_rows.insert(0, (module_type, Row(name, numbers, ndim)))


def numbers_of(
    module: Any,
    attribute: str,
    path: str,
    shape: tuple[int, ...],
    *,
    base_ndim: int | None = None,
    stacked: Sequence[int] | None = None,
) -> NeuronDimensionNumbers:
    """The dimension numbers of one parameter, from the module that owns it.

    Args:
        module: the owner.
        attribute: the parameter's name in it.
        path: its name in the model, for messages.
        shape: its shape.
        base_ndim: how many axes it has in one module, where that is known better than by the row.
        stacked: which axes count modules of a stack; None: those in front.

    Raises:
        ValueError: the registry has no row for it.
    """
    row = next((row for row in _rows_of(module) if fnmatchcase(attribute, row.name)), None)
    if row is None:
        called = qualified_name(type(module))
        raise ValueError(
            f"parameter {path!r} of shape {shape} belongs to a {called}, whose neurons are not "
            "known. Say which of its axes count neurons (output units), the others being fan-in:\n"
            f'    nero.optax.register_neurons("{called}", "{attribute}", '
            "NeuronDimensionNumbers((-1,)))\n"
            'with role="gain" where each entry is by itself, or "embedding" for vectors that are '
            f"looked up; or give it here alone: overrides={{{path!r}: NeuronDimensionNumbers(...)}}"
        )
    base = row.ndim if base_ndim is None else base_ndim
    extra = 0 if base is None else len(shape) - base
    if row.numbers.role in PER_ENTRY_ROLES or extra <= 0:
        return row.numbers
    stacked = range(extra) if stacked is None else stacked
    return _in_stack(row.numbers, len(shape), stacked)


def _in_stack(
    numbers: NeuronDimensionNumbers, ndim: int, stacked: Sequence[int]
) -> NeuronDimensionNumbers:
    """The numbers of a parameter that has the axes `stacked` besides, counting modules."""
    places = [axis for axis in range(ndim) if axis not in stacked]
    axes: list[object] = list(stacked)
    for entry in numbers.neuron_axes:
        if isinstance(entry, tuple):
            axes.append((places[entry[0]], entry[1]))
        elif isinstance(entry, int):
            axes.append(places[entry])
    return NeuronDimensionNumbers(axes, numbers.role, numbers.blocks, numbers.row_axes)


def overridden(
    overrides: Mapping[str, NeuronDimensionNumbers] | None, paths: Sequence[str]
) -> dict[str, NeuronDimensionNumbers]:
    """The overrides of each path; later patterns win.

    Raises:
        ValueError: a pattern that matches no path.
    """
    found = {}
    for pattern, numbers in (overrides or {}).items():
        matched = [path for path in paths if fnmatchcase(path, pattern)]
        if not matched:
            raise ValueError(
                f"overrides: {pattern!r} matches no parameter; they are {', '.join(paths)}"
            )
        found |= dict.fromkeys(matched, numbers)
    return found


def qualified_name(module_type: type) -> str:
    """The name "package.module.Class"."""
    return f"{module_type.__module__}.{module_type.__qualname__}"


def _rows_of(module: Any) -> list[Row]:
    """All rows of a module's type and its bases: the users' before the built-in."""
    bases = [(base, qualified_name(base)) for base in type(module).__mro__]
    found = [
        row
        for base, called in bases
        for key, row in _user_rows
        if (fnmatchcase(called, key) if isinstance(key, str) else base is key)
    ]
    for _, called in bases:
        if called in BUILT_IN:
            found += BUILT_IN[called](module)
    return found
