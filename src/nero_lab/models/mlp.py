"""The plain multilayer perceptron of the paper's deep-network experiment."""

import math
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn

import nero

Init = Literal["default", "kaiming", "balanced", "isometric"]
"""Which initial weights a network starts from."""


class PlainMLP(nn.Module):
    """`depth` linear layers and relu(x) * sqrt(2) between them, and nothing else.

    No normalisation and no skip connections: every bit of signal has to pass through every layer,
    which is what makes the network hard to train when it is deep.

    Args:
        depth: number of linear layers, the output layer included; at least 2.
        width: units in each hidden layer.
        in_features: size of an input vector.
        classes: number of outputs.
        init: "default" leaves PyTorch's own initial weights; "kaiming" draws normal weights that
            keep the scale of the activations from layer to layer, and sets the biases to zero;
            "balanced" puts the default weights, not the biases, on Nero's constraint set;
            "isometric" are the balanced weights that keep the signal's size at any depth, of
            `nero.initialize_`.
        bias: whether the layers have biases.

    Shapes: input (batch, in_features), output (batch, classes).
    """

    def __init__(
        self,
        depth: int,
        width: int = 64,
        in_features: int = 64,
        classes: int = 10,
        init: Init = "default",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"depth must be at least 2 (one hidden layer), got {depth}")
        if init not in get_args(Init):
            raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
        sizes = [in_features, *[width] * (depth - 1), classes]
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out, bias) for fan_in, fan_out in pairwise(sizes)
        )
        if init == "kaiming":
            self._init_kaiming()
        elif init == "balanced":
            nero.balance_(self)
        elif init == "isometric":
            nero.initialize_(self, torch.zeros(1, in_features))

    def _init_kaiming(self) -> None:
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            # Kaiming's gain for ReLU, sqrt(2), is already in the activation: the gain that is left
            # for the weights is 1, which PyTorch calls nonlinearity="linear".
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of the inputs x, (batch, in_features)."""
        *hidden, output = self.layers
        for layer in hidden:
            x = torch.relu(layer(x)) * math.sqrt(2)
        return output(x)
