"""Loading state: everything is checked before anything changes, and state keeps its dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nero.construction import new_seed
from nero.distributed.shards import (
    as_dtensor,
    distribute,
    full,
    is_dtensor,
    local,
    shards_of,
)
from nero.geometry import working_dtype
from nero.groups import check_hyperparameters, layout_of, parameter_name
from nero.neurons import NeuronLayout, normalize_axes
from nero.rounding import SEEDS
from nero.state import constraints

# State of which a parameter has one number, the same in every process.
PER_TENSOR = ("step", "scale", "seed", "free")


@dataclass
class FittedState:
    """A parameter's loaded state in its final dtype and place.

    torch casts the state tensors it finds to the parameter's dtype, which would round the state
    of a bfloat16 parameter to bfloat16; what it cannot look into it passes on as it is.
    """

    state: dict[str, Any]


def fit_state_dict(state_dict: Mapping[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """`state_dict` completed and checked against the parameter groups that are to receive it.

    Hyperparameters that it does not carry keep the values that the groups have.

    Raises:
        ValueError: state that does not fit, with the parameter's name; nothing has changed then.
    """
    saved_groups, saved_state = _parts(state_dict)
    sizes = [len(group["params"]) for group in groups]
    saved_sizes = [len(group["params"]) for group in saved_groups]
    if sizes != saved_sizes:
        raise ValueError(
            f"the loaded state is for groups of {saved_sizes} parameters, this optimizer has "
            f"groups of {sizes}"
        )
    fitted_groups: list[dict[str, Any]] = []
    fitted_state: dict[Any, Any] = dict(saved_state)
    for group_index, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        fitted = {**group, **saved, "params": group["params"]}
        fitted["neuron_axes"] = normalize_axes(fitted["neuron_axes"])
        check_hyperparameters(fitted)
        for index, key in enumerate(saved["params"]):
            state = saved_state.get(key)
            if not state:  # as of a frozen parameter; a step makes what it needs
                fitted_state.pop(key, None)
                continue
            state = _fit_parameter(state, fitted, index)
            if fitted["rounding"] == "stochastic" and "seed" not in state:
                state["seed"] = new_seed(fitted["params"][index], fitted, group_index, index)
            fitted_state[key] = FittedState(state)
        fitted_groups.append({**fitted, "params": saved["params"]})
    return {**state_dict, "state": fitted_state, "param_groups": fitted_groups}


def _parts(
    state_dict: Mapping[str, Any],
) -> tuple[list[Mapping[str, Any]], Mapping[Any, Mapping[str, Any]]]:
    """The groups and the state of a state dict, once it is known to be one."""
    wrong = "not the state dict of an optimizer: "
    for key, kind in (("param_groups", list), ("state", Mapping)):
        if not isinstance(state_dict.get(key), kind):
            raise ValueError(f"{wrong}its {key!r} is {_called(state_dict.get(key))}")
    groups, state = state_dict["param_groups"], state_dict["state"]
    for index, group in enumerate(groups):
        if not isinstance(group, Mapping) or not isinstance(group.get("params"), list):
            raise ValueError(f"{wrong}its group {index} is no dict with a list of 'params'")
    keys = [key for group in groups for key in group["params"]]
    try:
        twice = len(set(keys)) < len(keys)
    except TypeError:
        raise ValueError(f"{wrong}its 'params' hold what cannot be a key") from None
    if twice:
        raise ValueError(f"{wrong}a parameter is in it twice")
    for key in keys:
        if not isinstance(state.get(key, {}), Mapping):
            raise ValueError(f"{wrong}the state of {key!r} is {_called(state[key])}")
    return groups, state


def _called(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


def _fit_parameter(
    saved: Mapping[str, Any], group: Mapping[str, Any], index: int
) -> dict[str, Any]:
    p, name = group["params"][index], parameter_name(group, index)
    try:
        layout = layout_of(p, group)
    except ValueError as error:
        raise ValueError(f"the loaded state does not fit {name}: {error}") from None
    _, normalize = constraints(layout, group["center"], group["radius"])
    shapes = {"step": (), "rms": layout.neuron_shape, "scale": ()}
    if normalize and group["radius"] == "initial":
        shapes["radius"] = layout.neuron_shape
    missing = [key for key in shapes if key not in saved]
    if missing:
        raise ValueError(
            f"the loaded state of {name} lacks {', '.join(missing)}; it holds "
            f"{sorted(map(str, saved))}"
        )
    shapes |= {
        k: s for k, s in (("exp_avg", tuple(p.shape)), ("seed", ()), ("free", ())) if k in saved
    }
    state = dict(saved)
    for key, shape in shapes.items():
        try:
            value = torch.as_tensor(saved[key])
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"the loaded state {key!r} of {name} must be a tensor of shape {shape}, got "
                f"{saved[key]!r}"
            ) from None
        if tuple(value.shape) != shape:
            raise ValueError(
                f"the loaded state {key!r} of {name} has shape {tuple(value.shape)}, but "
                f"neuron_axes {group['neuron_axes']} want {shape}"
            )
        if wrong := _out_of_range(key, value):
            raise ValueError(f"the loaded state {key!r} of {name} {wrong}")
        try:
            value = _spread(value, p, key, layout)
        except ValueError as error:
            raise ValueError(f"the loaded state {key!r} of {name} {error}") from None
        state[key] = _placed(value, p, key, group["capturable"])
    return state


def _out_of_range(key: str, value: Tensor) -> str:
    """What is wrong with the numbers of a state, with which the next step would write NaN."""
    x = local(value)
    if key == "free":  # says all by being there
        return ""
    if x.dtype == torch.bool or x.is_complex() or (key == "seed" and x.is_floating_point()):
        return f"is {x.dtype}"
    if x.is_meta:
        return "is on the meta device, without numbers"
    if not torch.isfinite(x).all():
        return "holds NaN or infinity"
    if key != "exp_avg" and (x < 0).any():
        return "holds a negative number"
    if key == "seed" and x >= SEEDS:
        return f"is {int(x)}; seeds are in [0, 2**32)"
    return ""


def _spread(value: Tensor, p: Tensor, key: str, layout: NeuronLayout) -> Tensor:
    """A whole tensor, or a DTensor on the parameter's mesh, as the state of a DTensor lies."""
    if not is_dtensor(p):
        if is_dtensor(value):
            raise ValueError(
                "is a DTensor, the parameter is not: load it with torch.distributed.checkpoint, "
                "which gathers what was saved in parts, or save full_tensor() of it"
            )
        return value
    if key in PER_TENSOR:
        return full(value)
    mesh = as_dtensor(p).device_mesh
    placements = as_dtensor(p).placements
    if key != "exp_avg":
        placements = shards_of(p, layout).placements
    if not is_dtensor(value):
        return distribute(value, mesh, placements)
    if as_dtensor(value).device_mesh != mesh:
        raise ValueError(
            f"is on {as_dtensor(value).device_mesh}, the parameter on {mesh}: load it with "
            "torch.distributed.checkpoint, which reads what was saved on another mesh"
        )
    return as_dtensor(value).redistribute(placements=placements)


def _placed(value: Tensor, p: Tensor, key: str, capturable: bool) -> Tensor:
    if key == "free":
        return value.to("cpu", torch.bool, copy=True)
    if key in ("step", "seed"):
        device = p.device if capturable else "cpu"
        return value.to(device, torch.float32 if key == "step" else torch.int64, copy=True)
    return value.to(p.device, working_dtype(p.dtype), copy=True)
