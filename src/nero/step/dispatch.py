"""Which path updates which parameter: the compiled kernels, or stacks and single tensors in torch.

By default parameters on the CPU take the compiled kernel where it fits, and all others the foreach
path. `foreach` and `fused` override that per group.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nero.distributed.local import (
    LocalGroup,
    Pairs,
    States,
    gradient_of,
    local_groups,
    whole_group,
)
from nero.distributed.shards import any_dtensor, is_dtensor, local, shards_of
from nero.distributed.update import ShardedStep, update_sharded
from nero.groups import complete_state, hyper_of, layout_of, parameter_name
from nero.kernels.cpu.group import CpuGroup, why_not
from nero.kernels.cpu.library import INSTRUCTION_SET, Missing, load
from nero.kernels.triton import launch as cuda
from nero.kernels.triton.launch import missing_triton
from nero.rounding import Place
from nero.state import Hyper, StateError, match_dtype, tensor_step
from nero.step.compiled import fused_step
from nero.step.foreach import _multi_tensor_nero
from nero.step.reference import _single_tensor_nero

# How many neurons were skipped, and the device or, for DTensors, the mesh that they are on.
Count = tuple[Tensor, Any]


class Dispatch:
    """Carries out the steps of an optimiser's groups, remembering what the kernels know of them."""

    def __init__(self) -> None:
        self._library = load()
        # Of a group, or a part of it, and of each parameter that is stepped by itself: so none of
        # them has to be described to the kernel again.
        self._cpu_groups: dict[Any, CpuGroup] = {}

    def repeat(
        self,
        indices: Sequence[int],
        groups: list[dict[str, Any]],
        states: States,
        position: int | None = None,
    ) -> list[Count] | None:
        """Update groups that the CPU kernel took whole at the last step, if it can take them again.

        One look at the tensors of each group then takes the place of all questions that `update`
        asks, which take longer than small tensors take to update.

        Args:
            indices: which groups they are.
            groups: the groups.
            states: the state of all parameters.
            position: the one parameter of each group that is stepped; None for all.

        Returns:
            Counts of skipped neurons, as from `update`; None, with nothing updated, where anything
            but numbers may have changed since the last step.
        """
        if torch.compiler.is_compiling():
            return None
        ready: list[tuple[CpuGroup, Hyper, list[Tensor]]] = []
        for index, group in zip(indices, groups, strict=True):
            known = self._cpu_groups.get((index, position))
            if known is None or not wants_kernel(group) or group["nonfinite"] == "raise":
                return None
            params = group["params"] if position is None else [group["params"][position]]
            hyper = hyper_of(group)
            gradients = known.unchanged(params, states, hyper, group["neuron_axes"])
            if gradients is None:
                return None
            ready.append((known, hyper, gradients))
        counts: list[Count] = []
        for known, hyper, _ in ready:
            skipped = known.repeat(hyper)
            if skipped and hyper.nonfinite == "skip":
                count = torch.tensor(skipped)
                counts.append((count, count.device))
        return counts

    def update(
        self,
        index: int,
        group: dict[str, Any],
        pairs: Pairs,
        states: States,
        sharded: list[ShardedStep],
        position: int | None = None,
    ) -> list[Count]:
        """Update parameters of the index-th group and count their steps.

        Args:
            index: which group it is.
            group: the group.
            pairs: those of its parameters that have a gradient, with it.
            states: the state of its parameters.
            sharded: receives those whose neurons are sharded over processes instead, for
                `update_sharded`: so the groups of a step share their communication.
            position: the one parameter of the group that is stepped; None for all.

        Returns:
            Counts of skipped neurons, 0-d, to be added up by where they were counted.

        Raises:
            RuntimeError: with `fused=True`, a gradient that the kernel cannot take; state of other
                shapes than the group's `neuron_axes` want.
        """
        complete_state(index, group, states, position)
        # What is asked of each parameter here takes longer than small tensors take to update.
        distributed = any_dtensor(p for p, _ in pairs)
        if distributed or not self._describes(group):
            for p, _ in pairs:
                match_dtype(p, states[p])
        parts: list[tuple[Any, LocalGroup]] = [
            ((index, position), whole_group(group, pairs, states))
        ]
        if distributed:
            pairs = [(p, gradient_of(p)) for p, _ in pairs]
            if group["fused"]:
                _check_parts(group, pairs)
            local_parts = local_groups(group, pairs, states, sharded)
            parts = [((index, position, each.key), each) for each in local_parts]
        found: list[Count] = []
        for place, each in parts:
            try:
                counts = self._update_local(place, each)
            except StateError as error:
                name = parameter_name(group, _index_of(error.p, group))
                raise RuntimeError(f"{name}: {error}") from None
            found += [(count, each.key.home(count)) for count in counts if each.key.counts]
        return found if group["nonfinite"] == "skip" else []

    def update_sharded(self, sharded: list[ShardedStep]) -> list[Count]:
        """Update the parameters that `update` has left, of all groups together."""
        masks = update_sharded(sharded) if sharded else []
        return [
            ((~finite).sum(), step.shards.mesh)
            for step, finite in zip(sharded, masks, strict=True)
            if step.shards.counts and step.hyper.nonfinite == "skip"
        ]

    def _describes(self, group: dict[str, Any]) -> bool:
        """Whether all parameters go to `CpuGroup`, which looks after the dtype of their state."""
        return (
            wants_kernel(group)
            and not group["fused"]  # those on CUDA devices would pass it by
            and not isinstance(self._library, Missing)
            and not torch.compiler.is_compiling()
        )

    def _update_local(self, place: Any, each: LocalGroup) -> list[Tensor]:
        group, pairs, states = each.group, each.pairs, each.states
        counts: list[Tensor] = []
        if torch.compiler.is_compiling():
            pairs = self._compiled_nero(group, pairs, states, counts)
        else:
            if wants_kernel(group):
                pairs = self._fused_cpu_nero(place, each, counts)
            if group["fused"]:
                pairs = _fused_cuda_nero(group, pairs, states, counts)
        if pairs:
            counts += _torch_nero(group, pairs, states, each.places)
        return counts

    def _fused_cpu_nero(
        self,
        place: Any,
        each: LocalGroup,
        counts: list[Tensor],
    ) -> Pairs:
        """Update what the CPU kernel can take; returns what is left."""
        group, pairs = each.group, each.pairs
        if isinstance(self._library, Missing):
            return pairs
        if place not in self._cpu_groups:
            self._cpu_groups[place] = CpuGroup(self._library)
        known = self._cpu_groups[place]
        hyper, axes = hyper_of(group), group["neuron_axes"]
        strict = bool(group["fused"])
        ours = [(p, g) for p, g in pairs if not _on_cuda(p)] if strict else pairs
        left, skipped = known.step(
            ours, each.states, hyper, axes, all_or_none=strict, places=each.places
        )
        if strict and left:
            raise _does_not_fit(group, *next(iter(left.items())))
        if skipped:
            counts.append(torch.tensor(skipped))
        if ours is pairs and not left:
            return []
        taken = {p for p, _ in ours} - left.keys()
        return [(p, g) for p, g in pairs if p not in taken]

    def _compiled_nero(
        self, group: dict[str, Any], pairs: Pairs, states: States, counts: list[Tensor]
    ) -> Pairs:
        """Leave to one operator a device what a kernel may take; returns the rest."""
        cpu = wants_kernel(group) and not isinstance(self._library, Missing)
        wanted = ["cpu"] * cpu + ["cuda"] * bool(group["fused"])
        for kind in wanted:
            ours = [(p, g) for p, g in pairs if p.device.type == kind]
            if ours:
                hyper, axes = hyper_of(group), group["neuron_axes"]
                counts.append(fused_step(ours, [states[p] for p, _ in ours], hyper, axes))
        return [(p, g) for p, g in pairs if p.device.type not in wanted]

    def describe(self, groups: list[dict[str, Any]], states: States) -> str:
        """The paths in use and how many parameters take each, with the reason where it is slow."""
        paths: Counter[str] = Counter()
        for group in groups:
            for p in group["params"]:
                paths[self._path(group, p, states[p])] += 1
        return "; ".join(f"{path}: {count} parameters" for path, count in paths.items())

    def _path(self, group: dict[str, Any], p: Tensor, state: dict[str, Any]) -> str:
        if _is_sharded(p, group):
            return "all-reduced sums (neurons sharded over processes)"
        if group["fused"] and _on_cuda(p):
            return "fused Triton kernel"
        if wants_kernel(group):
            g = local(p).detach() if p.grad is None else local(p.grad)
            state = {name: local(value) for name, value in state.items()}
            reason = why_not(local(p), g, state)
            if not reason and not isinstance(self._library, Missing):
                return f"fused CPU kernel ({self._library.instruction_set})"
            return f"foreach ({reason})"
        if group["foreach"] is False:
            return "one tensor after another (foreach=False)"
        return f"foreach ({'foreach=True' if group['foreach'] else 'fused=False'})"


def wants_kernel(group: Mapping[str, Any]) -> bool:
    """Whether a group takes the compiled kernel where it fits: unless told otherwise."""
    return bool(group["fused"]) or (group["fused"] is None and group["foreach"] is None)


def check_fused(group: Mapping[str, Any]) -> None:
    """Raise where `fused=True` cannot be had.

    Raises:
        RuntimeError: a parameter that the kernel cannot take, with its name and the reason.
    """
    if group["fused"]:
        for p in group["params"]:
            if _is_sharded(p, group):
                reason = "its neurons are sharded over processes, which have to add up their sums"
            elif _on_cuda(p):
                reason = missing_triton()
            else:
                reason = why_not(local(p), local(p).detach(), {})
            if reason:
                raise _does_not_fit(group, p, reason)


def _check_parts(group: Mapping[str, Any], pairs: Pairs) -> None:
    """Refuse parts of DTensors that the kernel cannot take before any tensor is changed."""
    for p, g in pairs:
        if is_dtensor(p) and not _on_cuda(p):
            reason = why_not(local(p), local(g), {})
            if reason:
                raise _does_not_fit(group, p, reason)


def _is_sharded(p: Tensor, group: Mapping[str, Any]) -> bool:
    return is_dtensor(p) and bool(shards_of(p, layout_of(p, dict(group))).sharded)


def warn_without_kernel(groups: list[dict[str, Any]]) -> None:
    """Say that steps on CPU are slow because the kernel was not compiled."""
    library = load()
    if not isinstance(library, Missing) or library.reason.startswith(INSTRUCTION_SET):
        return
    if any(p.device.type == "cpu" for g in groups if wants_kernel(g) for p in g["params"]):
        warnings.warn(
            "nero: steps on CPU take PyTorch's operators, several times slower than the compiled "
            f"kernel, of which there is none: {library.reason}",
            RuntimeWarning,
            stacklevel=3,
        )


def _on_cuda(p: Tensor) -> bool:
    # Triton's interpreter takes tensors on the CPU; the tests choose it so.
    return p.device.type == "cuda"


def _does_not_fit(group: Mapping[str, Any], p: Tensor, reason: str) -> RuntimeError:
    return RuntimeError(f"fused=True, but {parameter_name(group, _index_of(p, group))}: {reason}")


def _index_of(p: Tensor, group: Mapping[str, Any]) -> int:
    """Which of a group's parameters it is, or is the local part of."""
    return next(i for i, q in enumerate(group["params"]) if q is p or local(q) is p)


def _fused_cuda_nero(
    group: dict[str, Any], pairs: Pairs, states: States, counts: list[Tensor]
) -> Pairs:
    """Update what is on CUDA devices by the Triton kernel; returns the rest."""
    ours = [(p, g) for p, g in pairs if _on_cuda(p)]
    if not ours:
        return pairs
    hyper = hyper_of(group)
    steps = [tensor_step(p, g, states[p], layout_of(p, group), hyper) for p, g in ours]
    for (p, _), step in zip(ours, steps, strict=True):  # before anything changes
        if reason := cuda.fits(step, hyper):
            raise _does_not_fit(group, p, reason)
    torch._foreach_add_([step.state["step"] for step in steps], 1)
    counts += [(~finite).sum() for finite in cuda._fused_cuda_nero(steps, hyper)]
    return [(p, g) for p, g in pairs if not _on_cuda(p)]


def _torch_nero(
    group: dict[str, Any], pairs: Pairs, states: States, places: Mapping[Tensor, Place]
) -> list[Tensor]:
    hyper = hyper_of(group)
    steps = [
        tensor_step(p, g, states[p], layout_of(p, group), hyper, places.get(p)) for p, g in pairs
    ]
    torch._foreach_add_([step.state["step"] for step in steps], 1)
    foreach = group["foreach"] is not False and len(steps) > 1
    masks = (_multi_tensor_nero if foreach else _single_tensor_nero)(steps, hyper)
    return [(~finite).sum() for finite in masks]
