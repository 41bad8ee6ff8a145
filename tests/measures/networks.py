"""Small networks and tasks for the measures, and changes of a network that must not matter."""

import copy
import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class ReluChain(nn.Module):
    """Linear layers without biases, relu(x) sqrt 2 between them; one output."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, o, bias=False) for i, o in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = torch.relu(layer(x)) * math.sqrt(2)
        return last(x)


def permuted(model: ReluChain) -> ReluChain:
    """The same function with the neurons of each hidden layer in another order."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for i in range(len(other.layers) - 1):
            inner, outer = other.layers[i], other.layers[i + 1]
            order = torch.randperm(len(inner.weight))
            inner.weight.copy_(inner.weight[order])
            outer.weight.copy_(outer.weight[:, order])
    return other


def rescaled(model: ReluChain) -> ReluChain:
    """The same classifier from layers of other sizes."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for i, layer in enumerate(other.layers):
            layer.weight.mul_(3.0 + i)
    return other


def labelled(model: nn.Module, examples: int, fan_in: int) -> tuple[Tensor, Tensor]:
    """Normal inputs, with the labels that the model gives them."""
    inputs = torch.randn(examples, fan_in, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        return inputs, model(inputs).flatten().sign()
