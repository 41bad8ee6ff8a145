"""What the measures share: which weights are balanced neurons, turns of them, and outputs.

No measure changes the model: other weights are put in its place by `torch.func.functional_call`.
It runs in the mode that it is in, so a network with dropout or batch norm is put in eval mode
first, and on all data at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nero.geometry import axis_mean, axis_norm, is_balanced, split_view, working_dtype
from nero.neurons import NeuronLayout

Layouts = Mapping[str, NeuronLayout]
"""Parameter name -> its neurons."""
Data = tuple[Tensor, Tensor]
"""Inputs, and labels: classes (integers) where the model has a column for each, +1 and -1 where
its output is one number."""

# How far from mean 0 and norm 1 weights may be that have gone through float32 arithmetic.
BALANCE_ATOL = 1e-4


def balanced_layouts(groups: Iterable[Mapping[str, Any]]) -> dict[str, NeuronLayout]:
    """The neurons of every parameter that is kept balanced.

    Args:
        groups: as `nero.param_groups` returns.

    Returns:
        Parameter name -> its layout, for tensors that are centred, of norm 1, and of a fan-in
        that lets them turn. Biases, gains and free tensors are left out.

    Examples:
        >>> import torch, nero
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Linear(4, 1))
        >>> layouts = nero.measures.balanced_layouts(nero.param_groups(model))
        >>> [(name, layout.neurons, layout.fan_in) for name, layout in layouts.items()]
        [('0.weight', 4, 8), ('1.weight', 1, 4)]
    """
    found = {}
    for group in groups:
        if not group["center"] or group["radius"] != "unit":
            continue
        for name, p in group["params"]:
            layout = NeuronLayout(tuple(p.shape), group["neuron_axes"])
            if p.ndim > 1 and layout.can_hold(center=True, normalize=True):
                found[name] = layout
    return found


def balanced_weights(model: nn.Module, layouts: Layouts) -> dict[str, Tensor]:
    """The parameters of `layouts`, detached.

    Raises:
        ValueError: the model has no such parameter, or its neurons are not balanced.
    """
    parameters = dict(model.named_parameters())
    if missing := [name for name in layouts if name not in parameters]:
        raise ValueError(f"the model has no parameter {missing[0]!r}")
    weights = {name: parameters[name].detach() for name in layouts}
    for name, w in weights.items():
        if not is_balanced(w, layouts[name], atol=BALANCE_ATOL).all():
            raise ValueError(f"{name!r} is not balanced: call nero.balance_(model) first")
    return weights


def angles_by_name(layouts: Layouts, angle: float | Mapping[str, float]) -> Mapping[str, float]:
    """One angle for each parameter of `layouts`."""
    if not isinstance(angle, Mapping):
        return dict.fromkeys(layouts, angle)
    if missing := [name for name in layouts if name not in angle]:
        raise ValueError(f"angle has no entry for {missing[0]!r}")
    return angle


def tangent(w: Tensor, v: Tensor, layout: NeuronLayout) -> Tensor:
    """Each neuron of `v` without its parts along `w` and the ones, at norm 1; 0 stays 0.

    w and v are split views of balanced weights and of anything; the result is one too.
    """
    axes = layout.fan_in_axes
    for _ in range(2):  # what rounding leaves of a long part goes the second time
        v = v - axis_mean(v, axes)
        v = v - w * (w * v).sum(axes, keepdim=True)
    norm = axis_norm(v, axes)
    return v / torch.where(norm == 0, 1, norm)


def turn(
    w: Tensor, layout: NeuronLayout, angle: float | Tensor, generator: torch.Generator | None
) -> Tensor:
    """Turn every neuron of `w` by `angle` (`neuron_shape`) in a uniformly drawn direction."""
    x = split_view(w, layout).to(working_dtype(w.dtype))
    v = torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)
    by = torch.as_tensor(angle, dtype=torch.float64, device=x.device)
    cos, sin = by.cos().to(x.dtype), by.sin().to(x.dtype)
    return (cos * x + sin * tangent(x, v, layout)).reshape(w.shape).to(w.dtype)


def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """How far each example is on the right side: (examples,), in units of the outputs.

    The output times the label where the output is one number, else the score of the right class
    less the best other one.
    """
    if outputs.ndim == 1 or outputs.shape[1] == 1:
        values = outputs.flatten()
        if values.shape != labels.shape or not bool((labels.abs() == 1).all()):
            raise ValueError("a model with one output takes labels +1 and -1, one per example")
        return values * labels
    right = outputs.gather(1, labels[:, None]).squeeze(1)
    others = outputs.scatter(1, labels[:, None], -math.inf)
    return right - others.amax(1)


def outputs_at(model: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """The model's outputs with `weights` in place of its own."""
    return torch.func.functional_call(model, dict(weights), (inputs,))


@torch.no_grad()
def accuracy_at(model: nn.Module, weights: Mapping[str, Tensor], data: Data) -> float:
    """The fraction of examples with a positive margin, with `weights` in place of the model's."""
    inputs, labels = data
    return (margins(outputs_at(model, weights, inputs), labels) > 0).double().mean().item()
