"""The paper's figure 3 (right): a plain network of 100 layers, and who can train it.

The paper starts every optimiser from PyTorch's default initial weights. `init` is an option here,
because much of what it shows is what those weights do.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from nero_lab.data.fashion_mnist import (
    FOLDER,
    fashion_mnist_digest,
    load_fashion_mnist,
)
from nero_lab.data.loaders import TensorLoader
from nero_lab.data.parts import Split
from nero_lab.models.mlp import PlainMLP
from nero_lab.tasks.base import ACCURACY, Arm, Classification, Data, FoundData, Preset, Published
from nero_lab.tasks.schedule import Schedule

_GRID = (1e-4, 1e-3, 1e-2, 1e-1)
_EVAL_ROWS = 1000


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
_DEFAULT = (
    Arm(
        "nero",
        "Nero",
        "nero",
        _GRID,
        published=_published(1e-3, 0.893, 0.910, 0.837) + _by_lr(0.943, 0.958, 0.208, 0.104),
    ),
    Arm(
        "sgd",
        "SGD",
        "sgd",
        _GRID,
        optimizer_options={"momentum": 0.0},
        published=_published(1e-1, 0.1135) + _by_lr(0.098, 0.112, 0.112, 0.112),
    ),
    Arm(
        "adam",
        "Adam",
        "adam",
        _GRID,
        published=_published(1e-3, 0.1135) + _by_lr(0.112, 0.112, 0.112, 0.099),
    ),
    Arm(
        "lamb",
        "LAMB",
        "lamb",
        _GRID,
        published=_published(1e-2, 0.672, 0.717, 0.716) + _by_lr(0.494, 0.112, 0.671, 0.099),
    ),
)


def _from(init: str, names: tuple[str, ...]) -> tuple[Arm, ...]:
    """Return arms from other initial weights, which the paper has no figures of."""
    return tuple(
        replace(
            arm,
            name=f"{arm.name}-{init}",
            label=f"{arm.label}, {init} weights",
            model={"init": init},
            published=(),
        )
        for arm in _DEFAULT
        if arm.name in names
    )


_ARMS = (*_DEFAULT, *_from("kaiming", ("sgd", "adam")), *_from("balanced", ("sgd", "adam")))

PAPER = Preset(
    name="paper",
    epochs=50,
    batch_size=250,
    schedule=Schedule("exponential", gamma=0.9),
    arms=_ARMS,
    model={"depth": 100, "width": 784},
    data={"train_size": 60_000, "val_size": 0},
)

CPU = replace(
    PAPER,
    name="cpu",
    model={"depth": 50, "width": 64},
    data={"train_size": 10_000, "val_size": 2_000},
    left_out="50 layers of width 64 instead of 100 of 784, and 10,000 training images, so 40 steps "
    "an epoch instead of 240.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    batch_size=50,
    arms=_ARMS[:2],
    seeds=(0, 1),
    model={"depth": 3, "width": 16},
    data={"train_size": 200, "val_size": 100, "test_size": 100},
    left_out="Far too small to compare anything; for tests.",
)


class DeepMLP(Classification):
    """Classify MNIST with a PlainMLP.

    Options of the model: depth, width, init ("default", "kaiming" or "balanced"). Of the data:
    train_size, val_size, test_size (None: all).
    """

    name = "deep-mlp"
    figure = "3 right"
    title = "100-layer plain MLP on MNIST"
    metric = replace(ACCURACY, chance=0.1)
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return Fashion-MNIST, the stand-in for MNIST."""
        folder = FOLDER if folder is None else folder
        return FoundData("Fashion-MNIST", fashion_mnist_digest(folder), folder, "MNIST")

    def load_data(
        self,
        found: FoundData,
        batch_size: int,
        *,
        train_size: int,
        val_size: int,
        test_size: int | None = None,
        **options: Any,
    ) -> Data:
        """Return images of 784 numbers and classes."""
        assert found.folder is not None
        train, val, test = _flat_images(found.folder, found.digest, train_size, val_size)
        test = Split(*(part[:test_size] for part in test))
        return Data(
            train=TensorLoader(train, batch_size),
            val=TensorLoader(val, _EVAL_ROWS) if val_size else None,
            test=TensorLoader(test, _EVAL_ROWS),
            train_eval=TensorLoader(train, _EVAL_ROWS),
        )

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return PlainMLP(in_features=784, classes=10, **options)


@functools.lru_cache(maxsize=1)
def _flat_images(folder: Path, digest: str, train_size: int, val_size: int) -> tuple[Split, ...]:
    parts = load_fashion_mnist(folder, digest, train_size=train_size, val_size=val_size)
    return tuple(Split(part.x.flatten(1), part.y) for part in parts)
