"""The paper's figure 4: ResNet-50 on ImageNet, from images in folders."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from nero_lab.data.found import FoundData
from nero_lab.data.image_folder import FolderLoader
from nero_lab.data.sources import find_source
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Classification, Data, Preset, Variant
from nero_lab.models.resnet import bottleneck_resnet

_EVAL_ROWS = 200
_VARIANTS = (
    Variant("nero", "Nero", "nero", (0.01,), groups={"head": "fc"}),
    Variant(
        "sgd-decay",
        "SGD, weight decay 1e-4",
        "sgd",
        (0.1,),
        default_lr=0.1,
        optimizer_options={"momentum": 0.9, "weight_decay": 1e-4},
    ),
    Variant(
        "sgd",
        "SGD, no weight decay",
        "sgd",
        (0.1,),
        default_lr=0.1,
        optimizer_options={"momentum": 0.9, "weight_decay": 0.0},
    ),
)

PAPER = Preset(
    name="paper",
    epochs=90,
    batch_size=400,
    schedule=Schedule("cosine"),
    variants=_VARIANTS,
    seeds=(0,),
    model={"classes": 1000, "blocks": (3, 4, 6, 3)},
    data={"pixels": 224, "workers": 8, "val_share": 0.0},
)

CPU = replace(
    PAPER,
    name="cpu",
    epochs=3,
    batch_size=40,
    model={"classes": 10, "blocks": (3, 4, 6, 3)},
    data={"pixels": 32, "workers": 0, "val_share": 0.1},
    deviations="A folder of a few hundred small images in ten classes, 32 pixels and 3 epochs: it "
    "shows that the recipe runs, and compares nothing.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=1,
    batch_size=8,
    variants=_VARIANTS[:2],
    seeds=(0, 1),
    model={"classes": 10, "blocks": (1, 1, 1, 1)},
    deviations="Far too small to compare anything; for tests.",
)


class ImageNet(Classification):
    """Classify images in folders with a ResNet-50, under its usual crops.

    The images under `val` are the test part, as everyone reports on them. Options of the data:
    pixels; workers (processes that read); val_share (of the training images, held out for
    validation). Of the model: classes, blocks (of each stage).
    """

    name = "imagenet"
    figure = "4"
    title = "ResNet-50 on ImageNet"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return ImageNet, or other images in folders, where the user says."""
        return find_source("imagenet", folder)

    def load_data(
        self,
        found: FoundData,
        batch_size: int,
        *,
        val_share: float,
        pixels: int,
        workers: int,
        **options: Any,
    ) -> Data:
        """Return images, read as they are needed, and classes."""
        assert found.folder is not None
        train = found.folder / "train"
        size: dict[str, Any] = {"pixels": pixels, "workers": workers}
        whole = FolderLoader(train, batch_size, **size)
        rows = list(range(len(whole.labels)))
        random.Random(0).shuffle(rows)
        held_out = round(val_share * len(rows))
        val = FolderLoader(train, _EVAL_ROWS, rows=sorted(rows[:held_out]), **size)
        return Data(
            train=FolderLoader(train, batch_size, rows=sorted(rows[held_out:]), **size),
            val=val if held_out else None,
            test=FolderLoader(found.folder / "val", _EVAL_ROWS, **size),
        )

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return bottleneck_resnet(**options)
