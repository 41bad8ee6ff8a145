"""What test_meshes.py runs in every process: models trained on a mesh and in one process."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.nn.parallel import DistributedDataParallel

import nero
from distributed.cases import R, whole

BATCH = 8
CLASSES = 5


class Perceptron(nn.Module):
    """Rows that no number of processes divides, and fewer of them than processes at the end."""

    plan: ClassVar = {"up": ColwiseParallel(), "down": RowwiseParallel()}

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 9)
        self.up = nn.Linear(9, 10)
        self.down = nn.Linear(10, 7)
        self.last = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.down(torch.tanh(self.up(x)))))

    @staticmethod
    def inputs(generator: torch.Generator) -> Tensor:
        return torch.randn(BATCH, 6, generator=generator, dtype=torch.float64)


class Convolutional(nn.Module):
    """With transposed convolutions, whose neurons rows do not keep together."""

    plan: ClassVar = {"up": ColwiseParallel(), "down": RowwiseParallel()}

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 6, 3)
        self.transposed = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.grouped = nn.ConvTranspose2d(5, 5, 2, groups=5)
        self.norm = nn.GroupNorm(1, 5)
        self.up = nn.Linear(5, 8)
        self.down = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.transposed(torch.tanh(self.convolution(x))))
        x = torch.tanh(self.norm(self.grouped(x))).mean((2, 3))
        return self.down(torch.tanh(self.up(x)))

    @staticmethod
    def inputs(generator: torch.Generator) -> Tensor:
        return torch.randn(BATCH, 2, 6, 6, generator=generator, dtype=torch.float64)


class Transformer(nn.Module):
    """One block, with a token's class as its aim."""

    plan: ClassVar = {
        "embedding": RowwiseParallel(input_layouts=R),
        **dict.fromkeys(("query", "key", "value", "up"), ColwiseParallel()),
        **dict.fromkeys(("out", "down"), RowwiseParallel()),
    }
    head_width = 4

    def __init__(self) -> None:
        super().__init__()
        width = 2 * self.head_width
        self.embedding = nn.Embedding(11, width)
        self.before = nn.LayerNorm(width)
        self.query, self.value, self.out = (nn.Linear(width, width) for _ in range(3))
        # Without a bias: softmax takes no notice of one, so its gradient is 0 but for rounding, and
        # an optimiser that divides by the gradient's size would step by the rounding.
        self.key = nn.Linear(width, width, bias=False)
        self.between = nn.LayerNorm(width)
        self.up = nn.Linear(width, 14)
        self.down = nn.Linear(14, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        y = self.before(x)
        heads = [
            part(y).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        ]
        attended = scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        x = x + self.down(torch.tanh(self.up(self.between(x))))
        return self.head(x).mean(1)

    @staticmethod
    def inputs(generator: torch.Generator) -> Tensor:
        return torch.randint(0, 11, (BATCH, 6), generator=generator)


MODELS: dict[str, Any] = {"mlp": Perceptron, "convnet": Convolutional, "transformer": Transformer}


@dataclass
class Spread:
    """A model on a mesh, and which part of each batch this process is given."""

    model: nn.Module
    parts: int = 1
    part: int = 0


def sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for child in model.children():
        fully_shard(child, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def ddp(model: Any) -> Spread:
    return Spread(DistributedDataParallel(model), dist.get_world_size(), dist.get_rank())


def fsdp(model: Any) -> Spread:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return Spread(sharded(model, mesh), dist.get_world_size(), dist.get_rank())


def tp(model: Any) -> Spread:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return Spread(parallelize_module(model, mesh, model.plan))


def fsdp_tp(model: Any) -> Spread:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], model.plan)
    return Spread(sharded(model, mesh["dp"]), 2, mesh.get_local_rank("dp"))


def hsdp(model: Any) -> Spread:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    return Spread(sharded(model, mesh), 4, dist.get_rank())


WAYS: dict[str, Callable[[Any], Spread]] = {
    "DDP": ddp,
    "FSDP2": fsdp,
    "TP": tp,
    "FSDP2 x TP": fsdp_tp,
    "HSDP": hsdp,
}


def fresh(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().double()


def optimizer_of(model: nn.Module) -> nero.Nero:
    return nero.Nero(nero.param_groups(model), lr=0.03, momentum=0.5)


def train(spread: Spread, optimizer: nero.Nero, name: str, steps: range) -> list[int]:
    """Train on this process's part of each batch; the collectives that each step took."""
    counts = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x = MODELS[name].inputs(generator)
        y = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        x, y = (each.chunk(spread.parts)[spread.part] for each in (x, y))
        optimizer.zero_grad()
        cross_entropy(spread.model(x), y).backward()
        with CommDebugMode() as communication:
            optimizer.step()
        counts.append(communication.get_total_counts())
    return counts


def distance(model: nn.Module, expected: nn.Module) -> float:
    """The largest difference of two models' weights, relative to the largest entry of each."""
    model = getattr(model, "module", model)
    theirs = dict(expected.named_parameters())
    found = {name: whole(p.detach()) for name, p in model.named_parameters()}
    assert found.keys() == theirs.keys()
    return max(((found[name] - p).abs().max() / p.abs().max()).item() for name, p in theirs.items())


def same_as_alone(name: str, way: str, steps: int) -> tuple[float, list[int], float]:
    """How far a mesh's weights are from one process's, the collectives, and how far both moved.

    The collectives are those of all steps but the first, which measures scales again.
    """
    alone = fresh(name)
    start = fresh(name)
    optimizer_of(start)
    spread = WAYS[way](fresh(name))
    if way != "DDP":  # whose names begin with "module."
        assert str(nero.describe(spread.model)) == str(nero.describe(alone))
    train(Spread(alone), optimizer_of(alone), name, range(steps))
    counts = train(spread, optimizer_of(spread.model), name, range(steps))
    return distance(spread.model, alone), sorted(set(counts[1:])), distance(start, alone)
