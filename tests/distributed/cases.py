"""What the processes of the pool run: a tensor on a mesh beside the same tensor in one process."""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard

from nero import Nero

R, S0, S1, S2 = Replicate(), Shard(0), Shard(1), Shard(2)
# FSDP of what tensor parallelism has sharded along the same axis.
S0_OF_S0 = _StridedShard(0, split_factor=2)

_meshes: dict[tuple[int, ...], DeviceMesh] = {}


def mesh_of(*shape: int) -> DeviceMesh:
    """A mesh of all processes of the pool, made once."""
    if shape not in _meshes:
        _meshes[shape] = init_device_mesh("cpu", shape)
    return _meshes[shape]


def shard(x: Tensor, mesh: DeviceMesh, placements: Iterable[Any]) -> DTensor:
    """`x`, which every process has, as a DTensor with memory of its own; nothing is sent."""
    placements = tuple(placements)
    part = x
    for axis in range(x.ndim):
        along = tuple(
            _of_axis_0(each) if getattr(each, "dim", None) == axis else R for each in placements
        )
        part = part.index_select(axis, _index(x.shape[axis], mesh, along))
    return DTensor.from_local(
        part.clone(), mesh, placements, run_check=False, shape=x.shape, stride=x.stride()
    )


def _of_axis_0(placement: Any) -> Any:
    if isinstance(placement, _StridedShard):
        return _StridedShard(0, split_factor=placement.split_factor)
    return S0


@functools.cache
def _index(size: int, mesh: DeviceMesh, placements: tuple[Any, ...]) -> Tensor:
    return distribute_tensor(torch.arange(size), mesh, placements, src_data_rank=None).to_local()


def whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


@dataclass
class Pair:
    """The same parameters in one process and on a mesh, each under its own optimiser."""

    alone: Nero
    spread: Nero
    placements: list[tuple[Any, ...]]
    mesh: DeviceMesh
    counts: list[int] = field(default_factory=list)

    @property
    def params(self) -> list[tuple[Tensor, Any]]:
        ours = [p for group in self.alone.param_groups for p in group["params"]]
        theirs = [p for group in self.spread.param_groups for p in group["params"]]
        return list(zip(ours, theirs, strict=True))

    def give(self, gradients: list[Tensor | None]) -> None:
        for (p, q), g, where in zip(self.params, gradients, self.placements, strict=True):
            p.grad = None if g is None else g.clone()
            q.grad = None if g is None else shard(g, self.mesh, where)

    def step(self, gradients: list[Tensor | None]) -> None:
        """One step of both; counts the collectives that the one on the mesh took."""
        self.give(gradients)
        self.alone.step()
        with CommDebugMode() as communication:
            self.spread.step()
        self.counts.append(communication.get_total_counts())

    def check(self, tolerance: float) -> None:
        """Weights and state agree to `tolerance`, relative to the largest entry of each tensor."""
        for p, q in self.params:
            _close(p.detach(), q.detach(), tolerance, "weights")
            ours, theirs = self.alone.state[p], self.spread.state[q]
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                _close(value, theirs[name], tolerance, name)


def _close(expected: Tensor, found: Tensor, tolerance: float, name: str) -> None:
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), name
    size = expected.abs().nan_to_num(0).max().item()
    if isinstance(found, DTensor):
        expected = shard(expected, found.device_mesh, found.placements).to_local()
        found = found.to_local()
    assert torch.equal(found.isnan(), expected.isnan()), name
    worst = (found.double() - expected.double()).abs().nan_to_num(0)
    if worst.numel():
        assert worst.max() <= tolerance * size, f"{name}: off by {worst.max():.3g} of {size:.3g}"


def pair(
    weights: list[Tensor],
    mesh: DeviceMesh,
    placements: list[tuple[Any, ...]],
    groups: list[dict[str, Any]] | None = None,
    **options: Any,
) -> Pair:
    """The optimisers over parameters of these values; `groups` has options for each parameter."""
    each = groups or [{} for _ in weights]
    ours = [
        {"params": [(f"p{i}", torch.nn.Parameter(w.clone()))], **extra}
        for i, (w, extra) in enumerate(zip(weights, each, strict=True))
    ]
    theirs = [
        {"params": [(f"p{i}", torch.nn.Parameter(shard(w, mesh, where)))], **extra}
        for i, (w, extra, where) in enumerate(zip(weights, each, placements, strict=True))
    ]
    return Pair(Nero(ours, **options), Nero(theirs, **options), placements, mesh)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 1000 + math.prod(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
