"""Very deep plain networks on digits: the paper's figure 3 (right), cut to two CPU cores.

The paper trains a 100-layer network of width 784 on MNIST for 50 epochs of 240 steps. Here the
data are scikit-learn's digits and the width is 64, so that a whole comparison takes minutes.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nero_lab.data.digits import CLASSES, IN_FEATURES, load_digits_split
from nero_lab.data.parts import Parts
from nero_lab.models.mlp import PlainMLP


class DigitsMLP:
    """Classify digits with a PlainMLP under cross-entropy; see nero_lab.tasks.Task."""

    def data(self, **options: Any) -> Parts:
        """Return the digits; options: split_seed."""
        return load_digits_split(**options)

    def model(self, **options: Any) -> nn.Module:
        """Return the network; options: depth, width, init."""
        return PlainMLP(in_features=IN_FEATURES, classes=CLASSES, **options)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of outputs (batch, classes), targets (batch,)."""
        return nn.functional.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return how many of outputs (batch, classes) are highest at their target (batch,)."""
        return torch.sum(outputs.argmax(dim=1) == targets)
