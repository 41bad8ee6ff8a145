"""One step of an optimiser: everything is planned, and may be refused, before anything changes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nero.construction import by_freedom, missing_state
from nero.distributed.local import Key, LocalGroup, Pairs, gradient_of, local_groups, whole_group
from nero.distributed.shards import any_dtensor, is_dtensor, local
from nero.distributed.update import ShardedStep, update_sharded
from nero.groups import check_options_again, hyper_of, index_of, layout_of, parameter_name
from nero.kernels.cpu.step import Batch
from nero.kernels.facts import Column, are_plain, shares_entries, why_unreadable
from nero.kernels.settings import Settings
from nero.kernels.triton.launch import Batch as CudaBatch
from nero.state import (
    FOLLOWING,
    Hyper,
    StateError,
    TensorStep,
    check_state,
    in_working_dtype,
    tensor_step,
)
from nero.step.exchanged import (
    ExchangedLayers,
    check_everywhere,
    exchanged_directions,
    is_exchanged,
)
from nero.step.foreach import _multi_tensor_nero
from nero.step.gradients import checked_gradients, is_negated, readable
from nero.step.orthogonal import after_directions, directed, in_buckets, split_directed
from nero.step.reference import _single_tensor_nero
from nero.step.route import (
    Route,
    States,
    cpu_routes,
    cuda_routes,
    no_kernel,
    on_cuda,
    refuse,
    route,
    wants_kernel,
)

# Parameters whose tensors are asked together: so many that all stay in the cache meanwhile.
IN_CACHE = 128

# How many neurons were skipped, and the device or, for DTensors, the mesh that they are on.
Count = tuple[Tensor, Any]

# What was asked of the state of a group.
Known = dict[tuple[int, str], Column]


class LocalStep(NamedTuple):
    """The step of plain tensors of one group: those that go to kernels, and all others."""

    key: Key
    hyper: Hyper
    foreach: bool
    batches: list[Batch | CudaBatch]
    others: list[TensorStep]

    def run(self) -> list[Tensor]:
        """Update them; returns how many neurons were skipped, in 0-d tensors."""
        counts: list[Tensor] = []
        for batch in self.batches:
            skipped = batch.run()
            if isinstance(skipped, Tensor):
                counts.append(skipped)
            elif skipped:
                counts.append(torch.tensor(skipped, device="cpu"))
        if self.others:
            torch._foreach_add_([step.state["step"] for step in self.others], 1)
            masks = torch_nero(self.others, self.hyper, foreach=self.foreach)
            counts += [(~finite).sum() for finite in masks]
        return counts


def torch_nero(steps: list[TensorStep], hyper: Hyper, *, foreach: bool) -> list[Tensor]:
    """Update tensors whose steps are counted by PyTorch's operators."""
    foreach = foreach and len(steps) > 1
    return (_multi_tensor_nero if foreach else _single_tensor_nero)(steps, hyper)


class DirectedStep(NamedTuple):
    """The step of a bucket of stacks, which takes directions in place of gradients."""

    key: Key
    hyper: Hyper
    part: LocalGroup
    stacks: list[Pairs]
    whole: Mapping[str, Any]

    def run(self) -> list[Tensor]:
        """Find the directions, and update as `LocalStep` does."""
        group, states = self.part.group, self.part.states
        pairs = [pair for stack in self.stacks for pair in directed(stack, states, group)]
        after = self.part._replace(pairs=pairs, group=after_directions(group))
        return _plan_rule(after, self.whole).run()


class Plan(NamedTuple):
    """A step that nothing stands against any more.

    Attributes:
        states: the state of all parameters.
        new_state: state that parameters get for this step, which they lacked.
        steps: the steps of plain tensors.
        sharded: those of tensors whose neurons are sharded over processes, of all groups, so that
            they share their communication.
        exchanged: sharded layers that take directions in place of gradients, likewise.
    """

    states: dict[Tensor, dict[str, Any]]
    new_state: list[tuple[Tensor, dict[str, Any]]]
    steps: list[LocalStep | DirectedStep]
    sharded: list[ShardedStep]
    exchanged: list[ExchangedLayers]

    def run(self) -> list[Count]:
        """Update weights and state; returns how many neurons were skipped, by where it counts."""
        for p, new in self.new_state:
            self.states.setdefault(p, {}).update(new)
        counts: list[Count] = []
        sharded = [*self.sharded]
        for step in [*self._after_exchange(sharded), *self.steps]:
            found = step.run()
            if step.key.counts and step.hyper.nonfinite == "skip":
                counts += [(count, step.key.home(count)) for count in found]
        return counts + sharded_counts(sharded)

    def _after_exchange(self, sharded: list[ShardedStep]) -> list[LocalStep]:
        """The steps of `exchanged`; those whose neurons are sharded go to `sharded`."""
        directions = exchanged_directions(self.exchanged) if self.exchanged else []
        return [
            step
            for layers, pairs in zip(self.exchanged, directions, strict=True)
            for step in _plan_exchanged(layers._replace(pairs=pairs), sharded)
        ]


def sharded_counts(steps: list[ShardedStep]) -> list[Count]:
    """Update tensors whose neurons are sharded; returns how many neurons were skipped."""
    masks = update_sharded(steps) if steps else []
    return [
        ((~finite).sum(), step.shards.mesh)
        for step, finite in zip(steps, masks, strict=True)
        if step.shards.counts and step.hyper.nonfinite == "skip"
    ]


def plan_step(
    indices: Sequence[int],
    groups: Sequence[dict[str, Any]],
    states: dict[Tensor, dict[str, Any]],
    position: int | None = None,
    known: dict[Any, Known] | None = None,
) -> Plan:
    """Plan the step of some groups; changes nothing.

    Args:
        indices: which groups they are.
        groups: the groups.
        states: the state of all parameters.
        position: the one parameter of each group that is stepped; None for all.
        known: what earlier steps asked of state, for the optimiser to keep.

    Raises:
        RuntimeError: a gradient that is sparse, on another mesh, of another shape, without memory
            or, under nonfinite="raise", not finite; with `fused=True` what the kernel cannot
            take; state of other shapes than the group's `neuron_axes` want.
        ValueError: a hyperparameter that was edited out of its range; TypeError likewise.
    """
    plan, known = Plan(states, [], [], [], []), {} if known is None else known
    for group in groups:
        check_options_again(group)
    all_pairs = checked_gradients(list(groups), position)
    check_everywhere(groups, position)
    for index, group, pairs in zip(indices, groups, all_pairs, strict=True):
        batch = None
        if not group["orthogonal"]:
            batch = _whole_batch(group, pairs, states, known.setdefault((index, position), {}))
        if batch:
            key = Key(None, True, group["neuron_axes"])
            plan.steps.append(LocalStep(key, hyper_of(group), True, [batch], []))
        elif pairs:
            plan_group(plan, index, group, pairs)
    # Autograd must know that what it may have saved for a backward pass changes.
    torch.autograd.graph.increment_version([p for pairs in all_pairs for p, _ in pairs])
    return plan


def _whole_batch(
    group: Mapping[str, Any], pairs: Pairs, states: States, known: Known
) -> Batch | CudaBatch | None:
    """All of a group for the kernel of a device, if it takes each tensor as it is; else None.

    A tensor whose neurons cannot hold a radius has none: its scale takes the place. What was asked
    of state is kept in `known`, by name and first parameter.
    """
    if not pairs or not wants_kernel(group):
        return None
    there = on_cuda(pairs[0][0])
    if no_kernel(on_cuda=there):
        return None
    hyper = hyper_of(group)
    settings = Settings.of(hyper, group["neuron_axes"])
    names = [name for name in settings.state() if name != "radius"]
    state_of, batch = itemgetter(*names), _batch(hyper, cuda=there)
    try:
        size = len(pairs) if there else IN_CACHE  # a batch there has its step counts in one place
        for start in range(0, len(pairs), size):
            some = pairs[start : start + size]
            params = [p for p, _ in some]
            of_each = [states.get(p, {}) for p in params]
            if any("free" in state for state in of_each):
                return None
            state = dict(zip(names, zip(*map(state_of, of_each), strict=True), strict=True))
            if settings.radius == "initial":
                state["radius"] = tuple(s.get("radius", s["scale"]) for s in of_each)
            columns = {"w": Column(params), "g": Column([g for _, g in some])}
            for name, column in state.items():
                before = known.get((start, name))
                if before is None or not before.lies_still(column):
                    before = known[start, name] = Column(column)
                columns[name] = before
            if there:
                routes = cuda_routes(columns, settings, hyper.lr)
            else:
                routes = cpu_routes(columns, settings, (None,) * len(some))
            shapes = [found.shape for found in routes if found.shape]
            if len(shapes) < len(routes):
                return None
            batch.add(shapes, columns)
    except (KeyError, RuntimeError):  # state that is missing, or no memory: to be asked one by one
        return None
    return batch


def _batch(hyper: Hyper, *, cuda: bool) -> Any:
    return CudaBatch(hyper) if cuda else Batch(hyper)


def plan_group(plan: Plan, index: int, group: dict[str, Any], pairs: Pairs) -> None:
    """Plan the step of a group one parameter at a time."""
    prepared: Pairs = []
    complete: dict[Tensor, dict[str, Any]] = {}
    for p, g in pairs:
        state = plan.states.get(p, {})
        g = gradient_of(p) if is_dtensor(p) else readable(g)
        _check(p, g, state, group)
        new = missing_state(p, state, group, index)
        new |= {key: x.resolve_neg() for key, x in state.items() if is_negated(x)}
        new |= in_working_dtype(p, {**state, **new})
        if new:
            plan.new_state.append((p, new))
        complete[p] = {**state, **new}
        prepared.append((p, g))
    try:
        for each, some in by_freedom(group, prepared, complete):
            if exchanged := [pair for pair in some if is_exchanged(pair[0], each)]:
                layers = ExchangedLayers(each, exchanged, complete)
                plan.exchanged.append(_checked(layers))
                some = [pair for pair in some if not is_exchanged(pair[0], each)]
            if any_dtensor(p for p, _ in some):
                parts = local_groups(each, some, complete, plan.sharded)
            else:
                parts = [whole_group(each, some, complete)]
            plan.steps.extend(step for part in parts for step in _plan_local(part, each))
    except StateError as error:
        name = parameter_name(group, index_of(error.p, group))
        raise RuntimeError(f"{name}: {error}") from None


def _check(p: Tensor, g: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]) -> None:
    """Refuse what torch's own operators would fail on in the middle of a step, or read beyond.

    Raises:
        RuntimeError: a gradient or state that does not go with the parameter, with its name.
    """
    tensors: dict[str, Any] = {"weights": p, "gradient": g, **state}
    tensors.pop("free", None)  # its presence is all that counts
    read = not group["capturable"]
    for key, x in tensors.items():
        if isinstance(x, Tensor) and (reason := _why_not(key, x, p, read=read)):
            name = parameter_name(group, index_of(p, group))
            what = "" if x is p else "the gradient of " if x is g else f"the state {key!r} of "
            raise RuntimeError(f"{what}{name} {reason}; no weight was changed")


def _why_not(key: str, x: Tensor, p: Tensor, *, read: bool) -> str:
    """Why a tensor cannot take part in the step of `p`; empty where it can.

    `read`: whether a step count may be read.
    """
    part, p_part = local(x), local(p)
    if x.dtype != torch.int64 if key == "seed" else not x.is_floating_point():
        return f"is {x.dtype}"
    on_host = key in ("step", "seed") and part.device.type == "cpu"
    follows = key in FOLLOWING and not part.is_meta
    if part.device != p_part.device and not on_host and not follows:
        return f"is on {part.device}, the parameter on {p_part.device}"
    if reason := why_unreadable(part, beside=p_part):
        return reason
    if read and key == "step" and on_host and x.numel() == 1 and not 0 <= part.item() < math.inf:
        return f"is {part.item()}"
    if key == "gradient":
        return "" if x.shape == p.shape else f"is of shape {tuple(x.shape)}"
    if x is p and is_negated(p_part):
        return "is negated by a mark: assign p.data.resolve_neg() to p.data"
    if x.is_inference() and not torch.is_inference_mode_enabled():
        return "was made in torch.inference_mode, outside of which it cannot change"
    if are_plain([part]) and shares_entries(part):
        return "has entries that share memory: clone() it"
    return ""


def _plan_local(part: LocalGroup, whole: Mapping[str, Any]) -> list[LocalStep | DirectedStep]:
    stacks, rest = split_directed(part.pairs, part.group)
    steps: list[LocalStep | DirectedStep] = []
    if rest or not stacks:
        steps.append(_plan_rule(part._replace(pairs=rest), whole))
    hyper = hyper_of(part.group)
    for bucket in in_buckets(stacks):
        # What may be refused of directions is refused of tensors like them: the weights.
        stand_ins = [(p, p) for stack in bucket for p, _ in stack]
        for p, _ in stand_ins:
            check_state(p, part.states[p], layout_of(p, part.group), hyper)
        _plan_rule(part._replace(pairs=stand_ins, group=after_directions(part.group)), whole)
        steps.append(DirectedStep(part.key, hyper, part, bucket, whole))
    return steps


def _checked(layers: ExchangedLayers) -> ExchangedLayers:
    """Refuse what their step could be refused for: of tensors like the directions, the weights."""
    for p, _ in layers.pairs:
        state, layout = dict(layers.states[p]), layout_of(p, layers.group)
        check_state(p, state, layout, hyper_of(layers.group))
    _plan_exchanged(layers._replace(pairs=[(p, p) for p, _ in layers.pairs]), [])
    return layers


def _plan_exchanged(layers: ExchangedLayers, sharded: list[ShardedStep]) -> list[LocalStep]:
    group, states = (
        after_directions(layers.group),
        {p: dict(layers.states[p]) for p, _ in layers.pairs},
    )
    parts = local_groups(group, layers.pairs, states, sharded)
    return [_plan_rule(part, layers.group) for part in parts]


def _plan_rule(part: LocalGroup, whole: Mapping[str, Any]) -> LocalStep:
    group, hyper = part.group, hyper_of(part.group)
    if not part.places and (batch := _whole_batch(group, part.pairs, part.states, {})):
        return LocalStep(part.key, hyper, True, [batch], [])
    fits: dict[Any, list[tuple[Tensor, Tensor, Route]]] = {}  # by device, and that of the count
    others: list[TensorStep] = []
    for p, g in part.pairs:
        place = part.places.get(p)
        step = tensor_step(p, g, part.states[p], layout_of(p, group), hyper, place)
        found = route(p, g, part.states[p], group, place)
        if group["fused"] and found.reason:
            raise refuse(p, whole, found.reason)
        if found.shape:
            fits.setdefault((p.device, step.state["step"].device), []).append((p, g, found))
        else:
            others.append(step)
    names = Settings.of(hyper, group["neuron_axes"]).state()
    batches: list[Batch | CudaBatch] = []
    for some in fits.values():
        tensors = {"w": [p for p, _, _ in some], "g": [g for _, g, _ in some]}
        for name in names:
            of_each = [part.states[p] for p in tensors["w"]]
            tensors[name] = [s.get(name, s["scale"]) for s in of_each]
        batch = _batch(hyper, cuda=on_cuda(some[0][0]))
        columns = {name: Column(column) for name, column in tensors.items()}
        batch.add([found.shape for _, _, found in some], columns)
        batches.append(batch)
    return LocalStep(part.key, hyper, group["foreach"] is not False, batches, others)
