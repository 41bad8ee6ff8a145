"""The state that optimisers keep, counted on real ones."""

import functools

import torch
from torch import nn

from nero_lab.bench.memory import state_bytes
from nero_lab.optimizers import OPTIMIZERS


@functools.cache
def floats_of_layer(name: str, width: int) -> int:
    """Return the entries of an optimiser's state on a square layer without biases.

    A step counter, of one entry, is none of them.
    """
    optimizer = _stepped(name, nn.Linear(width, width, bias=False))
    tensors = [x for state in optimizer.state.values() for x in state.values()]
    return sum(x.numel() for x in tensors if isinstance(x, torch.Tensor) and x.ndim)


@functools.cache
def bytes_of_resnet18(name: str) -> int:
    """Return the bytes of an optimiser's state on torchvision's ResNet-18."""
    from torchvision.models import resnet18

    return state_bytes([_stepped(name, resnet18())])


def _stepped(name: str, model: nn.Module) -> torch.optim.Optimizer:
    optimizer = OPTIMIZERS[name].build(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer
