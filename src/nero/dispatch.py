"""Which path updates which parameter: the compiled kernels, or stacks and single tensors in torch.

By default parameters on the CPU take the compiled kernel where it fits, and all others the foreach
path. `foreach` and `fused` override that per group.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nero.groups import complete_state, hyper_of, layout_of, match_dtype, parameter_name
from nero.kernels import cuda
from nero.kernels.cpu import CpuGroup, why_not
from nero.kernels.cpu_library import INSTRUCTION_SET, Missing, load
from nero.kernels.cuda import missing_triton
from nero.kernels.foreach import _multi_tensor_nero
from nero.kernels.op import fused_step
from nero.kernels.single import _single_tensor_nero, tensor_step

States = Mapping[Tensor, dict[str, Any]]
Pairs = list[tuple[Tensor, Tensor]]


class Dispatch:
    """Carries out the steps of an optimiser's groups, remembering what the kernels know of them."""

    def __init__(self) -> None:
        self._library = load()
        # Of a group, and of each parameter that is stepped by itself: so neither of them has to be
        # described to the kernel again.
        self._cpu_groups: dict[tuple[int, int | None], CpuGroup] = defaultdict(CpuGroup)

    def update(
        self, index: int, group: dict[str, Any], states: States, position: int | None = None
    ) -> list[Tensor]:
        """Update the parameters of the index-th group that have a gradient, and count their steps.

        Args:
            index: which group it is.
            group: the group.
            states: the state of its parameters.
            position: the one parameter of the group to update; None for all.

        Returns:
            Counts of skipped neurons, 0-d, to be added up.

        Raises:
            RuntimeError: with `fused=True`, a gradient that the kernel cannot take.
        """
        params = group["params"] if position is None else [group["params"][position]]
        pairs = [(p, p.grad) for p in params if p.grad is not None]
        complete_state(index, group, states, position)
        for p, _ in pairs:
            match_dtype(p, states[p])
        counts: list[Tensor] = []
        if torch.compiler.is_compiling():
            pairs = self._compiled_nero(group, pairs, states, counts)
        else:
            if wants_kernel(group):
                known = self._cpu_groups[index, position]
                pairs = self._fused_cpu_nero(known, group, pairs, states, counts)
            if group["fused"]:
                pairs = _fused_cuda_nero(group, pairs, states, counts)
        if pairs:
            counts += _torch_nero(group, pairs, states)
        return counts if group["nonfinite"] == "skip" else []

    def _fused_cpu_nero(
        self,
        known: CpuGroup,
        group: dict[str, Any],
        pairs: Pairs,
        states: States,
        counts: list[Tensor],
    ) -> Pairs:
        """Update what the CPU kernel can take; returns what is left."""
        if isinstance(self._library, Missing):
            return pairs
        hyper, axes = hyper_of(group), group["neuron_axes"]
        ours = [(p, g) for p, g in pairs if not (group["fused"] and _on_cuda(p))]
        strict = bool(group["fused"])
        left, skipped = known.step(ours, states, hyper, axes, self._library, all_or_none=strict)
        if strict and left:
            raise _does_not_fit(group, *next(iter(left.items())))
        if skipped:
            counts.append(torch.tensor(skipped))
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
        if group["fused"] and _on_cuda(p):
            return "fused Triton kernel"
        if wants_kernel(group):
            g = p.detach() if p.grad is None else p.grad
            reason = why_not(p, g, state, group["rounding"])
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
            if _on_cuda(p):
                reason = missing_triton()
            else:
                reason = why_not(p, p.detach(), {}, group["rounding"])
            if reason:
                raise _does_not_fit(group, p, reason)


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
    index = next(i for i, other in enumerate(group["params"]) if other is p)
    return RuntimeError(f"fused=True, but {parameter_name(group, index)}: {reason}")


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


def _torch_nero(group: dict[str, Any], pairs: Pairs, states: States) -> list[Tensor]:
    hyper = hyper_of(group)
    torch._foreach_add_([states[p]["step"] for p, _ in pairs], 1)
    steps = [tensor_step(p, g, states[p], layout_of(p, group), hyper) for p, g in pairs]
    foreach = group["foreach"] is not False and len(steps) > 1
    masks = (_multi_tensor_nero if foreach else _single_tensor_nero)(steps, hyper)
    return [(~finite).sum() for finite in masks]
