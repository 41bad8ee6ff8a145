"""What the neurons of one layer did in a step, measured where the layer is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from nero.distributed.local import gradient_of
from nero.distributed.shards import full
from nero.geometry import axis_norm, split_view, working_dtype
from nero.groups import layout_of
from nero.neurons import NeuronLayout
from nero.rule import one_minus_power
from nero.state import constraints
from nero.step.orthogonal import is_directed

# Entries that are in float64 at one time: few enough for a processor's cache, or many, which hide
# the cost of a launch.
CPU_PIECE = 2**16
ACCELERATOR_PIECE = 2**22
# Neurons of which every pair is compared, for the effective rank.
SAMPLE = 128
# By how much the cap has to shorten a step to count: more than the rounding of a running average.
ROUNDING = 1e-5


class Row(NamedTuple):
    """What was measured of a layer, and not read yet."""

    layer: str
    lr: float | Tensor
    keys: list[str]
    values: Tensor  # (keys,)


def measured(
    name: str,
    p: Tensor,
    before: Tensor,
    start: Tensor | None,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Row:
    """Measure the step of a layer, without waiting for its device; DTensors communicate.

    Args:
        name: of the layer.
        p: its weights after the step, with the gradient of the step.
        before: its weights before the step.
        start: its weights when the watch was built; None where they were not kept.
        group: its group.
        state: its state after the step.
    """
    layout, lr = layout_of(p, group), group["lr"]
    w = _matrix(p, layout)
    turns = _turned(_matrix(before, layout), w)
    found = {"angle/mean": turns.angle.mean(), "angle/max": turns.angle.amax()}
    if start is not None:
        since = _turned(_matrix(start, layout), w).angle
        found |= {"angle_from_start/mean": since.mean(), "angle_from_start/max": since.amax()}
    error = _norm_error(turns.norm, layout, group, state)
    if error is not None:
        found["norm_error"] = error
    found["effective_rank"] = _effective_rank(turns)
    size = _norms(_matrix(gradient_of(p), layout)).squeeze(1)
    finite = size.to(working_dtype(p.dtype)).isfinite()
    if group["max_turn"] is not None:
        capped = _capped(size, p, layout, group, state) & finite & (turns.angle != 0)
        found["capped"] = capped.double().mean()
    if group["nonfinite"] == "skip":
        found["skipped"] = (~finite).double().mean()
    lr = lr.detach().clone() if isinstance(lr, Tensor) else lr
    return Row(name, lr, list(found), torch.stack(list(found.values())))


def _matrix(x: Tensor, layout: NeuronLayout) -> Tensor:
    """A tensor as a matrix (neurons, fan_in), all of it in every process."""
    x = split_view(full(x.detach()), layout)
    if layout.fan_in_axes[0] < x.ndim - len(layout.fan_in_axes):  # not the last ones
        axes = [axis for axis in range(x.ndim) if axis not in layout.fan_in_axes]
        x = x.permute(*axes, *layout.fan_in_axes)
    return x.reshape(layout.neurons, layout.fan_in).contiguous()


class _Turns(NamedTuple):
    """How the rows of a matrix turned. One that was or is zero did not turn."""

    angle: Tensor  # (neurons,), radians, float64 as the next two
    length: Tensor  # (neurons,), of the unit row after minus the one before
    norm: Tensor  # (neurons,), after
    sample: Tensor  # (at most SAMPLE, fan_in), unit rows after minus before


def _turned(a: Tensor, b: Tensor) -> _Turns:
    """How the rows of `a` turned to become those of `b`; as `nero.geometry.turning_angle`."""
    size = CPU_PIECE if a.device.type == "cpu" else ACCELERATOR_PIECE
    every = -(-len(a) // SAMPLE)
    rows = max(1, size // (a.shape[1] * every)) * every
    pieces = []
    for x, y in zip(a.split(rows), b.split(rows), strict=True):
        before, after = _norms(x), _norms(y)
        zero = before * after == 0
        x = x * torch.where(zero, 0, before.reciprocal())
        y = y * torch.where(zero, 0, after.reciprocal())
        turn = y - x
        length = vector_norm(turn, dim=1)
        angle = 2 * torch.atan2(length, vector_norm(x.add_(y), dim=1))
        sample = turn[::every].to(working_dtype(a.dtype))
        pieces.append(_Turns(angle, length, after.squeeze(1), sample))
    return pieces[0] if len(pieces) == 1 else _Turns(*map(torch.cat, zip(*pieces, strict=True)))


def _norms(x: Tensor) -> Tensor:
    """Norms of rows, (rows, 1), float64, whose range holds the squares of narrower dtypes."""
    if x.dtype == torch.float64:
        return axis_norm(x, (1,))
    return vector_norm(x, dim=1, keepdim=True, dtype=torch.float64)


def _norm_error(
    norm: Tensor, layout: NeuronLayout, group: Mapping[str, Any], state: Mapping[str, Any]
) -> Tensor | None:
    """The largest distance of a norm from its radius, in radii; None where norms are free."""
    _, normalize = constraints(layout, group["center"], group["radius"])
    if not normalize or "free" in state:
        return None
    if group["radius"] == "initial":
        radius = full(state["radius"]).flatten()
        return torch.where(radius > 0, norm / radius - 1, 0).abs().amax()
    return (norm / (1.0 if group["radius"] == "unit" else group["radius"]) - 1).abs().amax()


def _effective_rank(turns: _Turns) -> Tensor:
    """(sum s^2)^2 / sum s^4 of the matrix of turns t_i.

    sum s^4 is the sum over all pairs of neurons of (t_i . t_j)^2: of a neuron with itself exactly,
    of the others n (n - 1) times the mean over the pairs of the sample.
    """
    sample, n, m = turns.sample, len(turns.angle), len(turns.sample)
    squares = turns.length.square()
    total, fourth = squares.sum(), squares.square().sum()
    if m > 1:
        gram = sample @ sample.mT if m < sample.shape[1] else sample.mT @ sample
        pairs = (
            vector_norm(gram, dtype=torch.float64).square()
            - squares[:: -(-n // SAMPLE)].square().sum()
        )
        fourth = fourth + pairs * (n * (n - 1) / (m * (m - 1)))
    return torch.where(total == 0, 0, total.square() / fourth)


def _capped(
    size: Tensor,
    p: Tensor,
    layout: NeuronLayout,
    group: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Tensor:
    """Which neurons' steps are shorter for `max_turn`, as `nero.rule` decides it.

    `size`: the norms of their gradients.
    """
    t = state["step"]
    rms = full(state["rms"]).flatten() / one_minus_power(group["beta"], t) ** 0.5
    if group["orthogonal"] and is_directed(p, layout):
        size = torch.ones_like(size)  # of directions
    elif group["momentum"] > 0:
        average = _norms(_matrix(state["exp_avg"], layout)).squeeze(1)
        size = average / one_minus_power(group["momentum"], t)
    return size > group["max_turn"] * rms * (1 + ROUNDING)
