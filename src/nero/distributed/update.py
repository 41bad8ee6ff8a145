"""The update of neurons that are sharded over processes, by sums alone.

Rule.py needs a neuron's norm, mean and norm again. All follow from five sums,

    |w - k g|^2 = |w|^2 - 2 k w.g + k^2 |g|^2,    sum(w - k g) = sum(w) - k sum(g),

so that one all-reduce of the sums of all tensors of a step is enough, and the weights are then
written where they lie, w <- (w - k g - mean) radius / norm. Where the first equation would lose
digits (a step as large as the weights, numbers at the ends of the range) a second all-reduce adds
up w - k g - mean itself. All processes decide that by the same reduced sums, and so alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nero.distributed.shards import Shards, local
from nero.distributed.sums import Parts, parts_of, place_of, square_root, square_rows
from nero.geometry import NOISE_ULPS, working_dtype
from nero.neurons import NeuronLayout
from nero.rounding import Keys, is_stochastic, noise_keys
from nero.state import Hyper, rounded, rule_arguments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# Below this share of |w|^2 + |k g|^2 what is left of them has lost digits.
CANCELLATION = 0.25
# Norms whose squares keep their digits in float64, and factors that do in a working dtype.
NORMS = (1e-140, 1e140)
FACTORS = {torch.float32: (1e-30, 1e30), torch.float64: (1e-140, 1e140)}


class ShardedStep(NamedTuple):
    """One tensor to be updated whose neurons are sharded; tensors are this process's parts."""

    w: Tensor
    g: Tensor
    m: Tensor | None
    state: dict[str, Any]
    layout: NeuronLayout  # of the whole tensor
    shards: Shards
    parts: Parts
    hyper: Hyper

    @property
    def dtype(self) -> torch.dtype:
        return working_dtype(self.w.dtype)

    @property
    def time(self) -> float | Tensor:
        """The step count: a number, or the tensor itself if it must not be read."""
        t = self.state["step"]
        return t.to(torch.float64) if self.hyper.capturable else t.item()

    def noise_keys(self) -> Keys | None:
        """The keys of this step's noise, or None where rounding is to nearest."""
        if not is_stochastic(self.hyper.rounding, self.w.dtype):
            return None
        seed = self.state["seed"]
        return noise_keys(seed if self.hyper.capturable else seed.item(), self.time)

    def direction(self, piece: slice) -> Tensor:
        """What the weights move along: the gradient, or its average once this step is in it."""
        g = self.g[piece].to(self.dtype)
        return g if self.m is None else self.m[piece].lerp(g, 1 - self.hyper.momentum)


class Plan(NamedTuple):
    """w <- (w - k g - mean) stretch for each neuron of one tensor (`Parts.sizes`, float64)."""

    finite: Tensor
    seen: Tensor
    turns: Tensor
    projected: Tensor
    easy: Tensor  # whether mean and stretch have their digits
    k: Tensor
    mean: Tensor
    stretch: Tensor
    bound: Tensor  # which the norm of the stepped weights cannot pass


def sharded_step(
    p: Tensor,
    g: Tensor,
    state: dict[str, Any],
    layout: NeuronLayout,
    shards: Shards,
    hyper: Hyper,
) -> ShardedStep:
    """A parameter and its gradient, DTensors, as `update_sharded` takes them."""
    mine = {name: local(value) for name, value in state.items()}
    m = mine["exp_avg"] if hyper.momentum > 0 else None
    parts = parts_of(layout, shards, local(p).device)
    return ShardedStep(local(p), local(g), m, mine, layout, shards, parts, hyper)


@torch.no_grad()
def update_sharded(steps: list[ShardedStep]) -> list[Tensor]:
    """Update all tensors of a step, with one all-reduce for each process group, seldom two.

    Returns:
        The masks of neurons with a finite gradient.
    """
    torch._foreach_add_([step.state["step"] for step in steps], 1)
    sums = [_first_sums(step) for step in steps]
    all_reduce_(list(zip(sums, (step.shards for step in steps), strict=True)))
    plans = [_plan(step, each) for step, each in zip(steps, sums, strict=True)]
    device = steps[0].w.device  # one wait for all of them
    hard = torch.stack([(plan.turns & ~plan.easy).any().to(device) for plan in plans]).tolist()
    careful = [index for index, yes in enumerate(hard) if yes]
    again = {index: _second_sums(steps[index], plans[index]) for index in careful}
    all_reduce_([(again[index], steps[index].shards) for index in careful])
    for index, (step, plan) in enumerate(zip(steps, plans, strict=True)):
        if index in again:
            _write(step, _second_plan(step, plan, again[index]), torch.float64)
        else:
            _write(step, plan, step.dtype)
    return [plan.finite for plan in plans]


def all_reduce_(shares: list[tuple[Tensor, Shards]]) -> None:
    """Add up each tensor over the mesh dimensions that shard it: a call a process group."""
    groups: dict[str, tuple[ProcessGroup, list[Tensor]]] = {}
    for share, shards in shares:
        for dim in shards.sharded:
            group = shards.mesh.get_group(dim)
            groups.setdefault(group.group_name, (group, []))[1].append(share)
    for group, tensors in groups.values():
        if not any(x.numel() for x in tensors):  # nor in any other process of the group
            continue
        joined = torch.cat([x.flatten() for x in tensors])
        torch.distributed.all_reduce(joined, group=group)
        pieces = joined.split([x.numel() for x in tensors])
        for x, total in zip(tensors, pieces, strict=True):
            x.copy_(total.view_as(x))


def _first_sums(step: ShardedStep) -> Tensor:
    """This process's share of a neuron's sums, (rows, *sizes): see `_plan` for the rows."""
    squares = 3 if step.dtype == torch.float64 else 1
    sums = step.w.new_zeros((4 + 2 * squares, *step.parts.sizes), dtype=torch.float64)
    for piece in step.parts.pieces():
        w, g = step.w[piece], step.direction(piece)
        wide_w, wide_g = w.to(torch.float64), g.to(torch.float64)
        bad = ~torch.isfinite(step.g[piece])
        rows = [wide_w, wide_g, wide_w * wide_g, bad.to(torch.float64)]
        rows += square_rows(w.to(step.dtype)) + square_rows(g)
        for row, x in zip(sums, rows, strict=True):
            step.parts.add_(row, x, piece)
    return sums


def _plan(step: ShardedStep, sums: Tensor) -> Plan:
    """Decide each neuron's step from its sums, and remember its gradient's norm."""
    w, g, wg, bad = sums[:4]
    rule, n = _arguments(step), step.layout.fan_in
    w_norm, g_norm = (square_root(rows, n) for rows in sums[4:].tensor_split(2))
    finite = (bad == 0) & torch.isfinite(g_norm.to(step.dtype))
    seen = torch.ones_like(finite) if rule["propagate"] else finite
    rms = _remember(step, rule, torch.where(finite, g_norm, torch.nan), seen)

    if rule["relative"] and rule["radius"] is None:
        rule["r"] = w_norm.clamp(min=rule["r"])
    rate = rule["lr"] * rule["r"] * rule["debias"] ** 0.5 / rule["debias_m"]
    turns = seen & (g_norm != 0) & (rms != 0) & (rate != 0)
    if rule["max_turn"] is not None:
        rms = torch.maximum(
            rms, g_norm / rule["debias_m"] * rule["debias"] ** 0.5 / rule["max_turn"]
        )
    k = torch.where(turns, (-rate if step.hyper.maximize else rate) / rms, 0)
    center, radius = rule["center"], rule["radius"]
    projected = turns & (center or radius is not None)
    if isinstance(radius, Tensor):
        projected &= radius > 0
    mean = torch.where(projected, (w - k * g) / n, 0) if center else torch.zeros_like(k)
    parts = w_norm**2 + (k * g_norm) ** 2
    squares = parts - 2 * k * wg - n * mean**2
    stretch = _stretch(projected, radius, squares.sqrt())
    least, most = FACTORS[step.dtype]
    easy = (k.abs() > least) & (k.abs() < most)
    kept = (squares >= CANCELLATION * parts) & _in_range(w_norm) & _in_range(g_norm)
    easy &= kept | ~projected
    easy |= ~finite  # nothing is left to save
    return Plan(finite, seen, turns, projected, easy, k, mean, stretch, w_norm + k.abs() * g_norm)


def _remember(step: ShardedStep, rule: dict[str, Any], g_norm: Tensor, seen: Tensor) -> Tensor:
    """The running average of the norm, with this gradient's in it where it is seen."""
    rms, beta = step.state["rms"].view(step.parts.sizes), rule["beta"]
    before, now = rms.to(torch.float64), g_norm / rule["debias_m"]
    rms.copy_(torch.where(seen, torch.hypot(beta**0.5 * before, (1 - beta) ** 0.5 * now), before))
    return rms.to(torch.float64)


def _stretch(projected: Tensor, radius: float | Tensor | None, norm: Tensor) -> Tensor:
    return torch.ones_like(norm) if radius is None else torch.where(projected, radius / norm, 1)


def _in_range(norm: Tensor) -> Tensor:
    return (norm > NORMS[0]) & (norm < NORMS[1])


def _arguments(step: ShardedStep) -> dict[str, Any]:
    """What rule.py is given, with one number per neuron in `Parts.sizes` and float64."""
    rule = rule_arguments(step.layout, step.state, step.time, step.hyper)
    for name in ("r", "radius"):
        if isinstance(rule[name], Tensor):
            wide = rule[name].to(torch.float64)
            rule[name] = wide.view(step.parts.sizes) if wide.ndim else wide
    return rule


def _second_sums(step: ShardedStep, plan: Plan) -> Tensor:
    """This process's share of the sums of the stepped weights, and of their squares.

    Of their distance from the mean that the first sums say, by a bound of their norm: small
    numbers, which lose nothing.
    """
    sums = step.w.new_zeros((2, *step.parts.sizes), dtype=torch.float64)
    mean = torch.where(torch.isfinite(plan.mean), plan.mean, 0)
    for piece in step.parts.pieces():
        x = _stepped(step, plan._replace(mean=mean), piece, torch.float64)
        x /= step.parts.spread(plan.bound, piece)
        step.parts.add_(sums[0], x, piece)
        step.parts.add_(sums[1], x.square_(), piece)
    return sums


def _second_plan(step: ShardedStep, plan: Plan, sums: Tensor) -> Plan:
    """The plan, with mean and norm from the sums of the stepped weights themselves."""
    rule, n = _arguments(step), step.layout.fan_in
    first = torch.where(torch.isfinite(plan.mean), plan.mean, 0)
    rest = sums[0] / n if rule["center"] else torch.zeros_like(first)
    mean = first + rest * plan.bound
    norm = plan.bound * (sums[1] - n * rest**2).clamp(min=0).sqrt()
    # As in axis_project_: what is constant as far as its dtype can show is not projected.
    noise = NOISE_ULPS * torch.finfo(step.dtype).eps * n**0.5 * mean.abs()
    done = plan.projected & torch.isfinite(mean) & torch.isfinite(norm) & (norm > noise)
    stretch = _stretch(done, rule["radius"], norm)
    return plan._replace(mean=torch.where(done, mean, 0), stretch=stretch)


def _stepped(step: ShardedStep, plan: Plan, piece: slice, dtype: torch.dtype) -> Tensor:
    k, mean = (step.parts.spread(x, piece).to(dtype) for x in (plan.k, plan.mean))
    return step.w[piece].to(dtype) - k * step.direction(piece).to(dtype) - mean


def _write(step: ShardedStep, plan: Plan, dtype: torch.dtype) -> None:
    """Turn the weights, computing in `dtype`."""
    place, keys = place_of(step.layout, step.shards), step.noise_keys()
    for piece in step.parts.pieces():
        x = _stepped(step, plan, piece, dtype) * step.parts.spread(plan.stretch, piece).to(dtype)
        turns, seen = (step.parts.spread(each, piece) for each in (plan.turns, plan.seen))
        new = rounded(x.to(step.dtype), step.w.dtype, place.piece((piece,)), keys)
        step.w[piece].copy_(torch.where(turns, new.to(step.w.dtype), step.w[piece]))
        if step.m is not None:
            step.m[piece].copy_(torch.where(seen, step.direction(piece), step.m[piece]))
