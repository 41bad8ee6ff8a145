"""A task of a user in which a layer dies in the middle of a run."""

from typing import Any

import torch
from torch import Tensor, nn

from lab.tiny_task import Blobs

DEATH = 31
"""the first step in which it is dead"""


class TwoBranches(nn.Module):
    """A head on the sum of two layers with ReLU, so that the network trains with one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.dying, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores, (batch, 2)."""
        return self.head(self.live(x).relu() + self.dying(x).relu())


class Dying(Blobs):
    """Blobs, but from step `DEATH` on one layer's ReLU gets negative inputs alone."""

    name = "dying"

    def __init__(self) -> None:
        self.step = 0

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return TwoBranches()

    def training_step(self, model: Any, batch: Any, update: Any, **options: Any) -> Any:
        """Train on one batch."""
        self.step += 1
        if self.step == DEATH:
            with torch.no_grad():
                model.dying.bias.fill_(-100.0)
        return super().training_step(model, batch, update, **options)
