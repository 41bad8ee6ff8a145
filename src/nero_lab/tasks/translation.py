"""The paper's figure 8: a transformer that translates German captions into English.

The paper's name for the data is WMT16 en-de; they are Multi30k, of its multimodal task.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nero_lab.data.found import FoundData
from nero_lab.data.loaders import TensorLoader
from nero_lab.data.pairs import PADDING, load_pairs, trim
from nero_lab.data.parts import Split
from nero_lab.data.sources import find_source
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import PERPLEXITY, Data, Loader, Preset, Published, Task
from nero_lab.models.translator import Translator
from nero_lab.tasks.variants import standard_variants, with_grids, with_more_rates
from nero_lab.tasks.wikitext2 import with_perplexity

_EVAL_ROWS = 100
_TRAIN_EVAL_ROWS = 1000
"""Pairs of the training part that are evaluated once training is over."""
LONGEST = 100
"""The most words of a sentence, begin and end among them."""


def _published(lr: float, *perplexities: float) -> tuple[Published, ...]:
    return tuple(
        Published(value, lr, f"best validation perplexity, seed {seed}")
        for seed, value in enumerate(perplexities)
    )


_VARIANTS = standard_variants(
    published={
        "nero": (
            *_published(1e-3, 12.28, 9.65, 12.12),
            Published(30.96, 1e-2, "best validation perplexity"),
            Published(2545, 1e-2, "last validation perplexity"),
        ),
        "sgd": _published(1e-4, 29.1, 51.5, 29.1),
        "adam": _published(1e-4, 12.99, 12.44, 12.32),
        "lamb": _published(1e-2, 16.16, 16.13, 16.76),
    },
)
_CPU_GRIDS = {
    "nero": (1e-3, 1e-2, 3e-2, 1e-1),
    "sgd": (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    "adam": (1e-4, 1e-3, 1e-2, 3e-2),
    "lamb": (1e-3, 1e-2, 1e-1),
}
# Half decades on both sides of the best rate of the coarse grid.
_HALF_DECADES = {"sgd": (0.3, 3.0), "adam": (3e-3,), "lamb": (3e-3, 3e-2)}
_CPU_VARIANTS = with_grids(_VARIANTS, _CPU_GRIDS)

PAPER = Preset(
    name="paper",
    epochs=100,
    batch_size=128,
    # The paper says "linear warm-up, then linear warm-down", and not where one ends: half way here.
    schedule=Schedule("linear", warmup_epochs=50),
    variants=_VARIANTS,
    model={"vocabulary": 10_000, "depth": 6, "width": 512, "heads": 8, "hidden": 2048},
    data={"vocabulary": 10_000, "min_count": 3},
    loss={"label_smoothing": 0.1},
)

CPU = replace(
    PAPER,
    name="cpu",
    epochs=6,
    batch_size=32,
    schedule=Schedule("linear", warmup_epochs=3),
    variants=with_more_rates(_CPU_VARIANTS, _HALF_DECADES),
    model={"vocabulary": 2_000, "depth": 2, "width": 64, "heads": 4, "hidden": 256},
    data={"vocabulary": 2_000, "min_count": 3, "train_size": 4_000},
    deviations="2 + 2 layers of width 64, 4,000 pairs to learn from in batches of 32, the 2,000 "
    "most frequent words kept apart, 6 epochs.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    batch_size=8,
    schedule=Schedule("linear", warmup_epochs=1),
    variants=_CPU_VARIANTS[:2],
    seeds=(0, 1),
    model={"vocabulary": 60, "depth": 1, "width": 16, "heads": 2, "hidden": 32},
    data={"vocabulary": 60, "min_count": 1, "train_size": 24, "eval_size": 8},
    deviations="Far too small to compare anything; for tests.",
)


class Translation(Task):
    """Predict the next English word with a Translator, under cross-entropy with smoothed labels.

    Options of the data: those of `load_pairs`. Of the model: those of `Translator`; its vocabulary
    has to be at least that of the data. Of the loss: label_smoothing; the metrics have none.
    """

    name = "translation"
    figure = "8"
    title = "Transformer on Multi30k, German to English"
    metric = PERPLEXITY
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return Multi30k, in a folder or where it usually is."""
        return find_source("multi30k", folder)

    def load_data(self, found: FoundData, batch_size: int, **options: Any) -> Data:
        """Return pairs of sentences."""
        assert found.folder is not None
        pairs = load_pairs(found.folder, found.digest, longest=LONGEST, **options)
        some = Split(pairs.train.x[:_TRAIN_EVAL_ROWS], pairs.train.y[:_TRAIN_EVAL_ROWS])
        return Data(
            train=TensorLoader(pairs.train, batch_size),
            val=TensorLoader(pairs.val, _EVAL_ROWS),
            test=TensorLoader(pairs.test, _EVAL_ROWS),
            train_eval=TensorLoader(some, _EVAL_ROWS),
        )

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return Translator(padding=PADDING, longest=LONGEST, **options)

    def loss(self, model: nn.Module, batch: Any, **options: Any) -> Tensor:
        """Return the mean cross-entropy of the words of the target, in nats."""
        scores, words = _predict(model, batch)
        return cross_entropy(scores, words, ignore_index=PADDING, **options)

    def evaluate(self, model: nn.Module, loader: Loader) -> Mapping[str, float]:
        """Return the mean cross-entropy of the words, and its exponential."""
        count, total = 0, 0.0
        for batch in loader:
            scores, words = _predict(model, batch)
            count += int((words != PADDING).sum())
            total += float(cross_entropy(scores, words, ignore_index=PADDING, reduction="sum"))
        return with_perplexity(total / count)


def _predict(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """Return the scores of each target word but the first, given those before it, and the words."""
    source, target = (trim(rows) for rows in batch)
    scores = model(source, target[:, :-1])
    return scores.flatten(0, 1), target[:, 1:].flatten()
