"""Sums over neurons of which this process holds a part, and numbers per neuron spread over it.

Everything here is local: what a process adds up is its share of the sums, in float64, and adding
the shares of all processes makes them whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nero.distributed.shards import Shards, local, moved, shard_axis
from nero.neurons import NeuronLayout, blocks_by_axis
from nero.rounding import Place

# Entries that are in float64 at one time; enough to hide the cost of a call.
CPU_PIECE = 2**18
ACCELERATOR_PIECE = 2**24
# Squares of float64 may leave its range: they are summed scaled down and up as well.
SCALE = 2.0**600


class Parts:
    """The part that this process holds of the neurons of one tensor.

    Attributes:
        sizes: shape of one number per neuron, along the axes of the tensor: 1 on fan-in axes, and
            on an axis of blocks as many as there are blocks.
    """

    def __init__(self, layout: NeuronLayout, shards: Shards, device: torch.device) -> None:
        blocks = blocks_by_axis(layout.neuron_axes, layout.shape)
        kept = blocks_by_axis(shards.local_axes, layout.shape)  # in this process
        places = [axis_index(layout.shape[axis], axis, shards) for axis in range(len(layout.shape))]
        self._shape = [len(place) for place in places]
        self._piece = CPU_PIECE if device.type == "cpu" else ACCELERATOR_PIECE
        # For each axis of blocks: which block each entry along it belongs to.
        self._blocks: dict[int, Tensor] = {}
        sizes = [1] * len(places)
        for axis, count in blocks.items():
            sizes[axis] = self._shape[axis]
            if count != layout.shape[axis]:
                block = places[axis] // (layout.shape[axis] // count)
                if kept[axis] != count:  # it has some of the blocks, and those whole
                    block = block.unique(return_inverse=True)[1]
                sizes[axis] = kept[axis]
                self._blocks[axis] = block.to(device)
        self.sizes = tuple(sizes)
        self._fan_in = tuple(axis for axis in range(len(places)) if axis not in blocks)
        self._along_rows = 0 in blocks and 0 not in self._blocks

    def pieces(self) -> Iterator[slice]:
        """Cuts along the first axis that keep temporaries small."""
        rows, *rest = self._shape
        length = max(1, self._piece // max(1, math.prod(rest)))
        for start in range(0, rows, length):
            yield slice(start, start + length)

    def add_(self, sums: Tensor, x: Tensor, piece: slice) -> None:
        """Add to `sums` (`sizes`) what `x`, a piece of the tensor, contributes to each neuron."""
        total = x.sum(self._fan_in, keepdim=True) if self._fan_in else x
        for axis, index in self._blocks.items():
            shape = [*total.shape[:axis], self.sizes[axis], *total.shape[axis + 1 :]]
            index = index[piece] if axis == 0 else index
            total = total.new_zeros(shape).index_add_(axis, index, total)
        sums[piece if self._along_rows else slice(None)] += total

    def spread(self, value: Tensor, piece: slice) -> Tensor:
        """One number per neuron (`sizes`) as it broadcasts against a piece of the tensor."""
        for axis, index in self._blocks.items():
            value = value.index_select(axis, index[piece] if axis == 0 else index)
        return value[piece] if self._along_rows else value


@functools.lru_cache(maxsize=4096)
def parts_of(layout: NeuronLayout, shards: Shards, device: torch.device) -> Parts:
    """The parts of a tensor of two or more axes, remembered from step to step."""
    return Parts(layout, shards, device)


def axis_index(size: int, axis: int, shards: Shards) -> Tensor:
    """Where the entries that this process holds lie along one axis of a tensor, (local size,)."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    placements = [
        moved(each, 0) if shard_axis(each) == axis else Replicate() for each in shards.given
    ]
    index = torch.arange(size, device=shards.mesh.device_type)
    # Every process has the whole of it, so that nothing is sent.
    return local(distribute_tensor(index, shards.mesh, placements, src_data_rank=None))


@functools.lru_cache(maxsize=4096)
def place_of(layout: NeuronLayout, shards: Shards) -> Place:
    """Where this process's part lies in the whole tensor, over the axes of the split view.

    A part whose neurons are sharded has no split view: its place is over the axes of the tensor.
    """
    offsets = [
        int(index[0]) if len(index) else 0
        for index in (axis_index(n, axis, shards) for axis, n in enumerate(layout.shape))
    ]
    if shards.sharded:
        return Place.of(layout.shape, tuple(offsets))
    blocks = blocks_by_axis(layout.neuron_axes, layout.shape)
    split: list[int] = []
    for axis, offset in enumerate(offsets):
        size, count = layout.shape[axis], blocks.get(axis)
        split += [offset] if count in (None, size) else [offset // (size // count), 0]
    return Place.of(layout.split_shape, tuple(split))


def square_rows(x: Tensor) -> list[Tensor]:
    """`x**2`, for `square_root`: once, or for float64 scaled down, as it is and scaled up."""
    exact = x.to(torch.float64)
    if x.dtype != torch.float64:  # the squares of narrower dtypes are in float64's range
        return [exact * exact]
    return [(exact / SCALE) ** 2, exact * exact, (exact * SCALE) ** 2]


def square_root(rows: Tensor, fan_in: int) -> Tensor:
    """The 2-norm from sums of `square_rows`; infinite or NaN where an entry was."""
    if len(rows) == 1:
        return rows[0].sqrt()
    down, plain, up = rows
    root = torch.where(plain < 1e-200 * fan_in, up.sqrt() / SCALE, plain.sqrt())
    return torch.where(torch.isfinite(plain), root, down.sqrt() * SCALE)
