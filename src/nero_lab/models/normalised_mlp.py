"""A multilayer perceptron whose weights are balanced in the forward pass: the paper's figure 3."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class CentredWeightNorm(nn.Module):
    """Centres each row of a weight matrix and divides it by its norm.

    The row v that is trained stays free, and the network computes with

        w = (v - mean(v)) / ||v - mean(v)||,

    which is L. Huang et al., "Centered Weight Normalization", 2017, without its gain. Gradients
    pass through it: they are at right angles to w and shrink with the norm of v, so that the
    initial scale of v acts on the learning rate. Nero instead projects the weights themselves.

    Shapes: input and output (neurons, fan-in).
    """

    def forward(self, v: Tensor) -> Tensor:
        """Return the balanced weights of free ones."""
        centred = v - v.mean(dim=1, keepdim=True)
        return centred / centred.norm(dim=1, keepdim=True)


class NormalisedMLP(nn.Module):
    """`depth` linear layers without biases, and relu(x) * sqrt(2) between them.

    Args:
        depth: number of linear layers, the output layer included; at least 2.
        width: units in each hidden layer.
        in_features: size of an input vector.
        classes: number of outputs.
        scale: standard deviation s of the normal initial weights.
        reparameterised: compute with `CentredWeightNorm` of the weights; else with the weights
            themselves, for an optimiser that projects.

    Shapes: input (batch, in_features), output (batch, classes).
    """

    def __init__(
        self,
        depth: int = 5,
        width: int = 784,
        in_features: int = 784,
        classes: int = 10,
        scale: float = 1.0,
        reparameterised: bool = True,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be at least 2 (one hidden layer), got {depth}")
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        sizes = [in_features, *[width] * (depth - 1), classes]
        self.layers = nn.ModuleList()
        for fan_in, fan_out in pairwise(sizes):
            layer = nn.Linear(fan_in, fan_out, bias=False)
            nn.init.normal_(layer.weight, std=scale)
            if reparameterised:
                parametrize.register_parametrization(layer, "weight", CentredWeightNorm())
            self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of the inputs x, (batch, in_features)."""
        *hidden, output = self.layers
        for layer in hidden:
            x = torch.relu(layer(x)) * math.sqrt(2)
        return output(x)
