"""What several test files share: small networks, gradients, and comparison to the last bit."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nero import Nero, NeuronLayout, geometry
from optimizer_table import CONSTRAINTS, PATHS, PathRow, names

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

every_path = pytest.mark.parametrize("path", PATHS, ids=names(PATHS))
every_constraint = pytest.mark.parametrize("constraint", CONSTRAINTS.values(), ids=CONSTRAINTS)
every_momentum = pytest.mark.parametrize("momentum", [0.0, 0.9])


def build(params: Any, path: PathRow, lr: float = 0.01, **options: Any) -> Nero:
    """Nero on one of the table's paths."""
    return Nero(params, lr=torch.tensor(lr) if path.tensor_lr else lr, **path.options, **options)


def bits(value: Any) -> Any:
    """`value` with every tensor in it as dtype, shape and integers: equal only if bit-identical."""
    if isinstance(value, Tensor):
        dense = value.detach().cpu().contiguous()
        integers = dense.view(BITS[dense.element_size()]).flatten().tolist()
        return str(value.dtype), str(value.device), tuple(value.shape), integers
    if isinstance(value, Mapping):
        return {key: bits(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(bits(entry) for entry in value)
    return value


def snapshot(optimizer: torch.optim.Optimizer) -> Any:
    """All weights, state and settings of an optimiser, for comparison to the last bit."""
    weights = [list(group["params"]) for group in optimizer.param_groups]
    return bits({"weights": weights, **optimizer.state_dict()})


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Two linear layers of one shape, so that the foreach path stacks them, and a head."""
    return nn.Sequential(
        nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)
    ).to(dtype)


def weights_like(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Any]:
    """One parameter of random values for each shape."""
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in shapes]


def give_gradients(params: Iterable[Tensor], seed: int) -> None:
    """Random gradients, a function of the seed and the order alone."""
    generator = torch.Generator().manual_seed(seed)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, seeds: Iterable[int]) -> None:
    """One step for each seed, on random gradients."""
    for seed in seeds:
        params = [p for group in optimizer.param_groups for p in group["params"]]
        give_gradients(params, seed)
        optimizer.step()


def tangent(w: Tensor) -> Tensor:
    """A random direction of norm 1 in which each row of a balanced `w` can turn."""
    x = torch.randn_like(w)
    x -= x.mean(1, keepdim=True)
    x -= (x * w).sum(1, keepdim=True) * w / (w * w).sum(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True)


def turned(before: Tensor, after: Tensor) -> Tensor:
    """The angle that each row turned by."""
    return geometry.turning_angle(before, after, NeuronLayout(tuple(before.shape))).flatten()


def balanced(w: Tensor, neuron_axes: Any = (0,), radius: float = 1.0) -> bool:
    """Whether every neuron of `w` is balanced, to float32's precision."""
    layout = NeuronLayout(tuple(w.shape), neuron_axes)
    return bool(geometry.is_balanced(w, layout, radius=radius, atol=1e-6 * max(1, radius)).all())


def through_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
