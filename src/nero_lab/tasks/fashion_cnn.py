"""A small convolutional network on Fashion-MNIST, or on some of its classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nero_lab.data.fashion_mnist import load_fashion_mnist
from nero_lab.data.parts import Parts
from nero_lab.models.vgg import SmallVGG


class FashionCNN:
    """Classify clothes with a SmallVGG under cross-entropy; see nero_lab.tasks.Task."""

    def data(self, *, folders: dict[str, str], classes: Sequence[int], **options: Any) -> Parts:
        """Return the images; options: digest, classes, train_size, val_size, split_seed."""
        folder = Path(folders["fashion-mnist"])
        return load_fashion_mnist(folder, classes=tuple(classes), **options)

    def model(self, **options: Any) -> nn.Module:
        """Return the network; options: classes, batch_norm, hidden."""
        return SmallVGG(**options)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of outputs (batch, classes), targets (batch,)."""
        return nn.functional.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many of outputs (batch, classes) are highest at their target (batch,)."""
        return torch.sum(outputs.argmax(dim=1) == targets)
