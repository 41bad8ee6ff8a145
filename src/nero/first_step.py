"""What is looked at before a step: that state belongs to the weights that are there by now.

Weights may be loaded, materialised or moved between building the optimiser and its first step, and
parameters or their state may be exchanged, deleted or zeroed at any time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from nero.construction import initial_state, measured, missing_state
from nero.distributed.shards import local
from nero.groups import parameter_name
from nero.kernels.facts import why_unreadable

States = Mapping[Tensor, dict[str, Any]]


class FirstSteps:
    """The parameters whose first step is to come, with the sizes that were measured of them.

    Sizes are radii of their own and `scale`. A neuron whose size is another at the first step than
    when it was measured has other weights by now, and its size is taken anew. That takes one pass
    over the weights, once, and no wait for the device.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]] = (), states: States | None = None):
        self._waiting: dict[Tensor, dict[str, Tensor]] = {}
        self._shapes: set[torch.Size] = set()
        self._turn = 0
        for group in groups:
            self._shapes |= {p.shape for p in group["params"]}
            self._wait_for_zeros(group, states or {})

    def add(self, p: Tensor, state: Mapping[str, Tensor]) -> None:
        """Wait for a parameter's first step; its state has just been made."""
        self._shapes.add(p.shape)
        self._waiting[p] = {n: state[n].clone() for n in ("scale", "radius") if n in state}

    def before(self, groups: list[dict[str, Any]], states: States, position: int | None) -> None:
        """See that the state of what is stepped fits its weights.

        Args:
            groups: the groups that are stepped.
            states: the state of all parameters; sizes in it are changed in place.
            position: the one parameter of each group that is stepped; None for all.

        Raises:
            RuntimeError: parameters were exchanged for others of other shapes, or are still on the
                meta device when the model no longer is.
        """
        for group in groups:
            if count := len(group["params"]):
                # One of them in turn: reading the state of all would cost as much as a small step.
                self._look_at(group, states, self._turn % count if position is None else position)
        self._turn += 1
        if self._waiting:
            for group, p in _stepped(groups, position):
                if p in self._waiting and p.grad is not None and not why_unreadable(local(p)):
                    _measure_again(p, group, states[p], self._waiting[p])

    def after(self, groups: list[dict[str, Any]], position: int | None) -> None:
        """These groups have been stepped."""
        if self._waiting:
            for _, p in _stepped(groups, position):
                if p.grad is not None:
                    self._waiting.pop(p, None)

    @torch.no_grad()
    def before_compiling(
        self,
        indices: Iterable[int],
        groups: list[dict[str, Any]],
        states: dict[Tensor, dict[str, Any]],
        position: int | None,
    ) -> None:
        """Complete the state of what a step that is being traced will step, and measure it again.

        Which parameters will have a gradient is not known yet: all count as stepped.
        """
        for index, group in zip(indices, groups, strict=True):
            for _, p in _stepped([group], position):
                if p.requires_grad and not why_unreadable(local(p)):
                    states[p].update(missing_state(p, states[p], group, index))
                    if p in self._waiting:
                        _measure_again(p, group, states[p], self._waiting.pop(p))

    def _look_at(self, group: dict[str, Any], states: States, position: int) -> None:
        """Look at one parameter for what happens to many at once."""
        p = group["params"][position]
        state = states.get(p)
        if p.is_meta and all(q.grad is None for q in group["params"]):
            raise RuntimeError(
                f"{parameter_name(group, position)} is on the meta device, and no parameter of its "
                "group has a gradient: the model was materialised with other parameters. Build the "
                "optimizer after that"
            )
        if not state:
            if p.grad is not None:
                self._check_shapes(group, states)
        elif p not in self._waiting and _is_zeroed(state):
            self._wait_for_zeros(group, states)

    def _check_shapes(self, group: dict[str, Any], states: States) -> None:
        for index, p in enumerate(group["params"]):
            if not states.get(p) and p.grad is not None and p.shape not in self._shapes:
                raise RuntimeError(
                    f"{parameter_name(group, index)} is none of those that the optimizer was built "
                    "over, nor of a shape that one of them had: parameters were exchanged, as by "
                    "a wrapper that flattens them. Build the optimizer after wrapping; a model is "
                    "sharded by torch.distributed.fsdp.fully_shard, which keeps neurons whole"
                )

    def _wait_for_zeros(self, group: Mapping[str, Any], states: States) -> None:
        """Wait for the first step of those that count none, of which no size is known to hold."""
        for p in group["params"]:
            if _is_zeroed(states.get(p) or {}):
                self._waiting.setdefault(p, {})


def _stepped(groups: list[dict[str, Any]], position: int | None) -> Iterable[tuple[dict, Tensor]]:
    for group in groups:
        params = group["params"]
        for p in params if position is None else params[position : position + 1]:
            yield group, p


def _is_zeroed(state: Mapping[str, Any]) -> bool:
    """Whether state was never used, or zeroed: no step is counted, or `scale`, never 0, is.

    What is on a device is not read, as that would wait for it.
    """
    return _is_zero(state.get("step")) or _is_zero(state.get("scale"))


def _is_zero(x: Any) -> bool:
    if not isinstance(x, Tensor) or x.device.type != "cpu" or why_unreadable(x):
        return False
    return x.numel() == 1 and x.item() == 0


def _is_left_on_meta(p: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether a parameter was materialised after its state was made."""
    return not p.is_meta and any(isinstance(x, Tensor) and x.is_meta for x in state.values())


def _measure_again(
    p: Tensor, group: dict[str, Any], state: dict[str, Any], before: Mapping[str, Tensor]
) -> None:
    if _is_left_on_meta(p, state):
        state.clear()
        state.update(initial_state(p, group))
        return
    for name, now in measured(p, group).items():
        known, was = state.get(name), before.get(name)
        if known is not None and known.shape == now.shape:
            moved = was is None or was.device != now.device
            known.copy_(now if moved else torch.where(now == was, known, now))


def sizes_after_projection(
    p: Tensor, group: dict[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What state a parameter gets from its weights of now; once stepped, its `scale` stays."""
    if _is_left_on_meta(p, state):
        return initial_state(p, group)
    sizes = measured(p, group)
    stepped = state["step"].to(p.device) > 0
    return {**sizes, "scale": torch.where(stepped, state["scale"], sizes["scale"])}
