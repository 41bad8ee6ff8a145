"""The paper's figure 6: VGG-11 without normalisation and ResNet-18 with it, on CIFAR-10."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import nn

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Preset, Variant
from nero_lab.models.resnet import ResNet18
from nero_lab.models.vgg11 import VGG11
from nero_lab.tasks.images import ImageTask
from nero_lab.tasks.variants import on_model, standard_variants, with_grids, with_more_rates

_NETWORKS = {"vgg11": VGG11, "resnet18": ResNet18}
_CPU_GRIDS = {
    "nero": (1e-3, 1e-2, 2e-2, 6e-2),
    "sgd": (1e-3, 1e-2, 1e-1, 1.0),
    "adam": (1e-4, 1e-3, 1e-2, 3e-2),
    "lamb": (1e-3, 1e-2, 1e-1),
}
# Half decades on both sides of the best rate of the coarse grid.
_HALF_DECADES = {
    "sgd-vgg11": (3e-4, 3e-3),
    "adam-vgg11": (3e-4, 3e-3),
    "lamb-vgg11": (3e-3, 3e-2),
    "nero-resnet18": (1e-1,),
    "sgd-resnet18": (0.3, 3.0),
    "adam-resnet18": (1e-1,),
    "lamb-resnet18": (3e-3, 3e-2),
}

_VARIANTS = (
    *on_model(standard_variants(), "vgg11", "VGG-11", network="vgg11"),
    *on_model(standard_variants(), "resnet18", "ResNet-18", network="resnet18"),
)

PAPER = Preset(
    name="paper",
    epochs=200,
    batch_size=128,
    schedule=Schedule("milestones", gamma=0.2, milestones=(100, 150, 180), warmup_epochs=5),
    variants=_VARIANTS,
    data={"train_size": None, "val_size": 0},
)

# The milestones and the warm-up are at the same shares of the run as in the paper.
CPU = replace(
    PAPER,
    name="cpu",
    epochs=12,
    schedule=Schedule("milestones", gamma=0.2, milestones=(6, 9, 10.8), warmup_epochs=0.3),
    variants=with_more_rates(with_grids(_VARIANTS, _CPU_GRIDS), _HALF_DECADES),
    model={"width": 0.125},
    data={"train_size": 5_000, "val_size": 2_000},
    deviations="Networks of an eighth of the width, 5,000 training images and 12 epochs, with the "
    "milestones of the learning rate at the same shares of the run.",
)

_GPU_VARIANTS = (
    Variant("nero-for-model", "Nero, recommended", "nero-for-model", (5e-2,)),
    Variant("nero", "Nero", "nero", (1e-2, 3e-2, 1e-1)),
    Variant("sgd", "SGD, momentum 0.9", "sgd", (1e-2, 3e-2, 1e-1), default_lr=1e-1),
    Variant("adam", "Adam", "adam", (3e-4, 1e-3, 3e-3)),
    Variant("muon", "Muon with AdamW", "muon", (1e-3, 3e-3, 1e-2)),
)

# Of the paper's size in all but the number of epochs, for a GPU.
H100 = replace(
    PAPER,
    name="h100",
    title="VGG-11 and ResNet-18 at full width, on a GPU",
    epochs=4,
    schedule=Schedule("milestones", gamma=0.2, milestones=(2, 3, 3.6), warmup_epochs=0.1),
    variants=(
        *on_model(_GPU_VARIANTS, "resnet18", "ResNet-18", network="resnet18"),
        *on_model(_GPU_VARIANTS, "vgg11", "VGG-11", network="vgg11"),
    ),
    seeds=(0,),
    data={"train_size": None, "val_size": 5_000},
    precision="bf16-mixed",
    deviations="4 epochs instead of 200, with the milestones of the learning rate at the same "
    "shares of the run, and products in bfloat16.",
)

# For the experiments on VGG-11 alone, which takes a fifth of the time.
VGG11_CPU = replace(
    CPU,
    model={"network": "vgg11", "width": 0.125},
    data={"train_size": 8_000, "val_size": 2_000},
    deviations=CPU.deviations.replace("5,000", "8,000").replace("Networks", "A network"),
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=1,
    batch_size=20,
    schedule=Schedule("milestones", gamma=0.2, milestones=(0.5,), warmup_epochs=0.5),
    variants=(CPU.variants[0], CPU.variants[5]),
    seeds=(0, 1),
    model={"width": 0.0625},
    data={"train_size": 60, "val_size": 20, "test_size": 20},
    deviations="Far too small to compare anything; for tests.",
)


class Cifar(ImageTask):
    """Classify CIFAR-10, cropped and mirrored, with a VGG-11 or a ResNet-18.

    Options of the model: network ("vgg11" or "resnet18"), width.
    """

    name = "cifar"
    figure = "6"
    title = "VGG-11 and ResNet-18 on CIFAR-10"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, H100, TINY)}
    source = "cifar-10"
    shape: ClassVar = {"channels": 3, "pixels": 32}
    augmented = True

    def build_model(self, *, network: str = "vgg11", **options: Any) -> nn.Module:
        """Return the network.

        Raises:
            ValueError: the network is neither of the two.
        """
        if network not in _NETWORKS:
            raise ValueError(f"network must be one of {', '.join(_NETWORKS)}, got {network!r}")
        # Convolutions with few channels are about 1.5 times as fast on CPUs with channels last.
        return _NETWORKS[network](**options).to(memory_format=torch.channels_last)
