"""Convolutional networks of any depth, plain or residual, for series over depth."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

import nero

Init = Literal["default", "kaiming", "isometric"]
"""Which initial weights a network starts from."""


class DeepCNN(nn.Module):
    """A stem, 3 x 3 convolutions at 14 x 14 and then 7 x 7 pixels, a mean over pixels, and a head.

    Plain: each convolution with ReLU, without normalisation or skips. Residual: blocks of two
    convolutions with BatchNorm, as in K. He, X. Zhang, S. Ren and J. Sun, 2015.

    Args:
        depth: number of weight layers, stem and head included and shortcuts not: an even number
            of at least 6.
        width: channels at 14 x 14 pixels; twice as many at 7 x 7.
        residual: whether it is residual.
        classes: number of outputs.
        init: "default" leaves PyTorch's own initial weights; "kaiming" draws normal weights that
            keep the size of the activations from layer to layer, and sets the biases to zero;
            "isometric", of plain networks, are the balanced weights of `nero.initialize_`.

    Shapes: input (batch, 1, 28, 28), output (batch, classes).
    """

    def __init__(
        self,
        depth: int,
        width: int = 16,
        residual: bool = False,
        classes: int = 10,
        init: Init = "default",
    ) -> None:
        super().__init__()
        if depth < 6 or depth % 2:
            raise ValueError(f"depth must be an even number of at least 6, got {depth}")
        if init not in get_args(Init):
            raise ValueError(f"init must be one of {', '.join(get_args(Init))}, got {init!r}")
        if residual and init == "isometric":
            raise ValueError("init='isometric' is for plain networks")
        pairs = depth // 2 - 1
        layers: list[nn.Module] = [_convolution(1, width, 2, residual)]
        channels = width
        for pair in range(pairs):
            grows = pair == pairs // 2
            wider = channels * 2 if grows else channels
            make = _Block if residual else _pair
            layers.append(make(channels, wider, 2 if grows else 1))
            channels = wider
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)
        if init == "kaiming":
            self._init_kaiming()
        elif init == "isometric":
            nero.initialize_(self, torch.zeros(1, 1, 28, 28))

    def _init_kaiming(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of images (batch, 1, 28, 28)."""
        return self.head(self.features(x))


class _Block(nn.Module):
    """Two convolutions beside an identity, or beside one of 1 x 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, stride, norm=True)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def _pair(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _convolution(inputs, outputs, stride, norm=False),
        _convolution(outputs, outputs, 1, norm=False),
    )


def _convolution(inputs: int, outputs: int, stride: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    return nn.Sequential(*layers, nn.ReLU())
