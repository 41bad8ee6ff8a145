"""What an experiment is: its data, model, loss, metrics and presets.

How to write a task (docs/how-to/own-task.md shows one that runs):

1. One file with one class under `Task`, or under `Classification` where classes are predicted.
2. `name`, `figure`, `title`, `metric` and, once there are records, `recipe`, are class attributes.
3. `presets` maps names to `Preset`: all about a run but optimiser, learning rate and seed.
4. `find_data(folder, **options)` says which data set is there, by name and digest, without loading.
5. `load_data(found, batch_size, **options)` returns `Data`: loaders for train, val and test.
6. `build_model(**options)` draws fresh weights from torch's global generator.
7. `loss(model, batch, **options)` and `evaluate(model, loader)` are all that most need besides.
8. Options are keywords: `Preset.data`, `.model` (a variant adds its own) and `.loss` hold them.
9. Two optimisers, as for a GAN: override `trained_modules` and `training_step`.
10. Not a loop over batches at all (reinforcement learning): write `run(run, context) -> Result`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from nero_lab.data.found import FoundData
from nero_lab.experiments.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Metric:
    """What a task reports."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    chance: float | None = None
    """what a network that has learned nothing reaches, where that is known"""

    def rank(self, value: float) -> float:
        """Return a number that is higher the better `value` is."""
        return value if self.better == "higher" else -value


ACCURACY = Metric("accuracy", "fraction", "higher")
LOSS_PER_TOKEN = Metric("loss", "nats per token", "lower")
PERPLEXITY = Metric("perplexity", "exp(nats per token)", "lower")


@dataclass(frozen=True)
class Published:
    """A figure of the paper, or of its authors' stored results."""

    value: float
    lr: float
    what: str
    """which number it is, such as "test accuracy, seed 0" """


@dataclass(frozen=True)
class Variant:
    """One curve of a figure: an optimiser, under options."""

    name: str
    """unique in its preset"""
    label: str
    """what tables and figures call it"""
    optimizer: str
    """a name in the table of optimisers, or an import path"""
    lr_grid: tuple[float, ...] | None = None
    """the learning rates to try; None: the table's"""
    default_lr: float | None = None
    """the default learning rate; None: the table's"""
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    """beside or instead of the table's"""
    groups: Mapping[str, Any] | None = None
    """arguments of `nero.param_groups` besides the model; None: the preset's"""
    model: Mapping[str, Any] = field(default_factory=dict)
    """beside or instead of the preset's"""
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Preset:
    """All about a run but optimiser, learning rate and seed."""

    name: str
    epochs: int
    """0: the model is evaluated once its optimiser is built, and not trained"""
    batch_size: int
    """over all devices together"""
    schedule: Schedule
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    model: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Any] | None = None
    """arguments of `nero.param_groups` besides the model, such as which layer is the head, for the
    optimisers whose row in the table is `by_neuron`; None: the preset "paper" and no more"""
    clip_norm: float | None = None
    """the most that the norm of all gradients together may be"""
    eval_every: int = 1
    """epochs from one evaluation to the next; the last epoch always has one"""
    start: "Start | None" = None
    """where the initial weights come from; None: they are fresh"""
    precision: str = "32-true"
    """of Lightning Fabric, such as "bf16-mixed"; `nero train --precision` overrides it"""
    grid_seeds: int = 1
    """on how many of the seeds, from the first on, every learning rate is tried"""
    title: str = ""
    """what it is, in headings, where a task has several presets side by side"""
    deviations: str = ""
    """in what it falls short of the paper, for the reader"""
    notes: tuple[str, ...] = ()
    """what else the reader has to know, a sentence or more each"""


@dataclass(frozen=True)
class Start:
    """The final weights of another run of the same task and seed, for runs to start from."""

    preset: Preset
    """of one variant, whose run at its default learning rate they come from"""
    fresh: tuple[str, ...] = ()
    """modules that keep weights of their own, such as a new head"""


class Loader(Protocol):
    """Batches of one part of the data; `nero_lab.data.loaders.TensorLoader` is one.

    What an epoch's batches are depends on its number and the seed alone, so that a run can be taken
    up again at any step.
    """

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def __iter__(self) -> "Iterator[Any]":
        """Yield everything once, in order, without random augmentation: for evaluation."""
        ...

    def batches(
        self, epoch: int, *, seed: int, first: int = 0, rank: int = 0, world: int = 1
    ) -> "Iterator[Any]":
        """Yield the batches of an epoch for training, from the step `first` on.

        With `world` devices, each gets an equal share, by its `rank`, of every batch.
        """
        ...


@dataclass(frozen=True)
class Data:
    """The parts of a data set, loaded."""

    train: Loader
    val: Loader | None
    """what learning rates are chosen on; None where the paper has no such part: then test"""
    test: Loader
    train_eval: Loader | None = None
    """some of the training part, evaluated once training is over; None: not evaluated"""


Update = Callable[..., None]
"""update(loss, name="model"): gradients of `loss`, clipping, and a step of that optimiser"""


class Task:
    """An experiment. Instances hold no state: everything comes as an argument."""

    name: ClassVar[str]
    figure: ClassVar[str] = "-"
    """the figure of the paper that it belongs to"""
    title: ClassVar[str]
    """one line, for lists and headings"""
    metric: ClassVar[Metric]
    """the one of `evaluate` by which runs are compared"""
    presets: ClassVar[Mapping[str, Preset]]
    recipe: ClassVar[int] = 1
    """raised by hand when what a run computes changes, so that old records are not taken for new"""
    loss_limit: ClassVar[float] = float("inf")
    """a training loss above it counts as divergence, as one that is not finite does"""

    def preset(self, name: str) -> Preset:
        """Return the preset of that name.

        Raises:
            ValueError: there is none.
        """
        if name not in self.presets:
            names = ", ".join(self.presets)
            raise ValueError(f"{self.name} has no preset {name!r}; it has: {names}")
        return self.presets[name]

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return which data set a run would use, without loading it.

        Args:
            folder: where the user says that it is, None: wherever it usually is.
            **options: `Preset.data`.

        Raises:
            MissingData: there is none; the message says how to get it.
        """
        raise NotImplementedError

    def load_data(self, found: FoundData, batch_size: int, **options: Any) -> Data:
        """Return the data that `find_data` found; kept in memory between runs where it is slow."""
        raise NotImplementedError

    def build_model(self, **options: Any) -> "nn.Module":
        """Return a model with fresh initial weights, drawn from torch's global generator."""
        raise NotImplementedError

    def trained_modules(self, model: "nn.Module") -> "Mapping[str, nn.Module]":
        """Return the modules that have an optimiser each, by its name for `training_step`."""
        return {"model": model}

    def loss(self, model: "nn.Module", batch: Any, **options: Any) -> "Tensor":
        """Return the training loss of a batch, a mean over its rows or tokens."""
        raise NotImplementedError

    def training_step(
        self, model: "nn.Module", batch: Any, update: Update, **options: Any
    ) -> "Mapping[str, Tensor]":
        """Train on one batch, and return numbers to be averaged over the epoch, "loss" among them.

        Args:
            model: in training mode.
            batch: from `Data.train`.
            update: takes a loss, and the optimiser's name where there are several: clears the
                gradients, computes them, clips them if the preset says so, and makes the step.
            **options: `Preset.loss`.
        """
        loss = self.loss(model, batch, **options)
        update(loss)
        return {"loss": loss.detach()}

    def evaluate(self, model: "nn.Module", loader: Loader) -> Mapping[str, float]:
        """Return the metrics of a model in evaluation mode, without gradients, on a part."""
        raise NotImplementedError


class Classification(Task):
    """Batches of (inputs, classes) under cross-entropy; reports accuracy and loss.

    Options of the loss: those of `torch.nn.functional.cross_entropy`, such as label_smoothing.
    """

    metric = ACCURACY

    def loss(self, model: "nn.Module", batch: Any, **options: Any) -> "Tensor":
        """Return the mean cross-entropy, in nats."""
        from torch.nn.functional import cross_entropy

        x, y = batch
        return cross_entropy(model(x), y, **options)

    def training_step(
        self, model: "nn.Module", batch: Any, update: Update, **options: Any
    ) -> "Mapping[str, Tensor]":
        """Train on one batch; return its loss and accuracy before the step."""
        from torch.nn.functional import cross_entropy

        x, y = batch
        scores = model(x)
        loss = cross_entropy(scores, y, **options)
        update(loss)
        correct = (scores.detach().argmax(dim=1) == y).float().mean()
        return {"loss": loss.detach(), "accuracy": correct}

    def evaluate(self, model: "nn.Module", loader: Loader) -> Mapping[str, float]:
        """Return accuracy and mean cross-entropy, without label smoothing."""
        from torch.nn.functional import cross_entropy

        rows, correct, loss = 0, 0, 0.0
        for x, y in loader:
            scores = model(x)
            rows += len(y)
            correct += int((scores.argmax(dim=1) == y).sum())
            loss += float(cross_entropy(scores, y, reduction="sum"))
        return {"accuracy": correct / rows, "loss": loss / rows}
