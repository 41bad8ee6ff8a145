"""`orthogonal=True` of layers that are sharded over processes.

Each layer is made whole in one process, which finds its directions as for a layer of its own, and
its shards of those come back: an exchange each way for all layers of a step that lie over the same
processes. What follows is a step as ever: parts with whole neurons take their kernels, and sharded
neurons add up their sums. Running averages stay sharded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.directions import layer_shape
from nero.distributed.exchange import Sharing, from_owners, owners, sharing_of, to_owners
from nero.distributed.local import Pairs
from nero.distributed.shards import is_dtensor, local, whole_blocks
from nero.groups import layout_of, parameter_name
from nero.step.orthogonal import is_directed, like, look_ahead, remember, solve, split_directed


class ExchangedLayers(NamedTuple):
    """Sharded layers of one group, with their gradients and state."""

    group: Mapping[str, Any]
    pairs: Pairs
    states: Mapping[Tensor, Mapping[str, Any]]


class _Layer(NamedTuple):
    """One of them, as this process has it."""

    group: Mapping[str, Any]
    p: Tensor
    g: Tensor  # this process's part, and so is `m`
    m: Tensor | None
    sharing: Sharing

    @property
    def cost(self) -> float:
        """Products of a gradient with itself; what else is done is in proportion."""
        layout, blocks = layout_of(self.p, self.group), self.group["blocks"]
        rows, columns = layer_shape(layout, blocks)
        return float(self.p.numel() * min(rows, columns))


def is_exchanged(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether a parameter is of layers that no process holds whole."""
    if not group["orthogonal"] or not is_dtensor(p):
        return False
    layout = layout_of(p, group)
    return is_directed(p, layout) and whole_blocks(p, layout, group["blocks"]) is None


def check_everywhere(groups: Sequence[Mapping[str, Any]], position: int | None = None) -> None:
    """See that processes that exchange layers have gradients of the same ones.

    They would wait for each other for ever. Takes one all-reduce of 4 bytes a parameter, and waits
    for the device; groups that are `capturable`, whose step may not wait, are not asked.

    Args:
        groups: the groups of a step.
        position: the one parameter of each to look at; None for all.

    Raises:
        RuntimeError: some have one and others do not, in all of them, with the parameter's name.
    """
    asked: dict[str, tuple[Any, list[Tensor], list[str]]] = {}
    for group in groups:
        if not group["orthogonal"] or group["capturable"]:
            continue
        for index, p in enumerate(group["params"]):
            if position in (None, index) and is_exchanged(p, group):
                processes = sharing_of(p).group
                _, params, names = asked.setdefault(processes.group_name, (processes, [], []))
                params.append(p)
                names.append(parameter_name(group, index))
    for processes, params, names in asked.values():
        has = torch.tensor([p.grad is not None for p in params], dtype=torch.int32)
        has = has.to(local(params[0]).device)
        torch.distributed.all_reduce(has, group=processes)
        size = torch.distributed.get_world_size(processes)
        missing = [
            f"{name} in {count} of {size}"
            for name, count in zip(names, has.tolist(), strict=True)
            if 0 < count < size
        ]
        if missing:
            raise RuntimeError(
                f"processes that share a layer with orthogonal=True must all have its gradient or "
                f"none, and there is one of {', '.join(missing)}; no weight was changed"
            )


def exchanged_directions(steps: Sequence[ExchangedLayers]) -> list[Pairs]:
    """The parameters of each, with this process's part of their directions as gradients.

    Updates running averages. To be called in all processes alike.
    """
    together: dict[Any, list[_Layer]] = {}
    for group, pairs, states in steps:
        for p, g in pairs:
            m = local(states[p]["exp_avg"]) if group["momentum"] > 0 else None
            layer = _Layer(group, p, local(g), m, sharing_of(p))
            dtype = layer.g.dtype if m is None else m.dtype
            key = (layer.sharing.group.group_name, dtype, p.dtype)
            together.setdefault(key, []).append(layer)
    found: dict[Tensor, Tensor] = {}
    for layers in together.values():
        found.update(_exchange(layers))
    return [[(p, found[p]) for p, _ in step.pairs] for step in steps]


def _exchange(layers: list[_Layer]) -> Pairs:
    """This process's part of the directions of layers that travel together, as `_Layer.p` lie."""
    sharings = [layer.sharing for layer in layers]
    owner = owners([layer.cost for layer in layers], len(sharings[0].parts))
    ahead = [look_ahead(layer.g, layer.m, layer.group) for layer in layers]
    wholes = to_owners(ahead, sharings, owner)
    ahead.clear()
    for stack in _stacks(wholes, layers):
        _solve_(wholes, [(i, layers[i]) for i in stack])
    shards = from_owners(wholes, local(layers[0].p), sharings, owner)
    found: Pairs = []
    for layer, u in zip(layers, shards, strict=True):
        if layer.m is not None:
            remember(layer.m, layer.g, u.isnan(), layer.group)
        found.append((layer.p, like(u, local(layer.p))))
    return found


def _stacks(wholes: Mapping[int, Tensor], layers: Sequence[_Layer]) -> list[list[int]]:
    """The places of this process's layers, by stacks of matrices of one shape and one group."""
    found: list[list[int]] = []
    for group in {id(layers[i].group): layers[i].group for i in wholes}.values():
        place = {wholes[i]: i for i in wholes if layers[i].group is group}
        stacks, _ = split_directed([(x, x) for x in place], group)
        found += [[place[x] for x, _ in stack] for stack in stacks]
    return found


def _solve_(wholes: dict[int, Tensor], stack: Sequence[tuple[int, _Layer]]) -> None:
    """Put the directions of a stack in the place of what they are made of."""
    group, dtype = stack[0][1].group, stack[0][1].p.dtype
    layouts = [layout_of(layer.p, group) for _, layer in stack]
    found = [wholes.pop(i) for i, _ in stack]
    for (i, _), u in zip(stack, solve(found, layouts, group, dtype, owned=True), strict=True):
        wholes[i] = u.to(dtype)
