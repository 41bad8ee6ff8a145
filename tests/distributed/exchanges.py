"""What test_orthogonal.py runs in every process: orthogonal directions of layers on a mesh."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import nero
from distributed.cases import S0, S1, Pair, R, mesh_of, pair, random
from distributed.models import WAYS, Spread, distance, fresh, train
from distributed.steps import TOLERANCES
from nero.distributed.exchange import _group
from nero.step.compiled import compiled_step

STEPS = 20
# All at once: several layers of one shape, so that stacks are of several, and of different cost.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"center": False, "radius": "initial", "max_turn": 1.0},
    {"radius": None, "momentum": 0.5, "maximize": True},
]


def layers(mesh: Any, tensors: list[Any], dtype: torch.dtype, collectives: int) -> None:
    """Tensors (shape, neuron_axes, blocks, placements), each twice, under options in turn."""
    weights, placements, groups = [], [], []
    for i, (shape, axes, blocks, where) in enumerate(tensors):
        for options in (OPTIONS[i % 4], OPTIONS[(i + 1) % 4]):
            weights.append(random(*shape, seed=len(weights), dtype=dtype))
            placements.append(where)
            groups.append({"neuron_axes": axes, "blocks": blocks, **options})
    both = pair(weights, mesh_of(*mesh), placements, groups, lr=0.03, orthogonal=True)
    for t in range(1, STEPS + 1):
        both.step([random(*w.shape, seed=100 * t + i, dtype=dtype) for i, w in enumerate(weights)])
    both.check(TOLERANCES[dtype])
    # The first step measures scales again, which gathers norms.
    assert both.counts[1:] == [collectives] * (STEPS - 1), both.counts
    replicas_are_equal(both)


def replicas_are_equal(both: Pair) -> None:
    """Processes that hold the same part hold the same bits."""
    for _, q in both.params:
        for dim, placement in enumerate(q.placements):
            if placement == R:
                parts = [torch.empty_like(q.to_local()) for _ in range(both.mesh.size(dim))]
                dist.all_gather(parts, q.to_local().contiguous(), group=both.mesh.get_group(dim))
                assert all(torch.equal(part, parts[0]) for part in parts)


class Traffic(TorchDispatchMode):
    """Bytes that this process gives to others, by collective."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("c10d.alltoall_base_"):
            _, x, _, _, splits = args[:5]
            to_others = sum(splits) - splits[dist.get_rank()]
            self.sent.append(("all_to_all", to_others * x.element_size()))
        elif name.startswith("c10d."):
            sizes = sum(x.numel() * x.element_size() for x in args[0])
            self.sent.append((name.split(".")[1], sizes))
        return func(*args, **(kwargs or {}))


def traffic(dtype: torch.dtype, momentum: float) -> list[tuple[str, int]]:
    """What a step sends of four layers of 8 x 16 by rows, and a bias, over four processes."""
    weights = [random(8, 16, seed=i, dtype=dtype) for i in range(4)]
    weights.append(random(8, seed=9, dtype=dtype))
    spread = pair(weights, mesh_of(4), [(S0,)] * 5, orthogonal=True, momentum=momentum)
    spread.give([random(*w.shape, seed=7, dtype=dtype) for w in weights])
    spread.spread.step()  # processes may make a group in the first
    with Traffic() as counted:
        spread.spread.step()
    return counted.sent


def three(shape: tuple[int, int] = (7, 9), **options: Any) -> Pair:
    """One layer by rows, by columns and replicated."""
    weights = [random(*shape, seed=0)] * 3
    return pair(weights, mesh_of(4), [(S0,), (S1,), (R,)], orthogonal=True, **options)


def non_finite(nonfinite: str, momentum: float) -> None:
    """A neuron with an entry that is not finite in one process, of two that are in others."""
    both = three(lr=0.05, nonfinite=nonfinite, momentum=momentum)
    for t, value in enumerate([0.0, torch.nan, torch.inf, 0.0]):
        g = random(7, 9, seed=t)
        g[1, 8] += value
        g[6, 0] -= value
        both.step([g] * 3)
        if nonfinite == "propagate" and t:
            break  # a layer with such weights has no numbers to be compared
    both.check(1e-6)
    assert both.alone.skipped_neurons() == (12 if nonfinite == "skip" else 0)
    assert both.spread.skipped_neurons() == both.alone.skipped_neurons()


def gradients_of_some_processes() -> None:
    """Refused in all, before anything changes; and where none has one, nothing happens."""
    both = three(momentum=0.9)
    both.step([random(7, 9, seed=1)] * 3)
    before = [
        (q.to_local().clone(), both.spread.state[q]["exp_avg"].to_local().clone())
        for _, q in both.params
    ]
    both.give([random(7, 9, seed=2)] * 3)
    if dist.get_rank() == 2:
        both.params[1][1].grad = None
    message = r"all have its gradient or none.* 'p1' of shape \(7, 9\) in 3 of 4; no weight"
    with pytest.raises(RuntimeError, match=message):
        both.spread.step()
    both.give([None] * 3)
    with Traffic() as counted:
        both.spread.step()
    assert counted.sent == [("allreduce_", 8)]
    for (w, m), (_, q) in zip(before, both.params, strict=True):
        assert torch.equal(q.to_local(), w)
        assert torch.equal(both.spread.state[q]["exp_avg"].to_local(), m)
        assert both.spread.state[q]["step"] == 1


def low_precision() -> None:
    """bfloat16 by rows: the bits of one process."""
    weights = [random(12, 40, seed=i, dtype=torch.bfloat16) for i in range(3)]
    both = pair(weights, mesh_of(4), [(S0,)] * 3, orthogonal=True, momentum=0.9)
    for t in range(5):
        both.step([random(12, 40, seed=t, dtype=torch.bfloat16)] * 3)
    both.check(0.0)


def refusals() -> None:
    both = three()
    model = nn.Module()
    model.weight = both.params[0][1]
    with pytest.raises(ValueError, match=r"'p0' of shape \(7, 9\): orthogonal=True .* shard"):
        nero.step_in_backward(model, both.spread)
    both.give([random(7, 9, seed=1)] * 3)
    with pytest.raises(RuntimeError, match="does not take orthogonal=True of layers"):
        compiled_step([0, 1, 2], both.spread.param_groups, both.spread.state)


def a_group_of_its_own() -> None:
    """Along two dimensions of a mesh, where a larger group than this one is the default."""
    mesh = mesh_of(2, 2)
    group = _group(mesh, (0, 1), mesh.get_group(0))
    assert group is not dist.group.WORLD
    assert dist.get_process_group_ranks(group) == [0, 1, 2, 3]
    rank = torch.tensor(dist.get_rank())
    dist.all_reduce(rank, group=group)
    assert rank == 0 + 1 + 2 + 3


def path() -> None:
    found = three().spread.path
    for stage in (
        "orthogonal directions from whole layers, exchanged, then fused CPU kernel",
        "orthogonal directions from whole layers, exchanged, then all-reduced sums",
        "orthogonal directions, then fused CPU kernel",
    ):
        assert stage in found, found


def trained(name: str, way: str, steps: int) -> tuple[float, list[int], float]:
    """As `models.same_as_alone`, with orthogonal directions for all tensors of neurons."""

    def optimizer_of(model: nn.Module) -> nero.Nero:
        return nero.Nero(nero.param_groups(model), lr=0.03, momentum=0.5, orthogonal=True)

    alone, start = fresh(name), fresh(name)
    optimizer_of(start)
    spread = WAYS[way](fresh(name))
    train(Spread(alone), optimizer_of(alone), name, range(steps))
    counts = train(spread, optimizer_of(spread.model), name, range(steps))
    return distance(spread.model, alone), sorted(set(counts[1:])), distance(start, alone)
