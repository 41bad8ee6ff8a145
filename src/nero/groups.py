"""Parameter groups: their hyperparameters checked, and the layout of each of their tensors."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nero.directions import layer_shape
from nero.distributed.shards import is_dtensor, local, shards_of
from nero.neurons import AxisSpec, NeuronLayout, normalize_axes
from nero.rounding import ROUNDINGS, SEEDS
from nero.state import Hyper

OPTIONS = (
    "lr",
    "beta",
    "center",
    "radius",
    "relative",
    "neuron_axes",
    "momentum",
    "orthogonal",
    "blocks",
    "max_turn",
    "nonfinite",
    "maximize",
    "foreach",
    "fused",
    "capturable",
    "rounding",
    "seed",
)
# What frameworks and schedulers of learning rates keep in groups, and what param_groups adds.
FOREIGN_KEYS = (
    *(
        "params",
        "param_names",
        "role",
        "preset",
        "name",
        "names",
        "group_name",
        "layer",
        "layer_id",
    ),
    *("initial_lr", "base_lr", "max_lr", "min_lr", "swa_lr", "lr_scale", "lr_mult"),
    *("max_momentum", "base_momentum", "weight_decay"),
)
# What an optimizer has that was pickled before there were these options.
NEWER = {"orthogonal": False, "blocks": 1, "relative": False}
RADII = ("unit", "initial")
NONFINITE = ("skip", "raise", "propagate")


def check_hyperparameters(options: Mapping[str, Any]) -> None:
    """Raise ValueError or TypeError, naming the argument, if one is out of its range."""
    _check_lr(options["lr"])
    for name in ("beta", "momentum"):
        value = options[name]
        if not _is_number(value):
            raise TypeError(f"{name} must be a float in [0, 1), got {value!r}")
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    _check_radius(options["radius"])
    _check_direction(options)
    normalize_axes(options["neuron_axes"])
    if options["nonfinite"] not in NONFINITE:
        raise ValueError(f"nonfinite must be one of {NONFINITE}, got {options['nonfinite']!r}")
    if options["rounding"] not in ROUNDINGS:
        raise ValueError(f"rounding must be one of {ROUNDINGS}, got {options['rounding']!r}")
    seed = options["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be an integer in [0, 2**32), got {seed!r}")
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be in [0, 2**32), got {seed!r}")
    for name in ("center", "relative", "orthogonal", "maximize", "capturable"):
        if not isinstance(options[name], bool):
            raise TypeError(f"{name} must be True or False, got {options[name]!r}")
    for name in ("foreach", "fused"):
        if options[name] is not None and not isinstance(options[name], bool):
            raise TypeError(f"{name} must be None, True or False, got {options[name]!r}")
    if options["foreach"] and options["fused"]:
        raise ValueError("foreach and fused cannot both be True: choose one")


def check_keys(group: Mapping[str, Any]) -> None:
    """Raise ValueError for an option of a group that would do nothing.

    A key that Nero does not know, and a weight decay other than 0.
    """
    for key in group:
        if key not in OPTIONS and key not in FOREIGN_KEYS:
            close = difflib.get_close_matches(str(key), OPTIONS)
            hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
            raise ValueError(
                f"no option of a parameter group is called {key!r}; {hint}"
                f"Nero's are {', '.join(OPTIONS)}"
            )
    check_weight_decay(group.get("weight_decay", 0))


def check_weight_decay(weight_decay: Any) -> None:
    """Raise ValueError unless it is 0."""
    if weight_decay:
        raise ValueError(
            f"weight_decay={weight_decay!r}, but Nero has none: the norms of neurons are fixed, so "
            "there is nothing to decay. Leave it out, or pass 0"
        )


def inherited_constraint(groups: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """`center` and `radius` of a group that gives neither, beside these groups.

    Where the others are of the preset "finetune", or some keep their initial norms and none is
    projected, the model is a trained one, and so are weights that come later. Else the group takes
    the defaults.
    """
    groups = list(groups)
    of_neurons = [group for group in groups if any(p.ndim > 1 for p in group["params"])]
    kept = [group for group in of_neurons if group["radius"] == "initial"]
    if kept and all(group["radius"] in (None, "initial") for group in of_neurons):
        return {name: kept[0][name] for name in ("center", "radius")}
    if any(group.get("preset") == "finetune" for group in groups):
        return {"center": False, "radius": "initial"}
    return {}


def name_alike(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where some groups have names and others not, call the parameters of those after their places.

    torch wants all with names or all without. "2.0" is the first parameter of the third group.

    Returns:
        The groups that were given names.
    """
    unnamed = {i: group for i, group in enumerate(groups) if not _has_names(group)}
    if len(unnamed) == len(groups):
        return []
    for i, group in unnamed.items():
        group["param_names"] = [f"{i}.{j}" for j in range(len(group["params"]))]
    return list(unnamed.values())


def _has_names(group: Mapping[str, Any]) -> bool:
    return "param_names" in group or any(isinstance(p, tuple) for p in group["params"])


def check_group(group: Mapping[str, Any]) -> None:
    """Check a group's hyperparameters and that each of its tensors can be updated under them.

    Raises:
        ValueError: a hyperparameter out of its range, or axes that a tensor does not have.
        TypeError: a value of the wrong type, or a tensor that is not dense and floating-point.
    """
    check_hyperparameters(group)
    for index, p in enumerate(group["params"]):
        if not p.requires_grad:  # it may be of any kind
            continue
        name = parameter_name(group, index)
        if getattr(p, "_fsdp_flattened", False):  # FSDP1 marks them so
            raise TypeError(
                f"{name} is, or is a piece of, many parameters in one vector, as FSDP1 makes them: "
                "its neurons are lost. Shard with torch.distributed.fsdp.fully_shard instead"
            )
        if p.layout != torch.strided:
            raise TypeError(f"{name} is sparse ({p.layout}); Nero updates dense tensors")
        if not p.is_floating_point():
            raise TypeError(f"{name} is {p.dtype}; Nero updates real floating-point tensors")
        try:
            layout = layout_of(p, group)
            if is_dtensor(p):
                shards_of(p, layout)
            if group["orthogonal"] and p.ndim > 1:
                layer_shape(layout, group["blocks"])  # raises where blocks do not divide it
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def parameter_name(group: Mapping[str, Any], index: int) -> str:
    """How messages call a parameter: by its name where it has one, and by its shape."""
    names = group.get("param_names")
    called = repr(names[index]) if names else str(index)
    return f"parameter {called} of shape {tuple(group['params'][index].shape)}"


def layout_of(p: Tensor, group: Mapping[str, Any]) -> NeuronLayout:
    """The layout of a tensor under the group's `neuron_axes`, a tuple by now."""
    return _layout(p.shape, group["neuron_axes"])


def hyper_of(group: Mapping[str, Any]) -> Hyper:
    """The hyperparameters that the update paths take, as they are now."""
    hyper = Hyper(**{name: group[name] for name in Hyper._fields})
    lr = hyper.lr
    return hyper._replace(lr=lr.view(())) if isinstance(lr, Tensor) and lr.ndim else hyper


def check_options_again(group: Mapping[str, Any]) -> None:
    """Check a group's hyperparameters as `check_hyperparameters`: they may have been edited since.

    Where a step may be captured, the number in a learning rate that is a tensor is not read.

    Raises:
        ValueError: an option out of its range, or missing.
        TypeError: one of the wrong type; `neuron_axes` that are no tuple.
    """
    if missing := [name for name in OPTIONS if name not in group]:
        raise ValueError(f"the parameter group lacks {', '.join(missing)}")
    _check_lr(group["lr"], read=not group["capturable"])
    axes = group["neuron_axes"]
    if not isinstance(axes, tuple) or normalize_axes(axes) != axes:
        raise TypeError(f"neuron_axes of a group must be a tuple such as (0,), got {axes!r}")
    others = tuple((name, group[name]) for name in OPTIONS if name != "lr")
    try:
        _check_once(others)
    except TypeError:  # one that is wrong, or cannot be hashed, which is wrong too
        check_hyperparameters(group)
        raise


@functools.lru_cache(maxsize=1024)
def _check_once(options: tuple[tuple[str, Any], ...]) -> None:
    check_hyperparameters({"lr": 0.0, **dict(options)})


def index_of(p: Tensor, group: Mapping[str, Any]) -> int:
    """Which of a group's parameters it is, or is the local part of."""
    return next(i for i, q in enumerate(group["params"]) if q is p or local(q) is p)


@functools.cache
def _layout(shape: tuple[int, ...], neuron_axes: tuple[AxisSpec, ...]) -> NeuronLayout:
    return NeuronLayout(shape, neuron_axes)


def _check_lr(lr: Any, *, read: bool = True) -> None:
    if isinstance(lr, Tensor):
        if lr.numel() != 1 or not lr.is_floating_point():
            raise ValueError(
                f"lr as a tensor must be one floating-point number, got {lr.dtype} of shape "
                f"{tuple(lr.shape)}"
            )
        if read and lr.device.type == "cpu" and not 0 <= lr < math.inf:
            raise ValueError(f"lr must be at least 0 and finite, got {lr!r}")
    elif not _is_number(lr):
        raise TypeError(f"lr must be a float or a 0-d tensor, got {lr!r}")
    elif not 0 <= lr < math.inf:
        raise ValueError(f"lr must be at least 0 and finite, got {lr!r}")


def _check_radius(radius: Any) -> None:
    allowed = 'must be "unit", "initial", a positive float or None'
    if isinstance(radius, str):
        if radius not in RADII:
            raise ValueError(f"radius {allowed}, got {radius!r}")
    elif radius is not None:
        if not _is_number(radius):
            raise TypeError(f"radius {allowed}, got {radius!r}")
        if not 0 < radius < math.inf:
            raise ValueError(f"radius {allowed}, got {radius!r}")


def _check_direction(options: Mapping[str, Any]) -> None:
    """Check what `nero.directions` and the cap are given."""
    blocks, max_turn = options["blocks"], options["max_turn"]
    if not isinstance(blocks, int) or isinstance(blocks, bool):
        raise TypeError(f"blocks must be a positive integer, got {blocks!r}")
    if blocks < 1:
        raise ValueError(f"blocks must be a positive integer, got {blocks!r}")
    if max_turn is not None:
        if not _is_number(max_turn):
            raise TypeError(f"max_turn must be a positive float or None, got {max_turn!r}")
        if not 0 < max_turn < math.inf:
            raise ValueError(f"max_turn must be positive and finite, or None, got {max_turn!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
