"""Low-rank adapters: a network trained on some classes is adapted to others, its weights frozen."""

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Preset, Start, Variant
from nero_lab.models.adapted import AdaptedMLP
from nero_lab.tasks.images import ImageTask

SOURCE = Preset(
    name="source",
    title="what is adapted",
    epochs=2,
    batch_size=100,
    schedule=Schedule("linear"),
    variants=(Variant("adamw", "AdamW", "adamw", lr_grid=(1e-3,)),),
    data={"classes": [0, 1, 2, 3, 4], "train_size": 20_000, "val_size": 1_000},
    groups={"head": "head"},
)
CPU = replace(
    SOURCE,
    name="cpu",
    title="",
    epochs=10,
    batch_size=32,
    variants=(Variant("nero", "Nero", "nero"), Variant("adamw", "AdamW", "adamw")),
    model={"rank": 4},
    data={"classes": [5, 6, 7, 8, 9], "train_size": 1_000, "val_size": 1_000},
    start=Start(SOURCE, ("adapters", "head")),
    notes=("The head is new; the hidden layers come from classes 0 to 4, and are frozen.",),
)
_TINY_SOURCE = replace(
    SOURCE,
    name="tiny-source",
    epochs=1,
    seeds=(0,),
    model={"width": 16},
    data={**SOURCE.data, "train_size": 200, "val_size": 100, "test_size": 100},
)
TINY = replace(
    CPU,
    name="tiny",
    epochs=1,
    seeds=(0,),
    model={"rank": 2, "width": 16},
    data={**CPU.data, "train_size": 200, "val_size": 100, "test_size": 100},
    start=Start(_TINY_SOURCE, ("adapters", "head")),
    notes=("Far too small to compare anything; for tests.",),
)


class Adapters(ImageTask):
    """Classify five classes of clothes with an AdaptedMLP that comes from the other five.

    Options of the model: those of `AdaptedMLP`. Of the data: those of `ImageTask`.
    """

    name = "adapters"
    title = "low-rank adapters of an MLP, from five classes of Fashion-MNIST to the others"
    metric = replace(ImageTask.metric, chance=0.2)
    presets: ClassVar = {preset.name: preset for preset in (SOURCE, CPU, _TINY_SOURCE, TINY)}
    source = "fashion-mnist"
    shape: ClassVar = {"channels": 1, "pixels": 28}
    flat = True

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return AdaptedMLP(**options)
