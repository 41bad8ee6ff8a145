"""Even against odd classes of Fashion-MNIST: train until all labels are fitted, then measure."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from nero_lab.data.even_odd import load_even_odd
from nero_lab.data.found import FoundData
from nero_lab.data.parts import Split
from nero_lab.data.sources import find_source
from nero_lab.experiments.run import Result, Run
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import Metric, Preset, Task, Variant
from nero_lab.models.mlp import PlainMLP
from nero_lab.tasks.network_measures import FLATNESS_ANGLES, measure_network
from nero_lab.training.context import Context
from nero_lab.training.until_fitted import error_rate, fit_run

NERO_OPTIONS = {"beta": 0.9, "momentum": 0.9}
"""With the paper's own, networks at large batches do not fit random labels in hundreds of epochs:
the running average remembers the large gradients of the start, and the steps shrink."""

CPU = Preset(
    name="cpu",
    epochs=200,
    batch_size=50,
    schedule=Schedule("linear"),
    variants=(Variant("nero", "Nero", "nero", (0.01,), optimizer_options=NERO_OPTIONS),),
    model={"depth": 2, "width": 128},
    data={"train_size": 2000, "label_noise": 0.0},
    loss={"scale": 1.0},
)
TINY = replace(
    CPU,
    name="tiny",
    seeds=(0,),
    model={"depth": 2, "width": 16},
    data={"train_size": 100, "label_noise": 0.0},
    notes=("Far too small to compare anything; for tests.",),
)


class EvenOdd(Task):
    """Classify even against odd classes of Fashion-MNIST with a balanced chain of linear layers.

    The squared error to `scale` times the label, until an epoch ends with every training label
    fitted. A network that got there is measured, see `nero_lab.tasks.network_measures`.

    Options of the model: depth, width. Of the data: train_size, label_noise. Of the loss: scale.
    """

    name = "even-odd"
    title = "even against odd classes of Fashion-MNIST, until all labels are fitted"
    metric = Metric("error", "fraction", "lower", chance=0.5)
    presets: ClassVar = {preset.name: preset for preset in (CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return where Fashion-MNIST is."""
        return find_source("fashion-mnist", folder)

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return PlainMLP(in_features=784, classes=1, bias=False, **options)

    def run(self, run: Run, context: Context) -> Result:
        """Train and measure one network.

        Raises:
            Stopped: the context's `stop` was set; so short a run keeps no checkpoint.
            ValueError: the data are others than those that the run asks for.
        """
        train, test = load_parts(self.find_data(context.data_folder), run)
        start = time.perf_counter()
        model, fitted = fit_run(self.build_model, run, context, train)
        seconds = time.perf_counter() - start
        metrics: dict[str, dict[str, float | None]] = {
            "train": {"error": fitted.train_error},
            "test": {"error": error_rate(model, test)},
        }
        if fitted.train_error == 0:
            measured = measure_network(
                model, fitted.initial, train, run.loss["scale"], seed=run.seed
            )
            metrics["measures"] = dict(measured.values)
            metrics["bounds"] = dict(measured.details)
            metrics["turned"] = {
                f"{angle:g}": accuracy
                for angle, accuracy in zip(FLATNESS_ANGLES, measured.flatness_curve, strict=True)
            }
        return Result("finished", fitted.steps, round(seconds, 3), metrics, fitted.curves)


def load_parts(found: FoundData, run: Run) -> tuple[Split, Split]:
    """Return training and test part of a run; its seed draws images and noise.

    Raises:
        ValueError: the data are others than those that the run asks for.
    """
    run.check_data(found)
    assert found.folder is not None
    return load_even_odd(found.folder, found.digest, seed=run.seed, **run.data)
