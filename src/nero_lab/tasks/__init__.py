"""The experiments: one module each, with its data, model, loss, metric and presets."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from nero_lab.experiments.task import ACCURACY, LOSS_PER_TOKEN, Metric

if TYPE_CHECKING:
    from torch import Tensor, nn


class Splits(Protocol):
    """Data in three parts, each with inputs `x` and targets `y` that have equally many rows."""

    @property
    def train(self) -> Any:
        """What the network learns from."""
        ...

    @property
    def val(self) -> Any:
        """What learning rates are chosen on."""
        ...

    @property
    def test(self) -> Any:
        """What is reported."""
        ...


class Task(Protocol):
    """What the training loop asks of an experiment."""

    def data(self, **options: Any) -> Splits:
        """Return the data as tensors."""
        ...

    def model(self, **options: Any) -> "nn.Module":
        """Return a model with fresh initial weights, drawn from torch's global generator."""
        ...

    def loss(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Return the mean training loss of a batch."""
        ...

    def score(self, outputs: "Tensor", targets: "Tensor") -> "Tensor":
        """Return the metric of TaskInfo, summed over the targets of a batch."""
        ...


@dataclass(frozen=True)
class TaskInfo:
    """A row in the list of tasks."""

    name: str
    module: str
    """where the Task stands: "module:class"; imported when it is trained"""
    figure: str
    """the figure of the paper that it corresponds to"""
    summary: str
    data: str
    """the name of the data, and where it comes from"""
    metric: Metric


TASKS: Mapping[str, TaskInfo] = {
    info.name: info
    for info in (
        TaskInfo(
            name="digits-mlp",
            module="nero_lab.tasks.digits_mlp:DigitsMLP",
            figure="3 right",
            summary="very deep plain MLP on scikit-learn's digits; what `nero demo` trains",
            data="scikit-learn's digits, which come inside the package",
            metric=ACCURACY,
        ),
        TaskInfo(
            name="fashion-cnn",
            module="nero_lab.tasks.fashion_cnn:FashionCNN",
            figure="-",
            summary="small VGG-like network on Fashion-MNIST, or on some of its classes",
            data="Fashion-MNIST (Debian package dataset-fashion-mnist)",
            metric=ACCURACY,
        ),
        TaskInfo(
            name="small-lm",
            module="nero_lab.tasks.small_lm:SmallLM",
            figure="-",
            summary="small GPT-like language model on the texts of a folder",
            data="texts in a folder, such as An Anarchist FAQ (Debian package anarchism)",
            metric=LOSS_PER_TOKEN,
        ),
    )
}


def load_task(name: str) -> Task:
    """Return the task of that name."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; the tasks are: {', '.join(TASKS)}")
    module, _, attribute = TASKS[name].module.partition(":")
    return getattr(import_module(module), attribute)()
