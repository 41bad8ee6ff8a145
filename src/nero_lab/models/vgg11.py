"""VGG-11 without normalisation, for images of 32 x 32 pixels: the paper's figures 1, 2 and 6."""

from torch import Tensor, nn

_CHANNELS = ((64,), (128,), (256, 256), (512, 512), (512, 512))
"""Channels of the convolutions between the poolings, which take 32 pixels to 16, 8, 4, 2 and 1."""
_HIDDEN = 4096


class VGG11(nn.Module):
    """Eight 3 x 3 convolutions without bias, five poolings, and a classifier of three layers.

    After K. Simonyan and A. Zisserman, 2014 (configuration A), as it is usual for CIFAR-10. There
    is no normalisation anywhere. The initial weights are PyTorch's.

    Args:
        classes: number of outputs.
        in_channels: channels of an image.
        width: factor on the number of channels and of hidden units; 1 is the paper's network.
        dropout: share of the classifier's hidden units that is dropped in training.

    Shapes: input (batch, in_channels, 32, 32), output (batch, classes).
    """

    def __init__(
        self, classes: int = 10, in_channels: int = 3, width: float = 1.0, dropout: float = 0.5
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for stage in _CHANNELS:
            for full in stage:
                out_channels = scaled(full, width)
                layers.append(nn.Conv2d(channels, out_channels, 3, padding=1, bias=False))
                layers.append(nn.ReLU())
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.Flatten())
        hidden = scaled(_HIDDEN, width)
        self.classifier = nn.Sequential(
            nn.Linear(channels, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of images (batch, in_channels, 32, 32)."""
        return self.classifier(self.features(x))


def scaled(units: int, width: float) -> int:
    """Return `units` times `width`, rounded; at least one.

    Raises:
        ValueError: the width is not positive.
    """
    if width <= 0:
        raise ValueError(f"width must be positive, got {width}")
    return max(1, round(units * width))
