"""The paper's figure 3 (left): balanced by reparameterisation, and what the initial scale does.

Adam trains free weights that the network centres and normalises. Beside it, which the paper does
not show, Nero trains the same network on the weights themselves from the same two scales.
"""

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Preset, Published, Variant
from nero_lab.models.normalised_mlp import NormalisedMLP
from nero_lab.tasks.images import ImageTask
from nero_lab.tasks.variants import with_more_rates

_LR = 0.01


def _published(first_epoch: float, fifth_epoch: float) -> tuple[Published, ...]:
    return (
        Published(first_epoch, _LR, "mean train accuracy of epoch 1"),
        Published(fifth_epoch, _LR, "mean train accuracy of epoch 5"),
    )


def _variant(optimizer: str, scale: float, published: tuple[Published, ...] = ()) -> Variant:
    reparameterised = optimizer == "adam"
    how = "Adam, reparameterised" if reparameterised else "Nero, projected"
    return Variant(
        name=f"{optimizer}-{scale:g}",
        label=f"{how}, s = {scale:g}",
        optimizer=optimizer,
        lr_grid=(_LR,),
        default_lr=_LR,
        model={"scale": scale, "reparameterised": reparameterised},
        published=published,
    )


_VARIANTS = (
    _variant("adam", 1.0, _published(0.942, 0.992)),
    _variant("adam", 100.0, _published(0.55, 0.922)),
    _variant("nero", 1.0),
    _variant("nero", 100.0),
)

_OF_ADAM, _OF_NERO = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1), (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_CPU_GRIDS = {"adam-1": _OF_ADAM, "adam-100": _OF_ADAM, "nero-1": _OF_NERO, "nero-100": _OF_NERO}

PAPER = Preset(
    name="paper",
    epochs=5,
    batch_size=250,
    schedule=Schedule(),
    variants=_VARIANTS,
    model={"depth": 5, "width": 784},
    data={"train_size": None, "val_size": 0},
)

CPU = replace(
    PAPER,
    name="cpu",
    variants=with_more_rates(_VARIANTS, _CPU_GRIDS),
    model={"depth": 5, "width": 256},
    data={"train_size": 50_000, "val_size": 10_000},
    deviations="Hidden width 256 instead of 784; 10,000 training images are held out.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    batch_size=20,
    variants=(_VARIANTS[1], _VARIANTS[2]),
    seeds=(0, 1),
    model={"depth": 3, "width": 16},
    data={"train_size": 60, "val_size": 20, "test_size": 20},
    deviations="Far too small to compare anything; for tests.",
)


class CentredWeightNormMLP(ImageTask):
    """Classify MNIST with a NormalisedMLP; options of the model: those of `NormalisedMLP`."""

    name = "cwn"
    figure = "3 left"
    title = "Reparameterisation and projection, from small and large weights: MLP on MNIST"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}
    source = "mnist"
    shape: ClassVar = {"channels": 1, "pixels": 28}
    flat = True

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return NormalisedMLP(**options)
