"""A step under torch.compile: the kernels as a custom operator, `nero::fused_step_`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nero.construction import by_freedom, missing_state
from nero.distributed.local import Pairs, gradient_of, local_groups, whole_group
from nero.distributed.shards import any_dtensor, is_dtensor
from nero.distributed.update import ShardedStep
from nero.groups import hyper_of, layout_of
from nero.kernels.cpu.library import Missing, load
from nero.kernels.triton.fits import has_triton
from nero.neurons import AxisSpec
from nero.state import Hyper, in_working_dtype, tensor_step
from nero.step.exchanged import is_exchanged
from nero.step.gradients import checked_gradients
from nero.step.orthogonal import after_directions, directed, split_directed
from nero.step.plan import Count, LocalGroup, Plan, plan_group, sharded_counts, torch_nero
from nero.step.route import wants_kernel

FREE, INITIAL, FIXED = "free", "initial", "fixed"


def compiled_step(
    indices: Sequence[int],
    groups: Sequence[dict[str, Any]],
    states: dict[Tensor, dict[str, Any]],
    position: int | None = None,
) -> list[Count]:
    """A step as torch.compile traces it; arguments as `nero.step.plan.plan_step`, and its counts.

    What a kernel may take of a device becomes one node of the graph, which plans when it runs.
    """
    counts: list[Count] = []
    sharded: list[ShardedStep] = []
    all_pairs = checked_gradients(list(groups), position)
    for index, group, pairs in zip(indices, groups, all_pairs, strict=True):
        for p, _ in pairs:
            states[p].update(missing_state(p, states[p], group, index))
            states[p].update(in_working_dtype(p, states[p]))
        for each, some in by_freedom(group, pairs, states):
            parts = [whole_group(each, some, states)]
            if any(is_exchanged(p, each) for p, _ in some):
                raise RuntimeError(
                    "torch.compile does not take orthogonal=True of layers that are sharded over "
                    "processes: leave optimizer.step() out of what is compiled"
                )
            if any_dtensor(p for p, _ in some):
                some = [(p, gradient_of(p) if is_dtensor(p) else g) for p, g in some]
                parts = local_groups(each, some, states, sharded)
            for part in parts:
                found = _compiled_part(part)
                if part.key.counts and group["nonfinite"] == "skip":
                    counts += [(count, part.key.home(count)) for count in found]
    return counts + sharded_counts(sharded)


@torch.compiler.assume_constant_result
def _has_kernel(kind: str) -> bool:
    return has_triton() if kind == "cuda" else not isinstance(load(), Missing)


def _compiled_part(part: LocalGroup) -> list[Tensor]:
    stacks, rest = split_directed(part.pairs, part.group)
    counts = _compiled_rule(part._replace(pairs=rest))
    for stack in stacks:
        pairs = directed(stack, part.states, part.group)
        counts += _compiled_rule(part._replace(pairs=pairs, group=after_directions(part.group)))
    return counts


def _compiled_rule(part: LocalGroup) -> list[Tensor]:
    group, hyper = part.group, hyper_of(part.group)
    kinds = [kind for kind in ("cpu", "cuda") if wants_kernel(group) and _has_kernel(kind)]
    counts: list[Tensor] = []
    for kind in kinds:
        if ours := [(p, g) for p, g in part.pairs if p.device.type == kind]:
            states = [part.states[p] for p, _ in ours]
            strict = bool(group["fused"])
            counts.append(_fused_step(ours, states, hyper, group["neuron_axes"], strict))
    rest = [
        tensor_step(p, g, part.states[p], layout_of(p, group), hyper, part.places.get(p))
        for p, g in part.pairs
        if p.device.type not in kinds
    ]
    if rest:
        torch._foreach_add_([step.state["step"] for step in rest], 1)
        masks = torch_nero(rest, hyper, foreach=group["foreach"] is not False)
        counts += [(~finite).sum() for finite in masks]
    return counts


def _fused_step(
    pairs: Pairs,
    states: list[dict[str, Any]],
    hyper: Hyper,
    neuron_axes: tuple[AxisSpec, ...],
    strict: bool,
) -> Tensor:
    """One step of parameters of one device, as a single node of a compiled graph.

    Returns:
        How many neurons were skipped, 0-d int64.
    """
    radius = hyper.radius
    kind = FREE if radius is None else INITIAL if radius == "initial" else FIXED
    lr = hyper.lr
    return fused_step_(
        [p for p, _ in pairs],
        [g for _, g in pairs],
        [state["exp_avg"] for state in states] if hyper.momentum > 0 else [],
        [state["rms"] for state in states],
        [state["step"] for state in states],
        [state["scale"] for state in states],
        # A tensor whose neurons cannot hold the radius has none; its scale takes the place.
        [state.get("radius", state["scale"]) for state in states] if kind == INITIAL else [],
        [state["seed"] for state in states] if hyper.rounding == "stochastic" else [],
        lr if isinstance(lr, Tensor) else torch.tensor(lr, dtype=torch.float64),
        [n for axis in neuron_axes for n in (axis if isinstance(axis, tuple) else (axis, 0))],
        hyper.beta,
        hyper.momentum,
        hyper.center,
        kind,
        float(radius) if isinstance(radius, (int, float)) else 1.0,
        hyper.nonfinite,
        hyper.maximize,
        hyper.rounding,
        math.inf if hyper.max_turn is None else hyper.max_turn,
        strict,
    )


# Written out, as torch 2.6 infers none from `list[Tensor]`. "!" marks what is changed in place.
_SCHEMA = """(
    Tensor(a!)[] weights, Tensor[] gradients, Tensor(b!)[] averages, Tensor(c!)[] rms,
    Tensor(d!)[] steps, Tensor[] scales, Tensor[] radii, Tensor[] seeds, Tensor lr,
    SymInt[] neuron_axes, float beta, float momentum, bool center, str radius_kind, float radius,
    str nonfinite, bool maximize, str rounding, float max_turn, bool strict
) -> Tensor"""


@torch.library.custom_op(
    "nero::fused_step_", mutates_args=("weights", "averages", "rms", "steps"), schema=_SCHEMA
)
def fused_step_(
    weights: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    rms: list[Tensor],
    steps: list[Tensor],
    scales: list[Tensor],
    radii: list[Tensor],
    seeds: list[Tensor],
    lr: Tensor,
    neuron_axes: list[int],
    beta: float,
    momentum: float,
    center: bool,
    radius_kind: str,
    radius: float,
    nonfinite: str,
    maximize: bool,
    rounding: str,
    max_turn: float,
    strict: bool,
) -> Tensor:
    """Update `weights` and their state in place; axes come as pairs, with 0 blocks for all.

    Under `strict` it raises, with nothing updated, where no kernel fits.
    """
    group = {
        "params": weights,
        "lr": lr.item() if lr.device.type == "cpu" else lr,
        "beta": beta,
        "momentum": momentum,
        "center": center,
        "radius": {FREE: None, INITIAL: "initial"}.get(radius_kind, radius),
        "nonfinite": nonfinite,
        "maximize": maximize,
        "capturable": steps[0].device.type != "cpu",  # then they are not to be waited for
        "rounding": rounding,
        "max_turn": None if max_turn == math.inf else max_turn,
        "orthogonal": False,
        "relative": False,  # such groups take no kernel
        "neuron_axes": tuple(
            (axis, blocks) if blocks else axis
            for axis, blocks in zip(neuron_axes[::2], neuron_axes[1::2], strict=True)
        ),
        "fused": strict or None,
        "foreach": None,
    }
    states: dict[Tensor, dict[str, Any]] = {
        w: {"rms": rms[i], "step": steps[i], "scale": scales[i]} for i, w in enumerate(weights)
    }
    for name, tensors in (("exp_avg", averages), ("radius", radii), ("seed", seeds)):
        for w, x in zip(weights, tensors, strict=False):
            states[w][name] = x
    plan = Plan(states, [], [], [], [])
    plan_group(plan, 0, group, list(zip(weights, gradients, strict=True)))
    skipped = torch.zeros((), dtype=torch.int64, device=weights[0].device)
    for count, _ in plan.run():
        skipped = skipped + count.to(skipped.device)
    return skipped


@fused_step_.register_fake
def _(weights: list[Tensor], *args: object) -> Tensor:
    return torch.empty((), dtype=torch.int64, device=weights[0].device)
