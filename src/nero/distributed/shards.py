"""How the neurons of a DTensor lie over its mesh: which are whole, which are sharded.

A tensor sharded along axes that count neurons, or replicated, has every neuron whole in some
process, and all arithmetic is local. Sharding along a fan-in axis shards neurons; so does sharding
an axis of blocks (`(axis, blocks)`) where the shards are not made of whole blocks.

DTensors are looked for only where `torch.distributed.tensor` has been imported, by whoever made
them: the library does not pay for that import.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nero.neurons import AxisSpec, NeuronLayout, blocks_by_axis

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Placement


@dataclass(frozen=True)
class Shards:
    """How the neurons of a tensor lie over a mesh.

    Attributes:
        mesh: the mesh.
        given: the tensor's own placements.
        sharded: the dimensions of the mesh along which neurons are sharded; sums over a neuron are
            sums over the processes along these.
        placements: where one number per neuron (`NeuronLayout.neuron_shape`) lives: as the
            neurons, and replicated where they are sharded.
        local_axes: `neuron_axes` of the neurons of one process, sharded ones put together.
        counts: whether this process is the one that counts its neurons, of all that hold them.
    """

    mesh: DeviceMesh
    given: tuple[Placement, ...]
    sharded: tuple[int, ...]
    placements: tuple[Placement, ...]
    local_axes: tuple[AxisSpec, ...]
    counts: bool


def is_dtensor(x: object) -> bool:
    """Whether `x` is a DTensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def any_dtensor(tensors: Iterable[object]) -> bool:
    """Whether one of them is a DTensor: `is_dtensor` of each, for many at once."""
    module = sys.modules.get("torch.distributed.tensor")
    # Of many tensors there are few types.
    return module is not None and any(
        issubclass(kind, module.DTensor) for kind in {*map(type, tensors)}
    )


def local(x: Any) -> Any:
    """The part of a DTensor that this process holds, always the same object; else `x` itself."""
    if not is_dtensor(x):
        return x
    part = x._local_tensor  # to_local() makes a new object of a parameter's each time
    return part.wait() if hasattr(part, "wait") else part  # it may be on its way still


def full(x: Tensor) -> Tensor:
    """The whole of a DTensor, in every process (which communicates); else `x` itself."""
    return x.full_tensor() if is_dtensor(x) else x  # type: ignore[attr-defined]


def shards_of(p: Tensor, layout: NeuronLayout) -> Shards:
    """How the neurons of a DTensor, `layout.shape`, lie over its mesh."""
    p = as_dtensor(p)
    return _shards(layout, p.device_mesh, p.placements)


def as_dtensor(x: Any) -> DTensor:
    """`x`, for the type checker."""
    return x


@functools.lru_cache(maxsize=4096)
def _shards(layout: NeuronLayout, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> Shards:
    from torch.distributed.tensor import Replicate

    blocks = blocks_by_axis(layout.neuron_axes, layout.shape)
    split = _split_axes(layout, blocks)
    pieces = _piece_counts(mesh, placements)
    sharded: list[int] = []
    of_state: list[Placement] = []
    for dim, placement in enumerate(placements):
        axis = shard_axis(placement)
        if placement.is_partial():
            raise ValueError(f"it is made of partial sums ({placement} over mesh dimension {dim})")
        if axis is None or mesh.size(dim) == 1:
            of_state.append(Replicate())
        elif _keeps_whole(layout.shape[axis], blocks.get(axis), pieces[axis]):
            of_state.append(moved(placement, split[axis]))
        else:
            sharded.append(dim)
            of_state.append(Replicate())
    whole = [each if dim not in sharded else Replicate() for dim, each in enumerate(placements)]
    shards = {
        axis: math.prod(mesh.size(d) for d, each in enumerate(whole) if shard_axis(each) == axis)
        for axis in blocks
    }
    local_axes = tuple(
        axis if count == layout.shape[axis] else (axis, count // shards[axis])
        for axis, count in blocks.items()
    )
    coordinate = mesh.get_coordinate() or [0] * len(placements)
    held = [dim for dim, placement in enumerate(of_state) if placement.is_replicate()]
    counts = all(coordinate[dim] == 0 for dim in held)
    return Shards(mesh, placements, tuple(sharded), tuple(of_state), local_axes, counts)


def shard_axis(placement: Any) -> int | None:
    """The axis of the tensor that a placement shards (strided or not); None where it does not."""
    return getattr(placement, "dim", None)


def _piece_counts(mesh: DeviceMesh, placements: Any) -> dict[int, int]:
    """Into how many shards the mesh cuts each axis; more, where a shard is not in one piece."""
    counts: dict[int, int] = {}
    for dim, placement in enumerate(placements):
        axis = shard_axis(placement)
        if axis is not None:
            strides = getattr(placement, "split_factor", 1)
            counts[axis] = counts.get(axis, 1) * mesh.size(dim) * strides
    return counts


def _keeps_whole(size: int, blocks: int | None, pieces: int) -> bool:
    """Whether pieces of an axis that counts `blocks` neurons (None: fan-in) are of whole ones."""
    return blocks is not None and (blocks == size or blocks % pieces == 0)


def _split_axes(layout: NeuronLayout, blocks: dict[int, int]) -> list[int]:
    """Where each axis of the tensor, or its blocks, is in `layout.split_shape`."""
    found, place = [], 0
    for axis, size in enumerate(layout.shape):
        found.append(place)
        place += 1 if blocks.get(axis) in (None, size) else 2
    return found


def moved(placement: Any, axis: int) -> Placement:
    """The same placement for another axis."""
    if placement.dim == axis:
        return placement
    if hasattr(placement, "split_factor"):
        return type(placement)(axis, split_factor=placement.split_factor)
    return type(placement)(axis)


def whole_blocks(p: Tensor, layout: NeuronLayout, blocks: int) -> int | None:
    """How many blocks of its last axis of neurons this process's part of a DTensor has.

    None if a shard does not hold every block, each with all of its neurons, whole or not at all.

    Args:
        p: the DTensor.
        layout: its layout.
        blocks: how many blocks of equal size the whole axis has.
    """
    shards = shards_of(p, layout)
    if shards.sharded:
        return None
    axis = max(blocks_by_axis(layout.neuron_axes, layout.shape), default=None)
    pieces = _piece_counts(shards.mesh, shards.given).get(axis, 1) if axis is not None else 1
    if blocks % pieces:
        return None
    parts = [d for d, each in enumerate(shards.given) if shard_axis(each) == axis]
    return blocks // math.prod(shards.mesh.size(dim) for dim in parts)


# ---- whole neurons, for what may communicate ---------------------------------------------------


def over_neurons(
    function: Callable[..., Tensor], tensors: Sequence[Tensor], layout: NeuronLayout
) -> Tensor:
    """`function(*tensors, layout)`, one number per neuron, on the neurons of each process.

    Neurons that are sharded are gathered first.

    Returns:
        A DTensor of `layout.neuron_shape`, placed as the neurons are.
    """
    shards = shards_of(tensors[0], layout)
    parts = [gather_neurons(x, shards) for x in tensors]
    result = function(*parts, NeuronLayout(tuple(parts[0].shape), shards.local_axes))
    return place(result, layout.neuron_shape, shards)


def on_neurons_(
    function: Callable[[Tensor, NeuronLayout], Any], w: Tensor, layout: NeuronLayout
) -> None:
    """Change `w` by `function(part, layout)`, in place on the neurons of each process."""
    shards = shards_of(w, layout)
    part = gather_neurons(w, shards)
    function(part, NeuronLayout(tuple(part.shape), shards.local_axes))
    if shards.sharded:
        from torch.distributed.tensor import DTensor

        # Back to the shards: every process has all of it, so that nothing is sent.
        whole = DTensor.from_local(
            part,
            shards.mesh,
            _gathered(w, shards),
            run_check=False,
            shape=w.shape,
            stride=w.stride(),
        )
        local(w).copy_(local(as_dtensor(whole).redistribute(placements=as_dtensor(w).placements)))


def gather_neurons(x: Tensor, shards: Shards) -> Tensor:
    """The neurons of this process, whole; shares memory with `x` where none is sharded."""
    with torch.no_grad():
        if not shards.sharded:
            return local(x)
        return local(as_dtensor(x.detach()).redistribute(placements=_gathered(x, shards)))


def place(part: Tensor, shape: tuple[int, ...], shards: Shards) -> Tensor:
    """A DTensor of one number per neuron from this process's neurons; shares their memory."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        shards.mesh,
        shards.placements,
        run_check=False,
        shape=torch.Size(shape),
        stride=tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape))),
    )


def _gathered(x: Tensor, shards: Shards) -> list[Placement]:
    from torch.distributed.tensor import Replicate

    placements = as_dtensor(x).placements
    return [Replicate() if dim in shards.sharded else each for dim, each in enumerate(placements)]


def distribute(value: Tensor, mesh: DeviceMesh, placements: Sequence[Placement]) -> Tensor:
    """A tensor that every process has, as a DTensor of which each keeps its part; sends nothing."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(mesh.device_type), mesh, list(placements), src_data_rank=None)
