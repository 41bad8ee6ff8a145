"""A task of a user: one file, no data set, a fraction of a second."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from nero_lab.data.found import FoundData
from nero_lab.data.loaders import TensorLoader
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Classification, Data, Preset, Variant

TINY = Preset(
    name="tiny",
    epochs=4,
    batch_size=20,
    schedule=Schedule("cosine"),
    variants=(Variant("nero", "Nero", "nero"), Variant("adam", "Adam", "adam")),
    deviations="Everything.",
)


class Blobs(Classification):
    """Classify two clouds of points, with dropout and batch norm; 15 steps an epoch."""

    name = "blobs"
    title = "two clouds of points"
    presets: ClassVar = {"tiny": TINY}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return made-up data."""
        return FoundData("blobs", "1")

    def load_data(self, found: FoundData, batch_size: int, **options: Any) -> Data:
        """Return 290 points to learn from: the last batch of an epoch is half of one."""
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(400) % 2
        # Apart along a direction with mean 0: a balanced neuron sees no other.
        apart = y[:, None] * torch.tensor([1, -1, 1, -1, 1, -1])
        x = torch.randn(400, 6, generator=generator) + apart
        return Data(
            train=TensorLoader((x[:290], y[:290]), batch_size),
            val=TensorLoader((x[290:340], y[290:340]), 50),
            test=TensorLoader((x[340:], y[340:]), 50),
        )

    def build_model(self, width: int = 8, **options: Any) -> nn.Module:
        """Return a small network."""
        return nn.Sequential(
            nn.Linear(6, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(width, 2),
        )
