"""A small convolutional network on Fashion-MNIST, or on some of its classes."""

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import ACCURACY, Preset, Variant
from nero_lab.models.deep_cnn import DeepCNN
from nero_lab.models.vgg import SmallVGG
from nero_lab.tasks.images import ImageTask

CPU = Preset(
    name="cpu",
    epochs=2,
    batch_size=128,
    schedule=Schedule("linear"),
    variants=(Variant("nero", "Nero", "nero"), Variant("adamw", "AdamW", "adamw")),
    model={"classes": 10},
    data={"classes": list(range(10)), "train_size": 20_000, "val_size": 5_000},
    groups={"head": "head"},
)
TINY = replace(
    CPU,
    name="tiny",
    epochs=1,
    seeds=(0,),
    data={"classes": list(range(10)), "train_size": 640, "val_size": 100},
    notes=("Far too small to compare anything; for tests.",),
)


_NETWORKS = {"small-vgg": SmallVGG, "deep-cnn": DeepCNN}


class FashionCNN(ImageTask):
    """Classify clothes with a SmallVGG or a DeepCNN.

    Options of the model: network ("small-vgg" or "deep-cnn"), and that network's. Of the data:
    classes, which of the ten to keep, and those of `ImageTask`.
    """

    name = "fashion-cnn"
    title = "small convolutional networks on Fashion-MNIST, or on some of its classes"
    metric = ACCURACY
    presets: ClassVar = {preset.name: preset for preset in (CPU, TINY)}
    source = "fashion-mnist"
    shape: ClassVar = {"channels": 1, "pixels": 28}

    def build_model(self, *, network: str = "small-vgg", **options: Any) -> nn.Module:
        """Return the network.

        Raises:
            ValueError: the network is neither of the two.
        """
        if network not in _NETWORKS:
            raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, got {network!r}")
        return _NETWORKS[network](**options)
