"""The paper's figure 3 (right): a plain network of 100 layers, and who can train it.

The paper starts every optimiser from PyTorch's default initial weights. `init` is an option here,
because much of what it shows is what those weights do.
"""

from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Preset, Published, Variant
from nero_lab.models.mlp import PlainMLP
from nero_lab.tasks.images import ImageTask
from nero_lab.tasks.variants import standard_variants, with_grids, with_more_rates

_GRID = (1e-4, 1e-3, 1e-2, 1e-1)


def _published(lr: float, *test: float) -> tuple[Published, ...]:
    return tuple(
        Published(value, lr, f"test accuracy, seed {seed}") for seed, value in enumerate(test)
    )


def _by_lr(*train: float) -> tuple[Published, ...]:
    return tuple(
        Published(value, lr, "train accuracy, seed 0")
        for lr, value in zip(_GRID, train, strict=True)
    )


# Nothing is said of a warm-up or momentum in the paper, and SGD has none in its figures.
_DEFAULT = standard_variants(
    grid=_GRID,
    published={
        "nero": _published(1e-3, 0.893, 0.910, 0.837) + _by_lr(0.943, 0.958, 0.208, 0.104),
        "sgd": _published(1e-1, 0.1135) + _by_lr(0.098, 0.112, 0.112, 0.112),
        "adam": _published(1e-3, 0.1135) + _by_lr(0.112, 0.112, 0.112, 0.099),
        "lamb": _published(1e-2, 0.672, 0.717, 0.716) + _by_lr(0.494, 0.112, 0.671, 0.099),
    },
)


def _from(init: str, names: tuple[str, ...]) -> tuple[Variant, ...]:
    """Return variants from other initial weights, which the paper has no figures of."""
    return tuple(
        replace(
            variant,
            name=f"{variant.name}-{init}",
            label=f"{variant.label}, {init} weights",
            model={"init": init},
            published=(),
        )
        for variant in _DEFAULT
        if variant.name in names
    )


_VARIANTS = (*_DEFAULT, *_from("kaiming", ("sgd", "adam")), *_from("balanced", ("sgd", "adam")))

# Half decades on both sides of the best of the decades.
_CPU_HALF_DECADES = {
    "nero": (3e-3, 3e-2),
    **dict.fromkeys(("sgd", "adam", "lamb"), (3e-5, 3e-4)),
    **dict.fromkeys(("sgd-kaiming", "sgd-balanced"), (3e-3, 3e-2)),
    **dict.fromkeys(("adam-kaiming", "adam-balanced"), (3e-4, 3e-3)),
}

PAPER = Preset(
    name="paper",
    epochs=50,
    batch_size=250,
    schedule=Schedule("exponential", gamma=0.9),
    variants=_VARIANTS,
    model={"depth": 100, "width": 784},
    data={"train_size": None, "val_size": 0},
)

CPU = replace(
    PAPER,
    name="cpu",
    epochs=20,
    batch_size=100,
    variants=with_more_rates(_VARIANTS, _CPU_HALF_DECADES),
    # Over a run it falls as far as in the paper.
    schedule=Schedule("exponential", gamma=round(0.9 ** (50 / 20), 3)),
    model={"depth": 100, "width": 64},
    data={"train_size": 20_000, "val_size": 2_000},
    deviations="Width 64 instead of 784, and 4,000 steps instead of 12,000: 20 epochs of 20,000 "
    "images in batches of 100.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    batch_size=50,
    variants=_VARIANTS[:2],
    seeds=(0, 1),
    model={"depth": 3, "width": 16},
    data={"train_size": 200, "val_size": 100, "test_size": 100},
    deviations="Far too small to compare anything; for tests.",
)


_HALF_DECADES = {
    "nero-for-model": (1.5e-2, 5e-2, 1.5e-1),
    "adam": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
    "muon": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
}
_LABELS = {"nero-for-model": "Nero, recommended", "adam": "Adam", "muon": "Muon with AdamW"}

FULL = replace(
    PAPER,
    name="full",
    title="One number for 100 layers",
    epochs=20,
    batch_size=100,
    schedule=Schedule("linear"),
    variants=(
        Variant("nero-for-model", _LABELS["nero-for-model"], "nero-for-model"),
        *(
            Variant(
                f"{name}-{init}", f"{_LABELS[name]}, {init} weights", name, model={"init": init}
            )
            for name in ("adam", "muon")
            for init in ("default", "kaiming", "balanced", "isometric")
        ),
    ),
    model={"depth": 100, "width": 128},
    groups={"head": "layers.99"},
    deviations="Width 128 instead of 784, 20 epochs instead of 50, linear decay. Optimisers that "
    "are not in the paper, each from four kinds of initial weights; nero.for_model draws its own.",
)
FULL = replace(FULL, variants=with_grids(FULL.variants, _HALF_DECADES))


class DeepMLP(ImageTask):
    """Classify MNIST with a PlainMLP.

    Options of the model: depth, width, init (of `PlainMLP`).
    """

    name = "deep-mlp"
    figure = "3 right"
    title = "100-layer plain MLP on MNIST"
    presets: ClassVar = {preset.name: preset for preset in (PAPER, FULL, CPU, TINY)}
    source = "mnist"
    shape: ClassVar = {"channels": 1, "pixels": 28}
    flat = True

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return PlainMLP(in_features=784, classes=10, **options)
