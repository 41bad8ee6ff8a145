"""How tensors are cut into programs of one CUDA launch: integers only.

A program of the kernel (`nero.kernels.triton.rows`) updates a tile of a few neurons, and `Geometry`
says where the entries of one tensor's neurons lie: for each of w, g and m four strides, since
neurons and fan-in may each take two axes once adjacent ones are merged. That holds linear layers
either way round, convolutions in both memory formats, transposed and grouped ones, and experts.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

Strides = tuple[int, ...]

# What a thread holds of each of w, g and m: enough loads on their way to hide what each waits for,
# and few enough registers that many warps share a multiprocessor. A row of up to 1,024 entries is
# one warp's own, which then waits for no other.
PER_THREAD = 32
WARP = 32
# The most rows of a program whose rows are short: each costs a thread numbers in float64.
ROWS = 8
# Rows up to this length stay in registers and are read once; longer ones are read twice.
ONE_PASS = 8192
# Where neurons are not rows: entries of a tile, what the two-pass path holds of a row at a time,
# and how many neurons a program takes where neighbours in memory are neurons, so that a warp still
# reads whole cache lines.
TILE = 2048
CHUNK = 1024
NEIGHBOURS = 32
WARPS = 8
# Single entries in a program.
ENTRIES_TILE = 256
# Rows that start at multiples of so many entries, and bytes, are read 16 bytes at a time.
ALIGNED_ENTRIES, ALIGNED_BYTES = 8, 16

# Kinds of tile. From the first to the last `ROW` the kind is the base-2 logarithm of the columns.
ENTRIES = 0
FIRST_ROW, LAST_ROW = 4, 13
LONG_ROW = 14
SHORT_STRIDED = 15
LONG_STRIDED = 16
SHORT_STRIDED_COLUMNS = 64
ROW_KINDS = range(FIRST_ROW, LAST_ROW + 1)

# The columns of the geometry table, and of the table of addresses, which is new at each step.
GEOMETRY = (
    *("kind", "first_program", "neurons", "fan_in", "constrained"),
    *("neurons_inner", "fan_in_inner"),
    *(f"{x}_{axis}" for x in "wgm" for axis in ("outer", "inner", "fan_outer", "fan_inner")),
)
ADDRESSES = ("w", "g", "exp_avg", "rms", "radius", "scale", "step", "root_debias", "debias_m")
# Float64 numbers in front of the addresses.
NUMBERS = (
    *("lr", "sign", "radius", "root_beta", "root_rest", "log_beta"),
    *("momentum", "log_momentum", "least_rms"),
)


@dataclass(frozen=True, eq=False)
class Geometry:
    """One tensor's place in memory; compared by identity, as `geometry` caches it.

    Attributes:
        kind: the kind of tile its programs take.
        tile: neurons in one program.
        neurons: number of neurons.
        fan_in: entries in one neuron.
        constrained: whether its neurons are projected.
        inner: entries of the inner of the two axes of neurons, and of fan-in.
        strides: of w, g and m over (neurons outer, inner, fan-in outer, inner).
    """

    kind: int
    tile: int
    neurons: int
    fan_in: int
    constrained: bool
    inner: tuple[int, int]
    strides: tuple[Strides, ...]

    @property
    def programs(self) -> int:
        """How many programs this tensor takes."""
        return -(-self.neurons // self.tile)

    @property
    def aligned(self) -> bool:
        """Whether it may be read 16 bytes at a time, if it starts at a multiple of those."""
        starts = (self.fan_in, *(four[1] for four in self.strides))
        rows = self.kind in ROW_KINDS and not any(x % ALIGNED_ENTRIES for x in starts)
        return rows or self.kind == ENTRIES  # these go with either, and spare a launch


@functools.lru_cache(maxsize=2**14)
def geometry(
    shape: tuple[int, ...],
    fan_in_axes: tuple[int, ...],
    strides: tuple[Strides, ...],
    constrained: bool,
    one_pass: int,
) -> Geometry | None:
    """Where the neurons of a tensor lie, or None where it takes more axes than the kernel has.

    Args:
        shape: its split shape.
        fan_in_axes: the fan-in axes of that.
        strides: of w, g and, with momentum, m.
        constrained: whether its neurons are projected.
        one_pass: the longest row to be kept in registers.
    """
    if any(size > 1 and stride == 0 for size, stride in zip(shape, strides[0], strict=True)):
        return None  # an expanded weight: its entries are not its own
    counting = [i for i, size in enumerate(shape) if i not in fan_in_axes and size != 1]
    # The order inside a neuron is free: that of the weights in memory merges the most axes.
    inside = [i for i in fan_in_axes if shape[i] != 1]
    inside.sort(key=lambda i: strides[0][i], reverse=True)
    neurons, fan_in = (_merge(shape, axes, strides) for axes in (counting, inside))
    if neurons is None or fan_in is None:
        return None
    count, length = math.prod(neurons.sizes), math.prod(fan_in.sizes)
    adjacent = length == 1 or all(inner == 1 for _, inner in fan_in.strides)
    in_rows = neurons.sizes[0] == fan_in.sizes[0] == 1 and adjacent
    kind, tile = _tile(length, in_rows, one_pass)
    inner = (neurons.sizes[1], fan_in.sizes[1])
    four = tuple((*a, *b) for a, b in zip(neurons.strides, fan_in.strides, strict=True))
    return Geometry(kind, tile, count, length, constrained, inner, four)


def table(geometries: tuple[Geometry, ...]) -> tuple[list[list[int]], list[int]]:
    """The geometry table of a launch, and which of its rows owns each program."""
    programs = [shape.programs for shape in geometries]
    first_program = [0, *accumulate(programs)]
    rows = [
        [
            *(shape.kind, first_program[i]),
            *(shape.neurons, shape.fan_in, int(shape.constrained), *shape.inner),
            *(stride for four in (*shape.strides, (0,) * 4)[:3] for stride in four),
        ]
        for i, shape in enumerate(geometries)
    ]
    return rows, programs


class _TwoAxes(NamedTuple):
    sizes: tuple[int, int]
    strides: list[tuple[int, int]]  # of each tensor


def _merge(
    shape: tuple[int, ...], axes: list[int], strides: tuple[Strides, ...]
) -> _TwoAxes | None:
    """The axes as two, outer and inner; None if it takes more."""
    merged: list[tuple[int, list[int]]] = []
    for axis in axes:
        size, here = shape[axis], [x[axis] for x in strides]
        if merged and merged[-1][1] == [size * stride for stride in here]:
            merged[-1] = (merged[-1][0] * size, here)
        else:
            merged.append((size, here))
    if len(merged) > 2:
        return None
    (outer, far), (inner, near) = [(1, [0] * len(strides))] * (2 - len(merged)) + merged
    return _TwoAxes((outer, inner), list(zip(far, near, strict=True)))


def _tile(fan_in: int, in_rows: bool, one_pass: int) -> tuple[int, int]:
    """The kind of tile for neurons of this length and how many of them it holds."""
    if not in_rows:
        if fan_in <= min(one_pass, SHORT_STRIDED_COLUMNS):
            return SHORT_STRIDED, TILE // SHORT_STRIDED_COLUMNS
        return LONG_STRIDED, NEIGHBOURS
    if fan_in == 1:
        return ENTRIES, ENTRIES_TILE
    if fan_in > min(one_pass, 2**LAST_ROW):
        return LONG_ROW, 1
    kind = max(FIRST_ROW, (fan_in - 1).bit_length())
    return kind, rows(kind)


def rows(kind: int) -> int:
    """How many rows a tile of a kind of row holds."""
    return min(ROWS, max(1, PER_THREAD * WARP >> kind))


def warps(kind: int) -> int:
    """How many warps work on a tile of a kind; few different numbers, as each is a launch."""
    if kind not in ROW_KINDS:
        return 1 if kind == ENTRIES else WARPS
    needed = 2**kind // (PER_THREAD * WARP)
    return 1 if needed <= 1 else 4 if needed <= 4 else 8
