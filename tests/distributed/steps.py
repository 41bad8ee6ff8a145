"""What test_step.py runs in every process."""

from typing import Any

import torch

from distributed.cases import mesh_of, pair, random

# A few roundings a step. In float32 sums run in another order, in float64 by another formula too.
TOLERANCES = {torch.float32: 1e-6, torch.float64: 1e-12}

CONSTRAINTS: list[dict[str, Any]] = [
    {},
    {"center": False, "radius": "initial"},
    {"center": True, "radius": None, "momentum": 0.9},
    {"center": False, "radius": 2.5, "maximize": True},
    {"center": False, "radius": None, "relative": True},
]


def some_steps(mesh: Any, tensors: list[Any], dtype: torch.dtype, collectives: int) -> None:
    """Tensors (shape, neuron_axes, placements) under all constraints, each in its own group."""
    weights, placements, groups = [], [], []
    for shape, axes, where in tensors:
        for options in CONSTRAINTS:
            weights.append(random(*shape, seed=len(weights), dtype=dtype))
            placements.append(where)
            groups.append({"neuron_axes": axes, **options})
    both = pair(weights, mesh_of(*mesh), placements, groups, lr=0.03)
    both.check(TOLERANCES[dtype])  # as built
    for t in range(1, 6):
        both.step([random(*w.shape, seed=100 * t + i, dtype=dtype) for i, w in enumerate(weights)])
    both.check(TOLERANCES[dtype])
    # The first step measures scales again, which gathers norms.
    assert both.counts[1:] == [collectives] * 4, both.counts
