"""Residual branches that start small beside what they are added to.

The last layer of a branch is held at a norm at which the branch's output, at the start, is a share
of the signal that it is added to: all branches together, which are about independent then, are
about as large as that signal. Where norms are 1 instead, the first branches drown what came before
them, such as the tokens' embeddings. Where every sum is normalised before the next, as in the first
transformers, there is no such sum of branches, and the layers keep norm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from nero.geometry import project_, starts_at_zero
from nero.model.assignment import Assignment
from nero.model.trace import TracedLayer, trace


@torch.no_grad()
def hold_branches_small_(
    model: nn.Module,
    batch: Any,
    assignments: Iterable[Assignment],
    layers: Mapping[int, TracedLayer],
    may_change: Callable[[Assignment], bool],
) -> float | None:
    """Set the norm of the layers that end residual branches, in their options.

    Weights that are to be held at norm 1 are put there, for the model to be run once more.

    Args:
        model: the model.
        batch: what it is run on, as in `nero.model.trace.trace`.
        assignments: of its parameters, with their options.
        layers: the traced layer of each parameter, by identity.
        may_change: whether the caller has left a parameter's norm open.

    Returns:
        The norm; None where branches are not summed up, no layer ends one by itself, or no size is
        known.
    """
    assignments = list(assignments)
    last = [each for each in assignments if may_change(each) and _ends_branch(each, layers)]
    if not any(layers[id(each.parameter)].accumulates for each in last):
        return None
    for each in assignments:
        if each.options["radius"] == "unit" and not starts_at_zero(each.parameter, each.layout):
            project_(each.parameter, each.layout, center=each.options["center"], radius=1.0)
    found = trace(model, batch)
    ends = [found[each.names[0]] for each in last if each.names[0] in found]
    shares = [layer.share for layer in ends if layer.share]
    if not shares:
        return None
    branches = sum(layer.uses for layer in ends)
    norm = float(f"{min(1.0, 1 / (max(shares) * math.sqrt(branches))):.2g}")
    for each in last:
        each.options["radius"] = norm
    return norm


def _ends_branch(each: Assignment, layers: Mapping[int, TracedLayer]) -> bool:
    """Whether a parameter is a hidden weight whose product is added at a skip connection."""
    layer = layers.get(id(each.parameter))
    return (
        layer is not None
        and each.role == "weight"
        and each.names[0] == layer.name
        and layer.ends == {"skip"}
        and each.options["radius"] == "unit"
        and each.parameter.requires_grad
        and not starts_at_zero(each.parameter, each.layout)
    )
