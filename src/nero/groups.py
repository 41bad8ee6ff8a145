"""Parameter groups: their hyperparameters checked, and the layout of each of their tensors."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from nero.distributed.shards import is_dtensor, shards_of
from nero.geometry import neuron_mean, neuron_norm, working_dtype
from nero.neurons import AxisSpec, NeuronLayout, normalize_axes
from nero.rounding import ROUNDINGS, SEEDS, parameter_seed
from nero.state import Hyper, constraints

OPTIONS = (
    "lr",
    "beta",
    "center",
    "radius",
    "neuron_axes",
    "momentum",
    "nonfinite",
    "maximize",
    "foreach",
    "fused",
    "capturable",
    "rounding",
    "seed",
)
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
    for name in ("center", "maximize", "capturable"):
        if not isinstance(options[name], bool):
            raise TypeError(f"{name} must be True or False, got {options[name]!r}")
    for name in ("foreach", "fused"):
        if options[name] is not None and not isinstance(options[name], bool):
            raise TypeError(f"{name} must be None, True or False, got {options[name]!r}")
    if options["foreach"] and options["fused"]:
        raise ValueError("foreach and fused cannot both be True: choose one")


def check_group(group: Mapping[str, Any]) -> None:
    """Check a group's hyperparameters and that each of its tensors can be updated under them.

    Raises:
        ValueError: a hyperparameter out of its range, or axes that a tensor does not have.
        TypeError: a value of the wrong type, or a tensor that is not dense and floating-point.
    """
    check_hyperparameters(group)
    for index, p in enumerate(group["params"]):
        name = parameter_name(group, index)
        if p.layout != torch.strided:
            raise TypeError(f"{name} is sparse ({p.layout}); Nero updates dense tensors")
        if not p.is_floating_point():
            raise TypeError(f"{name} is {p.dtype}; Nero updates real floating-point tensors")
        try:
            layout = layout_of(p, group)
            if is_dtensor(p):
                shards_of(p, layout)
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
    return Hyper(**{name: group[name] for name in Hyper._fields})


def zero_average(p: Tensor) -> Tensor:
    """A running average of gradients before the first one, in the dtype that p is computed in."""
    return torch.zeros_like(p, dtype=working_dtype(p.dtype), memory_format=torch.preserve_format)


def own_radius(p: Tensor, layout: NeuronLayout, *, center: bool) -> Tensor:
    """The norm that each neuron has, which it is to keep under radius="initial".

    Zero where there is none to keep: for neurons of norm zero and, with `center`, those that are
    constant even after centring, which projections leave alone.
    """
    if not p.numel():
        return p.new_zeros(layout.neuron_shape, dtype=working_dtype(p.dtype))
    norm = neuron_norm(p, layout)
    drift = neuron_mean(p, layout).abs() * layout.fan_in**0.5 if center else 0 * norm
    return torch.where(torch.isfinite(norm) & (drift < norm / 2), norm, 0)


def new_seed(p: Tensor, group: Mapping[str, Any], group_index: int, index: int) -> Tensor:
    """The seed of a parameter's noise: by its group and its place in it, so alike on every rank."""
    device = p.device if group["capturable"] else "cpu"
    seed = parameter_seed(group["seed"], group_index, index)
    return torch.tensor(seed, dtype=torch.int64, device=device)


def complete_state(
    group_index: int,
    group: Mapping[str, Any],
    states: Mapping[Tensor, dict[str, Any]],
    position: int | None = None,
) -> None:
    """Give parameters the state of options that were switched on in the middle of a run.

    All parameters of the group, or the one at `position`.
    """
    initial = group["radius"] == "initial"
    if not group["momentum"] and group["rounding"] == "nearest" and not initial:
        return
    for index in range(len(group["params"])) if position is None else (position,):
        p = group["params"][index]
        state = states[p]
        if group["momentum"] > 0 and p.grad is not None and state.get("exp_avg") is None:
            state["exp_avg"] = zero_average(p)
        if initial and p.grad is not None and state.get("radius") is None:
            layout = layout_of(p, group)
            center, normalize = constraints(layout, group["center"], group["radius"])
            if normalize:
                state["radius"] = own_radius(p, layout, center=center)
        if group["rounding"] == "stochastic" and state.get("seed") is None:
            state["seed"] = new_seed(p, group, group_index, index)


@functools.cache
def _layout(shape: tuple[int, ...], neuron_axes: tuple[AxisSpec, ...]) -> NeuronLayout:
    return NeuronLayout(shape, neuron_axes)


def _check_lr(lr: Any) -> None:
    if isinstance(lr, Tensor):
        if lr.ndim or not lr.is_floating_point():
            raise ValueError(
                f"lr as a tensor must be floating-point with no axes, got {lr.dtype} of shape "
                f"{tuple(lr.shape)}"
            )
        if lr.device.type == "cpu" and not 0 <= lr < math.inf:
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


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
