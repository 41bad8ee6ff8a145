"""From the type of a module to what its parameters are: rows, looked up and added to.

Rows stand under a module type, or under a type's qualified name where the package that defines it
need not be installed. A subclass has the rows of its bases.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from nero.model.registry import peft, timm, torch_nn, torchvision, transformers
from nero.model.registry.rows import ROLES, AxesOf, BlocksOf, Row
from nero.neurons import normalize_axes

# Rows for types of other packages, which need not be installed: by package and, in it, by fnmatch
# pattern of "package.module.Class". The first that matches a parameter decides.
LIBRARIES = {
    "peft": peft.ROWS,
    "timm": timm.ROWS,
    "torchvision": torchvision.ROWS,
    "transformers": transformers.ROWS,
}
# What users have registered, by type or by pattern of qualified names; the latest comes first.
_user_rows: list[tuple[type[nn.Module] | str, Row]] = []


def register(
    module_type: type[nn.Module] | str,
    name: str,
    *,
    neuron_axes: Iterable[object] | AxesOf = (0,),
    role: str = "weight",
    blocks: int | BlocksOf = 1,
) -> None:
    """Say which entries of a module type's parameter make up a neuron.

    Subclasses of the type inherit it. It goes before every built-in row, and before what was
    registered earlier.

    Args:
        module_type: the type of the module that owns the parameter, or its qualified name
            ("package.module.Class"), which imports nothing and may be an fnmatch pattern.
        name: the parameter's attribute name in that module, or an fnmatch pattern ("weight_*").
            An entry of a ParameterList or ParameterDict is "list.0" in the module that holds it,
            and a parameter of one of its parts "part.weight".
        neuron_axes: the axes that count neurons, as `nero.NeuronLayout` takes them, or a
            function of (module, parameter) that returns them. Default (0,), a row per neuron.
            Ignored for gains and biases, where each entry is by itself.
        role: "weight" (the default), "embedding", "head", "gain" or "bias".
        blocks: how many layers lie packed in the last axis of neurons, as equal pieces, for
            `orthogonal=True`: 3 for q, k and v in one matrix. Or a function of (module, parameter)
            that returns it. Default 1.

    Raises:
        ValueError: an unknown role, or `blocks` below 1.
        TypeError: `module_type` is neither a module type nor a string, or axes of a wrong type.

    Examples:
        >>> import torch, nero
        >>> class Mixer(torch.nn.Module):  # y = x @ kernel
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.kernel = torch.nn.Parameter(torch.randn(8, 4))  # (in, out)
        >>> nero.register(Mixer, "kernel", neuron_axes=(1,))
        >>> nero.param_groups(Mixer())[0]["neuron_axes"]
        (1,)
    """
    if role not in ROLES:
        raise ValueError(f"role must be one of {ROLES}, got {role!r}")
    is_module = isinstance(module_type, type) and issubclass(module_type, nn.Module)
    if not is_module and not isinstance(module_type, str):
        raise TypeError(
            "module_type must be a subclass of torch.nn.Module or its qualified name, "
            f"got {module_type!r}"
        )
    if not callable(blocks) and blocks < 1:
        raise ValueError(f"blocks must be a positive integer, got {blocks!r}")
    axes = neuron_axes if callable(neuron_axes) else normalize_axes(neuron_axes)
    _user_rows.insert(0, (module_type, Row(name, role, axes, blocks)))
    _rows.cache_clear()


def find_row(module: nn.Module, name: str) -> Row | None:
    """The row of the parameter called `name` in `module`, or None where the registry has none."""
    return next((row for row in _rows(type(module)) if fnmatchcase(name, row.name)), None)


def find_part_row(whole: nn.Module, name: str) -> Row | None:
    """The row of `whole` for a parameter of one of its parts, such as "c_attn.weight"."""
    rows = (row for row in _rows(type(whole)) if "." in row.name)
    return next((row for row in rows if fnmatchcase(name, row.name)), None)


def qualified_name(module_type: type) -> str:
    """The name "package.module.Class", which strings given to `register` are matched with."""
    return f"{module_type.__module__}.{module_type.__qualname__}"


def own_type(module: nn.Module) -> type[nn.Module]:
    """The module's type, without the one that FSDP2's `fully_shard` has put before it."""
    bases = type(module).__bases__
    return bases[1] if bases[0].__name__ == "FSDPModule" and len(bases) == 2 else type(module)


@functools.lru_cache(maxsize=4096)
def _rows(module_type: type[nn.Module]) -> tuple[Row, ...]:
    """All rows of a type and its bases: the users' before the built-in, each nearest base first."""
    bases = [(base, qualified_name(base)) for base in module_type.__mro__]
    found = [
        row
        for base, called in bases
        for key, row in _user_rows
        if (fnmatchcase(called, key) if isinstance(key, str) else base is key)
    ]
    for base, called in bases:
        found += torch_nn.ROWS.get(base, ())
        library = LIBRARIES.get(called.partition(".")[0], {})
        found += [row for key, own in library.items() if fnmatchcase(called, key) for row in own]
    return tuple(found)
