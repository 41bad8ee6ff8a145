"""Very deep plain networks on digits: the paper's figure 3 (right), cut to two CPU cores.

The paper trains a 100-layer network of width 784 on MNIST for 50 epochs of 240 steps. Here the
data are scikit-learn's digits and the width is 64, so that a whole comparison takes minutes:
`nero demo` trains the presets "cpu" and "deep".
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from nero_lab.data.digits import CLASSES, IN_FEATURES, load_digits_split
from nero_lab.data.found import FoundData
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import ACCURACY, Classification, Data, Preset, Variant
from nero_lab.models.mlp import PlainMLP
from nero_lab.tasks.in_memory import loaders
from nero_lab.tasks.variants import on_model, with_grids

_ADAM = Variant("adam", "Adam", "adam")
_VARIANTS = (
    # One rate, its default: what nero.for_model promises.
    Variant("nero-for-model", "nero.for_model", "nero-for-model", lr_grid=()),
    *on_model((_ADAM,), "isometric", "isometric weights", init="isometric"),
    Variant("nero", "Nero", "nero"),
    *on_model((_ADAM,), "kaiming", "Kaiming weights", init="kaiming"),
    _ADAM,
    Variant("sgd", "SGD", "sgd"),
)

CPU = Preset(
    name="cpu",
    title="50 layers",
    epochs=100,
    batch_size=128,
    schedule=Schedule("exponential", gamma=0.96),
    variants=_VARIANTS,
    model={"depth": 50, "width": 64},
    data={"split_seed": 0},
    deviations="Scikit-learn's digits instead of MNIST, width 64 instead of 784, 50 layers instead "
    "of 100, and 1,000 steps instead of 12,000.",
    notes=(
        "Initial weights are PyTorch's own, as in the paper, Kaiming-normal with zero biases, or "
        "isometric (nero.initialize_, which nero.for_model calls). The same seed gives all "
        "optimisers the same batches, and those on the same kind of weights the same weights.",
        "nero.for_model has no grid: its default is all that was tried.",
        "Batch size, epochs and decay are the same for all. They were set so that Nero at its "
        "default rate has time to learn; no optimiser has a schedule of its own, warm-up apart.",
    ),
)

# A step of the 100-layer network costs twice as much, and the whole comparison is to fit into
# minutes: it trains for fewer epochs. Its learning rate falls by the same factor in the end.
DEEP = replace(
    CPU,
    name="deep",
    title="100 layers",
    epochs=20,
    schedule=Schedule("exponential", gamma=0.96**5),
    model={"depth": 100, "width": 64},
    deviations="Scikit-learn's digits instead of MNIST, width 64 instead of 784, and 200 steps "
    "instead of 12,000.",
)

QUICK = replace(
    CPU,
    name="quick",
    title="50 layers, quick",
    seeds=(0,),
    variants=with_grids(_VARIANTS, {"nero": (1e-2,), "sgd": (1e-3,), "adam": (1e-3,)}),
    notes=(
        *CPU.notes,
        "It does without two of three seeds, the 100-layer network and the grids: the best rate is "
        "the default one here. Its runs count towards the whole demo.",
    ),
)

TINY = replace(
    CPU,
    name="tiny",
    title="",
    epochs=2,
    batch_size=64,
    schedule=Schedule("exponential", gamma=0.95),
    seeds=(0, 1),
    variants=with_grids(_VARIANTS, {"nero": (1e-2,), "sgd": (1e-3,), "adam": (1e-3, 1e-2)}),
    model={"depth": 3, "width": 64},
    deviations="Far too small to compare anything; for tests.",
    notes=(),
)


class DigitsMLP(Classification):
    """Classify digits with a PlainMLP.

    Options of the model: depth, width, init (of `PlainMLP`). Of the data: split_seed.
    """

    name = "digits-mlp"
    title = "very deep plain MLP on scikit-learn's digits; what `nero demo` trains"
    # Ten classes, almost equally frequent.
    metric = replace(ACCURACY, chance=0.1)
    presets: ClassVar = {preset.name: preset for preset in (CPU, DEEP, QUICK, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return the digits, which come inside scikit-learn."""
        return FoundData("scikit-learn's digits", "1797 images")

    def load_data(
        self, found: FoundData, batch_size: int, *, split_seed: int, **options: Any
    ) -> Data:
        """Return images as rows of numbers, and classes."""
        return loaders(load_digits_split(split_seed), batch_size)

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return PlainMLP(in_features=IN_FEATURES, classes=CLASSES, **options)
