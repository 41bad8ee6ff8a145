"""A small vision transformer on Fashion-MNIST."""

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Preset, Variant
from nero_lab.models.vit import SmallViT
from nero_lab.tasks.images import ImageTask

CPU = Preset(
    name="cpu",
    epochs=8,
    batch_size=64,
    schedule=Schedule("linear"),
    variants=(Variant("nero", "Nero", "nero"), Variant("adamw", "AdamW", "adamw")),
    data={"train_size": 6_400, "val_size": 2_000, "test_size": 5_000},
    groups={"head": "head"},
)
TINY = replace(
    CPU,
    name="tiny",
    epochs=1,
    seeds=(0,),
    model={"depth": 1, "width": 16},
    data={"train_size": 320, "val_size": 100, "test_size": 100},
    notes=("Far too small to compare anything; for tests.",),
)


class SmallViTTask(ImageTask):
    """Classify clothes with a SmallViT.

    Options of the model: those of `SmallViT`. Of the data: those of `ImageTask`.
    """

    name = "small-vit"
    title = "small vision transformer on Fashion-MNIST"
    presets: ClassVar = {preset.name: preset for preset in (CPU, TINY)}
    source = "fashion-mnist"
    shape: ClassVar = {"channels": 1, "pixels": 28}

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return SmallViT(**options)
