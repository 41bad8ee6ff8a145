"""The stage before the rule under `orthogonal=True`: directions take the place of gradients.

The running average of the gradient is kept here, so that what follows is a step without momentum
on a gradient whose neurons have norm 1, and every path takes it as it takes any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nero.directions import directions_, from_layers, layer_shape, layers, stack
from nero.distributed.local import Pairs
from nero.geometry import split_view, working_dtype
from nero.groups import layout_of
from nero.neurons import NeuronLayout
from nero.state import constraints

# Entries of the matrices that are multiplied together. Large ones keep a processor busy alone.
CPU_STACK = 2**21
ACCELERATOR_STACK = 2**26
# From this size of a matrix's shorter side on, products in bfloat16 save more than rounding costs.
LARGE = 128
# What multiplies bfloat16 as fast as float32, or faster; elsewhere it is emulated, slowly.
_FAST_CPU = torch.backends.cpu.get_cpu_capability() == "AVX512"


def is_directed(p: Tensor, layout: NeuronLayout) -> bool:
    """Whether the stage is for this tensor: one of neurons, not of single entries."""
    return p.ndim > 1 and layout.fan_in > 1 and p.numel() > 0


def after_directions(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group as the rule takes it, once there are directions."""
    return {**group, "orthogonal": False, "momentum": 0.0}


def split_directed(pairs: Pairs, group: Mapping[str, Any]) -> tuple[list[Pairs], Pairs]:
    """Parameters with their gradients, by stacks of matrices of one shape; and all others."""
    stacks: list[Pairs] = []
    rest: Pairs = []
    open_stacks: dict[Any, Pairs] = {}
    for p, g in pairs:
        if not (group["orthogonal"] and is_directed(p, layout_of(p, group))):
            rest.append((p, g))
            continue
        shape = layer_shape(layout_of(p, group), group["blocks"])
        key = (shape, p.dtype, p.device)
        ours = open_stacks.get(key)
        most = CPU_STACK if p.device.type == "cpu" else ACCELERATOR_STACK
        if ours is None or (len(ours) + 1) * p.numel() > most:
            ours = open_stacks[key] = []
            stacks.append(ours)
        ours.append((p, g))
    return stacks, rest


def directed(
    pairs: Pairs, states: Mapping[Tensor, Mapping[str, Any]], group: Mapping[str, Any]
) -> Pairs:
    """The parameters of a stack, with their directions as gradients; updates running averages.

    Args:
        pairs: a stack of `split_directed`.
        states: of its parameters, with `exp_avg` where the group has momentum; that is updated.
        group: their group.

    Returns:
        The parameters and their directions, each like its parameter in dtype and strides.
    """
    found: list[Tensor] = []
    for p, g in pairs:
        layout = layout_of(p, group)
        g = split_view(g, layout).to(working_dtype(p.dtype))
        if group["momentum"] > 0:
            m = split_view(states[p]["exp_avg"], layout)
            g = _look_ahead(g, m, layout, group)
        found.append(layers(g, layout, group["blocks"]))
        del g
    sizes = [len(matrices) for matrices in found]
    d = stack(found)
    found.clear()
    center, _ = constraints(layout_of(pairs[0][0], group), group["center"], group["radius"])
    directions_(d, center=center, dtype=products_dtype(d))
    parts = d.split(sizes)
    return [(p, _like(u, p, layout_of(p, group))) for (p, _), u in zip(pairs, parts, strict=True)]


def products_dtype(d: Tensor) -> torch.dtype:
    """The dtype in which a stack of matrices is multiplied."""
    if d.dtype == torch.float64 or min(d.shape[-2:]) < LARGE:
        return d.dtype
    fast = _FAST_CPU if d.device.type == "cpu" else d.device.type == "cuda"
    return torch.bfloat16 if fast else d.dtype


def _look_ahead(g: Tensor, m: Tensor, layout: NeuronLayout, group: Mapping[str, Any]) -> Tensor:
    """Update a running average; return what it would be if this gradient came once more."""
    momentum, seen = group["momentum"], g
    if group["nonfinite"] != "propagate":
        peak = torch.linalg.vector_norm(g, math.inf, dim=layout.fan_in_axes, keepdim=True)
        seen = torch.where(torch.isfinite(peak), g, m)
    m.lerp_(seen, 1 - momentum)
    return g.lerp(m, momentum)  # not finite where g is not: the rule skips those neurons


def _like(u: Tensor, p: Tensor, layout: NeuronLayout) -> Tensor:
    u = from_layers(u, layout).to(p.dtype).reshape(p.shape)
    return u if u.stride() == p.stride() else torch.empty_like(p).copy_(u)
