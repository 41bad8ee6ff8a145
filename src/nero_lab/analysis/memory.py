"""The state that optimisers keep, counted on real ones."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from nero_lab.bench.memory import state_bytes
from nero_lab.optimizers import OPTIMIZERS

WIDTHS = (64, 256, 1024)
_COUNTED = ("nero", "sgd", "adam", "lamb")


@dataclass(frozen=True)
class LayerState:
    """How many floats of state a d x d layer without biases costs."""

    width: int
    nero: int
    adam: int


@dataclass(frozen=True)
class ModelState:
    """How many bytes of state a whole network costs."""

    model: str
    bytes: Mapping[str, int]
    """by the optimiser's label"""


@functools.cache
def square_layers() -> list[LayerState]:
    """Count the floats of Nero and Adam on square layers, by stepping once."""
    return [LayerState(width, _floats("nero", width), _floats("adam", width)) for width in WIDTHS]


def _floats(name: str, width: int) -> int:
    """Count the entries of state tensors; a step counter, of one entry, is none of them."""
    optimizer = _stepped(name, nn.Linear(width, width, bias=False))
    tensors = [x for state in optimizer.state.values() for x in state.values()]
    return sum(x.numel() for x in tensors if isinstance(x, torch.Tensor) and x.ndim)


@functools.cache
def model_state() -> ModelState:
    """Count the bytes of several optimisers on torchvision's ResNet-18."""
    from torchvision.models import resnet18

    return ModelState(
        "torchvision's ResNet-18",
        {OPTIMIZERS[name].label: state_bytes([_stepped(name, resnet18())]) for name in _COUNTED},
    )


def _stepped(name: str, model: nn.Module) -> torch.optim.Optimizer:
    optimizer = OPTIMIZERS[name].build(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer
