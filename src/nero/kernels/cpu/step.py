"""All tensors of a group in one call of the compiled CPU kernel.

The kernel reads each gradient once and each weight once, and writes each weight once. It is given
addresses, which are new at every step; those of shapes (loops and strides) are shared by tensors
that are alike.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from nero.kernels.cpu.library import GroupFields, Library, load
from nero.kernels.facts import Column, Facts
from nero.kernels.settings import (
    STATE,
    Settings,
    split_strides,
    why_not_read,
    why_not_state,
)
from nero.neurons import NeuronLayout
from nero.rounding import Place, is_stochastic
from nero.state import Hyper, constraints, state_shapes

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
MAX_DIMS = 3
CENTER, NORMALIZE, INITIAL, STOCHASTIC = 1, 2, 4, 8
NONFINITE = {"skip": 0, "raise": 0, "propagate": 1}  # "raise" has looked before

# (size, strides in w, g, m and the index by which noise is made, or 0)
Loop = tuple[int, int, int, int, int]


class Shape(NamedTuple):
    """What the kernel has to know of a tensor but its addresses.

    Attributes:
        numbers: dtype, flags, offset, neurons, fan-in, and two nests of loops.
        address: where they lie.
    """

    numbers: array[int]
    address: int


def shape_of(
    settings: Settings, place: Place | None, w: Facts, g: Facts, state: Mapping[str, Facts]
) -> Shape | str:
    """The shape of a tensor as the kernel takes it, or why it cannot take it.

    Args:
        settings: of its group.
        place: where a shard lies in the whole parameter, for its noise; None if it is all of it.
        w: the facts of the tensor.
        g: of its gradient.
        state: of its state, by name; what is missing is taken to fit.
    """
    if reason := _why_not(w, g):
        return reason
    layout = NeuronLayout(tuple(w.shape), settings.neuron_axes)
    stochastic = is_stochastic(settings.rounding, w.dtype)
    wanted = state_shapes(
        layout,
        w.dtype,
        center=settings.center,
        radius=settings.radius,
        momentum=settings.momentum,
        rounding=settings.rounding,
    )
    for name, shape in wanted.items():
        x = state.get(name)
        if x and (reason := why_not_state(name, x, shape, w.dtype)):
            return reason
    if not stochastic:
        place = None
    elif place is None:
        place = Place.of(layout.split_shape)
    average = state.get("exp_avg", w) if settings.momentum else None
    loops = _loops(layout, [w, g, average], place)
    if loops is None:
        return f"its axes do not merge into {MAX_DIMS} loops"
    center, normalize = constraints(layout, settings.center, settings.radius)
    flags = CENTER * center + NORMALIZE * normalize + STOCHASTIC * stochastic
    flags += INITIAL * (normalize and settings.radius == "initial")
    # An empty tensor has a step count and nothing else.
    neurons = layout.neurons if math.prod(w.shape) else 0
    first = [DTYPES.index(w.dtype), flags, place.offset if place else 0, neurons, layout.fan_in]
    numbers = array("q", [*first, *_packed(loops[0]), *_packed(loops[1])])
    return Shape(numbers, numbers.buffer_info()[0])


class Batch:
    """Tensors of one group that fit, ready to be stepped; holds on to all whose addresses it has.

    Args:
        hyper: hyperparameters of the group; waits for a learning rate on a device.
    """

    def __init__(self, hyper: Hyper) -> None:
        lr = float(hyper.lr)
        radius = hyper.radius if isinstance(hyper.radius, (int, float)) else 1.0
        nonfinite = NONFINITE[hyper.nonfinite]
        lr = -lr if hyper.maximize else lr
        max_turn = math.inf if hyper.max_turn is None else hyper.max_turn
        self._fields = GroupFields(lr, hyper.beta, hyper.momentum, radius, nonfinite, max_turn)
        self._columns: dict[str, array[int]] = defaultdict(lambda: array("Q"))
        self._kept: list[Any] = []

    def add(self, shapes: Sequence[Shape], columns: Mapping[str, Column]) -> None:
        """Add tensors.

        Args:
            shapes: one for each tensor.
            columns: by name, the tensors ("w"), their gradients ("g") and their state.
        """
        self._columns["shape"].fromlist([shape.address for shape in shapes])
        for name, column in columns.items():
            self._columns[name].fromlist(column.addresses)
        self._kept.append((shapes, columns))

    def run(self) -> int:
        """Update them and count their steps; returns how many neurons were skipped."""
        library = load()
        assert isinstance(library, Library)
        absent = array("Q", bytes(8 * len(self._columns["shape"])))
        names = ("shape", "w", "g", *STATE)
        return library.step([self._columns.get(name, absent) for name in names], self._fields)


def _why_not(w: Facts, g: Facts) -> str:
    if w.dtype not in DTYPES or g.dtype != w.dtype:
        return f"it is {w.dtype} with a gradient of {g.dtype}"
    return why_not_read(w, g)


def _loops(
    layout: NeuronLayout, tensors: list[Facts | None], place: Place | None
) -> tuple[list[Loop], list[Loop]] | None:
    """The loops over neurons and over a neuron's entries, merged; None if they are too many."""
    nests: tuple[list[Loop], list[Loop]] = ([], [])
    w, g, m = (split_strides(layout, x) for x in tensors)
    i = place.strides if place else (0,) * len(w)
    for axis, size in enumerate(layout.split_shape):
        if size != 1:
            loop = (size, w[axis], g[axis], m[axis], i[axis])
            nests[axis in layout.fan_in_axes].append(loop)
    # Neurons stay in order, which is that of their state; their entries go as memory goes.
    nests[1].sort(key=lambda loop: loop[1], reverse=True)
    merged = _merge(nests[0]), _merge(nests[1])
    return merged if max(map(len, merged)) <= MAX_DIMS else None


def _merge(loops: list[Loop]) -> list[Loop]:
    merged: list[Loop] = []
    for loop in loops:
        size, *strides = loop
        if merged and [size * stride for stride in strides] == list(merged[-1][1:]):
            merged[-1] = (merged[-1][0] * size, *loop[1:])
        else:
            merged.append(loop)
    return merged


def _packed(loops: list[Loop]) -> list[int]:
    """A nest of loops in the fields of kernel.h: how many, then all sizes, all strides in w, ..."""
    padding = [0] * (MAX_DIMS - len(loops))
    return [len(loops), *(n for field in range(5) for n in [*(x[field] for x in loops), *padding])]
