"""Regression on scikit-learn's diabetes data, with targets as they are and standardised."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nero_lab.data.diabetes import FEATURES, load_diabetes_split
from nero_lab.data.found import FoundData
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Data, Loader, Metric, Preset, Task, Variant
from nero_lab.models.mlp import PlainMLP
from nero_lab.tasks.in_memory import loaders

CPU = Preset(
    name="cpu",
    epochs=60,
    batch_size=32,
    schedule=Schedule("linear"),
    variants=(Variant("nero", "Nero", "nero"), Variant("adamw", "AdamW", "adamw")),
    model={"depth": 3, "width": 64},
    data={"standardised": False},
    groups={"head": "layers.2"},
    eval_every=3,
)
TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    seeds=(0,),
    model={"depth": 3, "width": 8},
    notes=("Far too small to compare anything; for tests.",),
)


class Diabetes(Task):
    """Predict how far the disease goes with a PlainMLP, under squared error.

    Options of the model: those of `PlainMLP`. Of the data: standardised (the targets),
    split_seed.
    """

    name = "diabetes"
    title = "small MLP on scikit-learn's diabetes data, a regression"
    metric = Metric("unexplained variance", "fraction", "lower", chance=1.0)
    presets: ClassVar = {preset.name: preset for preset in (CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return the data, which come inside scikit-learn."""
        return FoundData("scikit-learn's diabetes data", "442 patients")

    def load_data(self, found: FoundData, batch_size: int, **options: Any) -> Data:
        """Return measurements and targets."""
        return loaders(load_diabetes_split(**options), batch_size)

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return PlainMLP(in_features=FEATURES, classes=1, **options)

    def loss(self, model: nn.Module, batch: Any, **options: Any) -> Tensor:
        """Return the mean squared error of a batch."""
        x, y = batch
        return mse_loss(model(x), y)

    def evaluate(self, model: nn.Module, loader: Loader) -> Mapping[str, float]:
        """Return the squared error, as a share of the targets' variance."""
        errors, targets = zip(*((model(x) - y, y) for x, y in loader), strict=True)
        error, y = torch.cat(errors).square().mean(), torch.cat(targets)
        return {"unexplained variance": float(error / (y - y.mean()).square().mean())}
