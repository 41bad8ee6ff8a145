"""A parameter group as the update paths of one process take it: plain tensors only.

The local parts of DTensors whose neurons are whole are tensors like any other: neurons do not know
that there are more of them elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nero.distributed.shards import as_dtensor, is_dtensor, local, shards_of, whole_blocks
from nero.distributed.sums import place_of
from nero.distributed.update import ShardedStep, sharded_step
from nero.groups import hyper_of, layout_of
from nero.neurons import AxisSpec
from nero.rounding import Place

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Pairs = list[tuple[Tensor, Tensor]]
States = dict[Tensor, dict[str, Any]]


class Key(NamedTuple):
    """What the tensors of a `LocalGroup` have in common besides their group.

    Attributes:
        mesh: their mesh; None for tensors that are not distributed.
        counts: whether this process counts their skipped neurons.
        axes: their `neuron_axes` here, where an axis may have fewer blocks than in the whole.
        blocks: their `blocks` here, where a part may have fewer than the whole.
    """

    mesh: DeviceMesh | None
    counts: bool
    axes: tuple[AxisSpec, ...]
    blocks: int = 1

    def home(self, count: Tensor) -> Any:
        """Where a count of theirs belongs."""
        return count.device if self.mesh is None else self.mesh


class LocalGroup(NamedTuple):
    """Plain tensors to be updated, with their gradients and state, and the group's options."""

    key: Key
    group: dict[str, Any]
    pairs: Pairs
    states: States
    places: dict[Tensor, Place]  # where parts of DTensors lie in the whole


def whole_group(group: dict[str, Any], pairs: Pairs, states: States) -> LocalGroup:
    """A group without DTensors as it is."""
    return LocalGroup(Key(None, True, group["neuron_axes"]), group, pairs, states, {})


def local_groups(
    group: dict[str, Any], pairs: Pairs, states: States, sharded: list[ShardedStep]
) -> list[LocalGroup]:
    """The parameters of a group, DTensors among them, by what their local parts have in common.

    Args:
        group: the group.
        pairs: its parameters that have a gradient, and their gradients.
        states: their state.
        sharded: receives the parameters whose neurons are sharded between processes.
    """
    found: dict[Key, LocalGroup] = {}
    hyper = hyper_of(group)
    for p, g in pairs:
        layout, state = layout_of(p, group), states[p]
        if not is_dtensor(p):
            key = Key(None, True, group["neuron_axes"], group["blocks"])
        else:
            shards = shards_of(p, layout)
            if shards.sharded and p.numel():
                sharded.append(sharded_step(p, g, state, layout, shards, hyper))
                continue
            blocks = whole_blocks(p, layout, group["blocks"]) if group["orthogonal"] else None
            key = Key(shards.mesh, shards.counts, shards.local_axes, blocks or 1)
            state = {name: local(value) for name, value in state.items()}
        if key not in found:
            options = {**group, "params": [], "neuron_axes": key.axes, "blocks": key.blocks}
            options.pop("param_names", None)
            found[key] = LocalGroup(key, options, [], {}, {})
        each = found[key]
        part = local(p)
        each.group["params"].append(part)
        each.pairs.append((part, local(g)))
        each.states[part] = state
        if is_dtensor(p):
            each.places[part] = place_of(layout, shards_of(p, layout))
    return list(found.values())


def gradient_of(p: Tensor) -> Tensor:
    """A parameter's gradient, placed as the parameter is.

    A DTensor's gradient that has other placements is redistributed, which communicates.
    """
    g = p.grad
    assert g is not None
    if not is_dtensor(p) or as_dtensor(g).placements == as_dtensor(p).placements:
        return g
    with torch.no_grad():
        return as_dtensor(g).redistribute(placements=as_dtensor(p).placements)
