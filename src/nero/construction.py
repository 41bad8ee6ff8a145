"""What building an optimiser does to a parameter: its weights, and its state before a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from nero.distributed.shards import as_dtensor, distribute, full, is_dtensor
from nero.geometry import (
    TINY,
    centring_fills_zeros,
    neuron_mean,
    neuron_norm,
    project_,
    starts_at_zero,
    working_dtype,
)
from nero.groups import index_of, layout_of, parameter_name
from nero.neurons import NeuronLayout
from nero.rounding import parameter_seed
from nero.state import constraints

# Where a tensor's mean size is below the first number, the second stands for it. Of biases and
# gains it is the paper's sigma_b; of neurons the norm of a balanced one, so that a step of lr is
# to neurons that start at zero what it is to others.
ENTRY_SCALE = (TINY, 0.01)
NEURON_SCALE = (0.1, 1.0)
# What stands for the size of gains that start at zero but under preset "paper": that of most gains.
GAIN_SCALE = 1.0
# Of biases and gains whose steps follow their size: the outputs that they add to are of this size.
RELATIVE_SCALE = 1.0

FROM_ZERO = (
    "the weights start at (nearly) zero. They grow from there, each neuron by about lr a step, and "
    "are held to no norm. If they are yet to be loaded, build the optimizer after that"
)
FILLED = (
    "more than half of the weights are exactly 0, and centring fills them. Where they are to stay, "
    "as in a pruned layer, give its group center=False and mask its gradient"
)


def initial_state(p: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
    """The state of a parameter before its first step, measured from its weights as they are."""
    dtype = working_dtype(p.dtype)
    device = p.device if group["capturable"] else torch.device("cpu")
    layout = layout_of(p, group)
    norm = neuron_norm(p, layout) if p.numel() else p.new_zeros(layout.neuron_shape, dtype=dtype)
    state: dict[str, Any] = {
        "step": torch.zeros((), dtype=torch.float32, device=device),
        "rms": torch.zeros_like(norm),
        **measured(p, group),
    }
    if group["momentum"] > 0:
        state["exp_avg"] = zero_average(p)
    if grows_from_zero(p, group) and "radius" not in state:
        # By being there it says that the tensor's neurons are not held to the group's constraint.
        state["free"] = torch.ones((), dtype=torch.bool, device="cpu")
    return state


def fills_zeros(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether the group would centre a tensor and so fill its zeros, as of a pruned layer."""
    layout = layout_of(p, group)
    center, _ = constraints(layout, group["center"], group["radius"])
    return center and centring_fills_zeros(p, layout)


def grows_from_zero(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether a tensor that the group would hold to a norm starts without one.

    It would take the whole norm in its first step. Its neurons are free instead.
    """
    layout = layout_of(p, group)
    _, normalize = constraints(layout, group["center"], group["radius"])
    return normalize and starts_at_zero(p, layout)


def by_freedom(
    group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]], states: Mapping[Tensor, Any]
) -> list[tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]]:
    """Parameters with their gradients, in the group, and in a group without constraints.

    The second, if there are any, are those that have grown from zero.
    """
    free = [(p, g) for p, g in pairs if "free" in states[p]]
    if not free:
        return [(group, pairs)]
    held = [(p, g) for p, g in pairs if "free" not in states[p]]
    return [(group, held)] * bool(held) + [({**group, "center": False, "radius": None}, free)]


def measured(p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    """The part of a parameter's state that comes from its weights: `scale`, and own radii."""
    layout = layout_of(p, group)
    center, normalize = constraints(layout, group["center"], group["radius"])
    initial = normalize and group["radius"] == "initial"
    if normalize and not initial:
        return {"scale": torch.ones((), dtype=working_dtype(p.dtype), device=p.device)}
    scale = _scale(p, layout, group)
    if not initial:
        return {"scale": scale}
    return {"scale": scale, "radius": own_radius(p, layout, scale, center=center)}


def warn_of(
    applies: Callable[[Tensor, dict[str, Any]], bool],
    groups: list[dict[str, Any]],
    what: str,
) -> None:
    """Name the trained parameters of these groups that something applies to."""
    found = [
        parameter_name(group, index)
        for group in groups
        for index, p in enumerate(group["params"])
        if p.requires_grad and applies(p, group)
    ]
    if found:
        warnings.warn(f"{', '.join(found)}: {what}", stacklevel=3)


def project_parameter_(p: Tensor, group: Mapping[str, Any]) -> None:
    """Put a parameter on its constraint set; a neuron that keeps its own norm is centred at most.

    A frozen parameter stays as it is, and so does one that grows from zero.
    """
    if not p.requires_grad or grows_from_zero(p, group):
        return
    layout = layout_of(p, group)
    center, normalize = constraints(layout, group["center"], group["radius"])
    radius = None
    if normalize:
        radius = {"unit": 1.0, "initial": None}.get(group["radius"], group["radius"])
    project_(p, layout, center=center, radius=radius)


def _scale(p: Tensor, layout: NeuronLayout, group: Mapping[str, Any]) -> Tensor:
    """The mean norm of a tensor's neurons, or what stands for it where that is small."""
    if group["relative"] and layout.fan_in == 1:
        return torch.full((), RELATIVE_SCALE, dtype=working_dtype(p.dtype), device=p.device)
    least, instead = ENTRY_SCALE if layout.fan_in == 1 else NEURON_SCALE
    if group.get("role") == "gain" and group.get("preset", "paper") != "paper":
        instead = GAIN_SCALE
    if not p.numel():
        return torch.full((), instead, dtype=working_dtype(p.dtype), device=p.device)
    mean = full(neuron_norm(p, layout)).mean()
    return torch.where((mean >= least) & torch.isfinite(mean), mean, instead)


def zero_average(p: Tensor) -> Tensor:
    """A running average of gradients before the first one, in the dtype that p is computed in."""
    return torch.zeros_like(p, dtype=working_dtype(p.dtype), memory_format=torch.preserve_format)


def own_radius(p: Tensor, layout: NeuronLayout, scale: Tensor, *, center: bool) -> Tensor:
    """The norm that each neuron has, which it is to keep under radius="initial".

    Zero where there is none to keep: for neurons of (nearly) no norm and, with `center`, those
    that are constant even after centring, which projections leave alone.
    """
    if not p.numel():
        return p.new_zeros(layout.neuron_shape, dtype=working_dtype(p.dtype))
    norm, least = neuron_norm(p, layout), TINY * scale
    if is_dtensor(norm):
        from torch.distributed.tensor import Replicate

        mesh = as_dtensor(norm).device_mesh
        least = distribute(least, mesh, [Replicate()] * mesh.ndim)
    keeps = torch.isfinite(norm) & (norm > least)
    if center:
        keeps &= neuron_mean(p, layout).abs() * layout.fan_in**0.5 < norm / 2
    return torch.where(keeps, norm, 0)


def new_seed(p: Tensor, group: Mapping[str, Any], group_index: int, index: int) -> Tensor:
    """The seed of a parameter's noise: by its group and its place in it, so alike on every rank."""
    device = p.device if group["capturable"] else "cpu"
    seed = parameter_seed(group["seed"], group_index, index)
    return torch.tensor(seed, dtype=torch.int64, device=device)


def missing_state(
    p: Tensor,
    state: Mapping[str, Any],
    group: Mapping[str, Any],
    group_index: int,
    index: int | None = None,
) -> dict[str, Any]:
    """The state that a step of `p` needs and that is not there.

    All of it where there is none (it was frozen, or its state was deleted), and that of options
    that were switched on in the middle of a run. `index` is its place in the group, if it is known.
    """
    found = {} if state else initial_state(p, group)
    if state and group["momentum"] > 0 and state.get("exp_avg") is None:
        found["exp_avg"] = zero_average(p)
    if state and group["radius"] == "initial" and state.get("radius") is None:
        layout = layout_of(p, group)
        center, normalize = constraints(layout, group["center"], group["radius"])
        if normalize:
            found["radius"] = own_radius(p, layout, state["scale"], center=center)
    if group["rounding"] == "stochastic" and state.get("seed") is None:
        index = index_of(p, group) if index is None else index
        found["seed"] = new_seed(p, group, group_index, index)
    return found
