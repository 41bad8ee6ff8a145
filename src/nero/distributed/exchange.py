"""Sharded tensors made whole, each in one of the processes that hold its shards, and cut again.

Some sums over a layer cannot be formed from sums over its shards. Each layer then goes to one
process, its owner, and comes back. Both ways are one all-to-all for all layers of a step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nero.distributed.shards import as_dtensor, local, shard_axis

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


class Part(NamedTuple):
    """What one process holds of a tensor.

    Attributes:
        places: `whole[places]` is that part.
        shape: its shape.
    """

    places: tuple[Any, ...]
    shape: tuple[int, ...]


class Sharing(NamedTuple):
    """How processes share a tensor.

    Attributes:
        shape: of the whole tensor.
        group: the processes, which hold all of it between them and each another part.
        parts: their parts, by rank in the group.
    """

    shape: tuple[int, ...]
    group: ProcessGroup
    parts: tuple[Part, ...]


def sharing_of(p: Tensor) -> Sharing:
    """How a DTensor is shared by the processes along the dimensions of its mesh that shard it.

    The first call for some dimensions of a mesh may make a process group, and has to be made in
    all processes of the mesh.

    Raises:
        RuntimeError: this process holds another part than its placements say.
    """
    p = as_dtensor(p)
    # Process groups do not outlive the default one.
    found = _sharing(tuple(p.shape), p.device_mesh, p.placements, torch.distributed.group.WORLD)
    mine, held = found.parts[torch.distributed.get_rank(found.group)].shape, tuple(local(p).shape)
    if held != mine:
        raise RuntimeError(f"{p.placements} leave this process a part of {mine}, not of {held}")
    return found


@functools.lru_cache(maxsize=4096)
def _sharing(
    shape: tuple[int, ...], mesh: DeviceMesh, placements: tuple[Any, ...], world: Any
) -> Sharing:
    dims = tuple(
        dim
        for dim, placement in enumerate(placements)
        if shard_axis(placement) is not None and mesh.size(dim) > 1
    )
    group = _group(mesh, dims, world)
    ranks = torch.distributed.get_process_group_ranks(group)
    places = [(mesh.mesh == rank).nonzero()[0].tolist() for rank in ranks]
    return Sharing(shape, group, tuple(_part(shape, mesh, placements, at) for at in places))


@functools.lru_cache(maxsize=64)
def _group(mesh: DeviceMesh, dims: tuple[int, ...], world: Any) -> ProcessGroup:
    """This process's group along some dimensions of a mesh."""
    if len(dims) == 1:
        return mesh.get_group(dims[0])
    here = mesh.get_coordinate()
    assert here is not None
    index = tuple(slice(None) if dim in dims else at for dim, at in enumerate(here))
    ranks = sorted(mesh.mesh[index].flatten().tolist())
    if ranks == torch.distributed.get_process_group_ranks(world):
        return world
    group = torch.distributed.new_group(ranks, use_local_synchronization=True)
    assert not isinstance(group, int)
    return group


def _part(
    shape: tuple[int, ...], mesh: DeviceMesh, placements: tuple[Any, ...], at: Sequence[int]
) -> Part:
    """The part of the process at some coordinates of the mesh."""
    along = [torch.arange(size) for size in shape]
    for dim, placement in enumerate(placements):
        axis = shard_axis(placement)
        if axis is not None:
            # A strided placement shards what another dimension has sharded in so many pieces.
            pieces = along[axis].chunk(getattr(placement, "split_factor", 1))
            along[axis] = torch.cat([_chunk(piece, mesh.size(dim), at[dim]) for piece in pieces])
    sizes = tuple(map(len, along))
    if all(not len(index) or index[-1] - index[0] + 1 == len(index) for index in along):
        starts = [int(index[0]) if len(index) else 0 for index in along]
        slices = [slice(start, start + n) for start, n in zip(starts, sizes, strict=True)]
        return Part(tuple(slices), sizes)
    lines = [index.view(-1, *[1] * (len(shape) - axis - 1)) for axis, index in enumerate(along)]
    return Part(tuple(lines), sizes)


def _chunk(index: Tensor, count: int, which: int) -> Tensor:
    chunks = index.chunk(count)
    return chunks[which] if which < len(chunks) else index[:0]


def owners(costs: Sequence[float], processes: int) -> list[int]:
    """Which process works on each tensor, the costliest first and each where least is to be done.

    The same in every process, which all have the same costs.
    """
    found, loads = [0] * len(costs), [0.0] * processes
    for index in sorted(range(len(costs)), key=lambda i: -costs[i]):
        found[index] = loads.index(min(loads))
        loads[found[index]] += costs[index]
    return found


def to_owners(
    parts: Sequence[Tensor], sharings: Sequence[Sharing], owner: Sequence[int]
) -> dict[int, Tensor]:
    """Make tensors whole, each in its owner; to be called in all processes of the group.

    Args:
        parts: what this process holds of each, all of one dtype.
        sharings: of each, all over the same group.
        owner: of each, its rank in the group.

    Returns:
        By their places in `parts`, the whole tensors that this process owns.
    """
    group = sharings[0].group
    mine = _owned(owner, group)
    sent = [_of(owner, rank, parts) for rank in range(torch.distributed.get_world_size(group))]
    shapes = [[sharings[i].parts[rank].shape for i in mine] for rank in range(len(sent))]
    received = _all_to_all(sent, shapes, group, parts[0])
    wholes: dict[int, Tensor] = {}
    for place, i in enumerate(mine):
        wholes[i] = parts[i].new_empty(sharings[i].shape)
        for part, theirs in zip(sharings[i].parts, received, strict=True):
            wholes[i][part.places] = theirs[place]
    return wholes


def from_owners(
    wholes: Mapping[int, Tensor], like: Tensor, sharings: Sequence[Sharing], owner: Sequence[int]
) -> list[Tensor]:
    """The way back: what this process holds of each tensor.

    Args:
        wholes: by their places, those that this process owns.
        like: a tensor of their dtype and device.
        sharings: as for `to_owners`.
        owner: as for `to_owners`.
    """
    group = sharings[0].group
    ranks = range(torch.distributed.get_world_size(group))
    mine, me = _owned(owner, group), torch.distributed.get_rank(group)
    sent = [[wholes[i][sharings[i].parts[rank].places] for i in mine] for rank in ranks]
    held = [sharing.parts[me].shape for sharing in sharings]
    shapes = [_of(owner, rank, held) for rank in ranks]
    received = [iter(parts) for parts in _all_to_all(sent, shapes, group, like)]
    return [next(received[rank]) for rank in owner]


def _owned(owner: Sequence[int], group: ProcessGroup) -> list[int]:
    me = torch.distributed.get_rank(group)
    return [i for i, rank in enumerate(owner) if rank == me]


def _of(owner: Sequence[int], rank: int, items: Sequence[Any]) -> list[Any]:
    """Those of the items whose tensors belong to one process."""
    return [item for item, owned_by in zip(items, owner, strict=True) if owned_by == rank]


def _all_to_all(
    sent: Sequence[Sequence[Tensor]],
    shapes: Sequence[Sequence[tuple[int, ...]]],
    group: ProcessGroup,
    like: Tensor,
) -> list[list[Tensor]]:
    """Send tensors to every process of a group, and receive tensors of these shapes from each."""
    out_sizes = [sum(x.numel() for x in parts) for parts in sent]
    in_sizes = [sum(map(math.prod, each)) for each in shapes]
    out = like.new_empty(sum(out_sizes))
    flat = [x.reshape(-1) for parts in sent for x in parts]
    if flat:
        torch.cat(flat, out=out)
    received = like.new_empty(sum(in_sizes))
    torch.distributed.all_to_all_single(received, out, in_sizes, out_sizes, group=group)
    found = []
    for part, each in zip(received.split(in_sizes), shapes, strict=True):
        pieces = part.split([math.prod(shape) for shape in each])
        found.append([x.view(shape) for x, shape in zip(pieces, each, strict=True)])
    return found
