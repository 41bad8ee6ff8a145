"""A small convolutional network in VGG's manner, with or without normalisation."""

from torch import Tensor, nn

_STAGES = ((16, 1), (32, 2), (64, 2))
"""(channels, convolutions) between the poolings, which take 28 pixels to 14, 7 and 3."""


class SmallVGG(nn.Module):
    """3 x 3 convolutions with ReLU, three poolings, one hidden linear layer and the head.

    Args:
        classes: number of outputs.
        batch_norm: BatchNorm after each convolution; without it the network has no normalisation.
        hidden: units of the linear layer before the head.

    Shapes: input (batch, 1, 28, 28), output (batch, classes).
    """

    def __init__(self, classes: int = 10, batch_norm: bool = False, hidden: int = 128) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for out_channels, convolutions in _STAGES:
            for _ in range(convolutions):
                layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=not batch_norm))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(out_channels))
                layers.append(nn.ReLU())
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(9 * channels, hidden), nn.ReLU()
        )
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of images (batch, 1, 28, 28)."""
        return self.head(self.features(x))
