"""The stage before the rule under `orthogonal=True`: directions take the place of gradients.

The running average of the gradient is kept here, so that what follows is a step without momentum
on a gradient whose neurons have norm 1, and every path takes it as it takes any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        if ours is None or (len(ours) + 1) * p.numel() > _most_entries(p):
            ours = open_stacks[key] = []
            stacks.append(ours)
        ours.append((p, g))
    return stacks, rest


def in_buckets(stacks: Sequence[Pairs]) -> list[list[Pairs]]:
    """Stacks in buckets, in their order: one pass of the rule for the directions of a bucket.

    Directions are in memory until that pass, so that those of several stacks together have a
    quarter of the entries that a stack may have at the most.
    """
    found: list[list[Pairs]] = []
    held = 0
    for pairs in stacks:
        entries = sum(p.numel() for p, _ in pairs)
        if not found or held + entries > _most_entries(pairs[0][0]) // 4:
            found.append([])
            held = 0
        found[-1].append(pairs)
        held += entries
    return found


def _most_entries(p: Tensor) -> int:
    return CPU_STACK if p.device.type == "cpu" else ACCELERATOR_STACK


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
    averages = [states[p]["exp_avg"] if group["momentum"] > 0 else None for p, _ in pairs]
    layouts = [layout_of(p, group) for p, _ in pairs]
    ahead = [look_ahead(g, m, group) for (_, g), m in zip(pairs, averages, strict=True)]
    found: Pairs = []
    directions = solve(ahead, layouts, group, pairs[0][0].dtype, owned=group["momentum"] > 0)
    for (p, g), m, u, layout in zip(pairs, averages, directions, layouts, strict=True):
        if m is not None:
            first = split_view(u, layout)  # entries, which say it of their neurons
            for axis in layout.fan_in_axes:
                first = first.narrow(axis, 0, 1)
            remember(split_view(m, layout), split_view(g, layout), first.isnan(), group)
        found.append((p, like(u, p)))
    return found


def look_ahead(g: Tensor, m: Tensor | None, group: Mapping[str, Any]) -> Tensor:
    """What directions are made of: a gradient, or what its running average is to become.

    That is the average with this gradient in it once more than `remember` will put it there, as
    Nesterov's momentum has it. Where the gradient is not finite, neither is this.

    Args:
        g: the gradient, or a shard of it.
        m: its running average as it is; None without momentum.
        group: of its parameter.
    """
    return g if m is None else m.lerp(g.to(m.dtype), 1 - group["momentum"] ** 2)


def remember(m: Tensor, g: Tensor, left_out: Tensor, group: Mapping[str, Any]) -> None:
    """Take a gradient into its running average, but for neurons for which it is not finite.

    Args:
        m: the average, or a shard of it.
        g: the gradient.
        left_out: where it is not finite, of shapes that broadcast.
        group: of their parameter.
    """
    g, weight = g.to(m.dtype), 1 - group["momentum"]
    if group["nonfinite"] == "propagate" or _none(left_out):
        m.lerp_(g, weight)
    else:
        torch.where(left_out, m, m.lerp(g, weight), out=m)


def _none(mask: Tensor) -> bool:
    """Whether a mask is known to be true nowhere: on CPU, where it costs no wait to ask."""
    asked = mask.device.type == "cpu" and not torch.compiler.is_compiling()
    return asked and not mask.any()


def solve(
    found: list[Tensor],
    layouts: Sequence[NeuronLayout],
    group: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    owned: bool,
) -> list[Tensor]:
    """The directions of tensors whose matrices have one shape.

    Args:
        found: what the directions are made of; emptied, so that its memory is free.
        layouts: of each.
        group: of their parameters.
        dtype: of their parameters.
        owned: whether `found` may be written over.

    Returns:
        Directions of the same shapes.
    """
    shapes = [x.shape for x in found]
    split = [split_view(x, each) for x, each in zip(found, layouts, strict=True)]
    found.clear()
    split = [x.to(working_dtype(dtype)) for x in split]
    strides = [x.stride() for x in split]
    matrices = [layers(x, each, group["blocks"]) for x, each in zip(split, layouts, strict=True)]
    split.clear()
    sizes = list(map(len, matrices))
    d = stack(matrices, copy=not owned)
    matrices.clear()
    center, _ = constraints(layouts[0], group["center"], group["radius"])
    directions_(d, center=center, dtype=products_dtype(d))
    return [
        from_layers(u, each, own).reshape(shape)
        for u, each, own, shape in zip(d.split(sizes), layouts, strides, shapes, strict=True)
    ]


def products_dtype(d: Tensor) -> torch.dtype:
    """The dtype in which a stack of matrices is multiplied."""
    if d.dtype == torch.float64 or min(d.shape[-2:]) < LARGE:
        return d.dtype
    fast = _FAST_CPU if d.device.type == "cpu" else d.device.type == "cuda"
    return torch.bfloat16 if fast else d.dtype


def like(u: Tensor, p: Tensor) -> Tensor:
    """Directions in the dtype and strides of their parameter."""
    u = u.to(p.dtype)
    return u if u.stride() == p.stride() else torch.empty_like(p).copy_(u)
