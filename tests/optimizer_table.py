"""What the optimiser's tests run over: tensors, constraints, paths, schedules, tolerances."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from optax_problem import CONSTRAINTS as CONSTRAINTS


@dataclass(frozen=True)
class TensorRow:
    """A weight as some layer stores it, and its neurons as flat indices into it."""

    name: str
    shape: tuple[int, ...]
    neuron_axes: tuple[Any, ...]
    neurons: list[list[int]]


def _flat(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(math.prod(shape)).view(shape)


def _along(shape: tuple[int, ...], axis: int) -> list[list[int]]:
    index = _flat(shape)
    return [index.select(axis, k).flatten().tolist() for k in range(shape[axis])]


def _grouped_transposed(shape: tuple[int, ...], groups: int) -> list[list[int]]:
    """Weight (in, out / groups, ...): output o of group g reads the inputs of group g alone."""
    index, per_group = _flat(shape), shape[0] // groups
    return [
        index[g * per_group : (g + 1) * per_group, o].flatten().tolist()
        for g in range(groups)
        for o in range(shape[1])
    ]


def _experts(shape: tuple[int, ...]) -> list[list[int]]:
    index = _flat(shape)
    return [index[e, o].flatten().tolist() for e in range(shape[0]) for o in range(shape[1])]


TENSORS = [
    TensorRow("linear", (5, 7), (0,), _along((5, 7), 0)),
    TensorRow("linear (in, out)", (6, 4), (1,), _along((6, 4), 1)),
    TensorRow("conv", (4, 3, 2, 3), (0,), _along((4, 3, 2, 3), 0)),
    TensorRow("grouped conv", (4, 1, 3, 3), (0,), _along((4, 1, 3, 3), 0)),
    TensorRow("transposed conv", (3, 4, 2, 2), (1,), _along((3, 4, 2, 2), 1)),
    TensorRow(
        "grouped transposed conv",
        (4, 3, 2, 2),
        ((0, 2), 1),
        _grouped_transposed((4, 3, 2, 2), 2),
    ),
    TensorRow("experts", (2, 3, 5), (0, 1), _experts((2, 3, 5))),
    TensorRow("whole layer", (3, 4), (), [list(range(12))]),
    TensorRow("bias", (6,), (0,), [[i] for i in range(6)]),
    TensorRow("scalar", (), (0,), [[0]]),
]


@dataclass(frozen=True)
class PathRow:
    """A way to run the same update."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    tensor_lr: bool = False


PATHS = [
    PathRow("default"),
    PathRow("single", {"foreach": False}),
    PathRow("foreach", {"foreach": True}),
    PathRow("single capturable", {"foreach": False, "capturable": True}, tensor_lr=True),
    PathRow("foreach capturable", {"foreach": True, "capturable": True}, tensor_lr=True),
]

if os.environ.get("NERO_CPU") != "none":  # see conftest.py
    PATHS.append(PathRow("fused", {"fused": True}))

SCHEDULES: dict[str, Callable[[int], float]] = {
    "constant": lambda t: 0.01,
    "warm-up and cosine": lambda t: 0.02 * min(1, t / 10) * (1 + math.cos(math.pi * t / 100)) / 2,
    "with steps of 0": lambda t: 0.0 if t % 7 == 3 else 0.03,
}

# Float64 paths do the oracle's arithmetic in another order: 100 steps of a few roundings each.
FLOAT64_TOLERANCE = 1e-12
# Float32 paths differ from one another in the order of sums alone.
FLOAT32_TOLERANCE = 1e-6


def names(rows: list[Any]) -> list[str]:
    return [row.name for row in rows]
