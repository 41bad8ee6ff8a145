"""The state that optimisers keep, counted on real ones."""

import functools

import torch
from torch import nn

from nero_lab.bench.memory import state_bytes
from nero_lab.models.gpt import SmallGPT
from nero_lab.optimizers import OPTIMIZERS, OptimizerSpec


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


def state_per_weight(spec: OptimizerSpec) -> float:
    """Return the bytes of state for a weight of a small transformer, with a head of its own."""
    model = SmallGPT(vocabulary=256, context=32)
    optimizer = spec.build_for(model, groups={"head": "head"})
    if hasattr(optimizer, "train"):  # Schedule-Free begins in neither mode
        optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
    return state_bytes([_step(optimizer, model)]) / sum(p.numel() for p in model.parameters())


def _stepped(name: str, model: nn.Module) -> torch.optim.Optimizer:
    return _step(OPTIMIZERS[name].build(model.parameters()), model)


def _step(optimizer: torch.optim.Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer
