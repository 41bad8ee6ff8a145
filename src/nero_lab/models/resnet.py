"""Residual networks: ResNet-18 for images of 32 x 32 pixels, and bottleneck networks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from nero_lab.models.vgg11 import scaled

if TYPE_CHECKING:
    from torchvision.models import ResNet


class ResNet18(nn.Module):
    """Torchvision's ResNet-18 with a 3 x 3 stem of stride 1 and without the first pooling.

    After K. He, X. Zhang, S. Ren and J. Sun, 2015, as it is usual for CIFAR-10. Put together from
    torchvision's blocks, since torchvision's own class has a fixed width and, as it draws weights
    for its larger stem first, other initial weights for a seed. The parameters have its names and,
    at width 1, its shapes.

    Args:
        classes: number of outputs.
        in_channels: channels of an image.
        width: factor on the number of channels; 1 is the paper's network.

    Shapes: input (batch, in_channels, height, width), output (batch, classes).
    """

    def __init__(self, classes: int = 10, in_channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        channels = [scaled(units, width) for units in (64, 128, 256, 512)]
        self.conv1 = nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(channels[0], channels[0], stride=1)
        self.layer2 = _stage(channels[0], channels[1], stride=2)
        self.layer3 = _stage(channels[1], channels[2], stride=2)
        self.layer4 = _stage(channels[2], channels[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores, (batch, classes), of images (batch, in_channels, h, w)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def bottleneck_resnet(classes: int = 1000, blocks: Sequence[int] = (3, 4, 6, 3)) -> "ResNet":
    """Return torchvision's ResNet-50, or the same with other numbers of blocks.

    Args:
        classes: number of outputs.
        blocks: bottleneck blocks of each of the four stages; the default is ResNet-50.
    """
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, list(blocks), num_classes=classes)


def _stage(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Return two basic blocks; the first changes the number of channels and of pixels."""
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or in_channels != channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(channels),
        )
    return nn.Sequential(
        BasicBlock(in_channels, channels, stride, shortcut), BasicBlock(channels, channels)
    )
