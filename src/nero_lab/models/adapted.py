"""A perceptron whose hidden layers are adapted by low-rank matrices, or trained whole."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class AdaptedMLP(nn.Module):
    """Hidden layers of ReLU units, each with an adapter beside it, and a head.

    An adapter adds B A x to a layer's output: A draws `rank` features from its input, B starts at
    zero (E. J. Hu et al., "LoRA", 2021, arXiv:2106.09685). With adapters the hidden layers are
    frozen.

    Args:
        in_features: size of an input vector.
        classes: number of outputs.
        width: units in each hidden layer.
        depth: hidden layers.
        rank: of the adapters; 0: there are none, and the hidden layers are trained.

    Shapes: input (batch, in_features), output (batch, classes).
    """

    def __init__(
        self,
        in_features: int = 784,
        classes: int = 5,
        width: int = 128,
        depth: int = 2,
        rank: int = 0,
    ) -> None:
        super().__init__()
        sizes = [in_features, *[width] * depth]
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise(sizes)
        )
        self.adapters = nn.ModuleList()
        if rank:
            self.layers.requires_grad_(False)
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                self.adapters.append(_adapter(layer.in_features, layer.out_features, rank))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of the inputs x, (batch, in_features)."""
        for index, layer in enumerate(self.layers):
            y = layer(x)
            x = torch.relu(y + self.adapters[index](x) if self.adapters else y)
        return self.head(x)


def _adapter(fan_in: int, fan_out: int, rank: int) -> nn.Module:
    down, up = nn.Linear(fan_in, rank, bias=False), nn.Linear(rank, fan_out, bias=False)
    nn.init.zeros_(up.weight)
    return nn.Sequential(down, up)
