"""The paper's figure 7: a small transformer encoder that predicts the next word of WikiText-2."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nero_lab.data.found import FoundData
from nero_lab.data.loaders import TensorLoader
from nero_lab.data.sources import find_source
from nero_lab.data.words import load_words, rows_of_streams
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import PERPLEXITY, Data, Loader, Preset, Task
from nero_lab.models.word_lm import WordLM
from nero_lab.tasks.variants import standard_variants, with_grids, with_more_rates

_EVAL_STREAMS = 10
_TRAIN_EVAL_WORDS = 20_000
"""Words of the training part that are evaluated once training is over."""
_VARIANTS = standard_variants(groups={"head": "head"})
_CPU_GRIDS = {
    "nero": (1e-3, 1e-2, 1e-1),
    "sgd": (1e-3, 1e-1, 1.0),
    "adam": (1e-4, 1e-3, 1e-2),
    "lamb": (1e-3, 1e-2, 1e-1),
}

# Half decades on both sides of the best rate of the coarse grid.
_HALF_DECADES = {
    "nero": (3e-3, 3e-2),
    "sgd": (0.3, 3.0),
    "adam": (3e-4, 3e-3),
    "lamb": (3e-3, 3e-2),
}
_CPU_VARIANTS = with_grids(_VARIANTS, _CPU_GRIDS)

PAPER = Preset(
    name="paper",
    epochs=20,
    batch_size=20,
    schedule=Schedule("milestones", gamma=0.1, milestones=(10,)),
    variants=_VARIANTS,
    # Enough for every word of WikiText-2, and as many as it has.
    model={"vocabulary": 33_278, "context": 35, "depth": 2, "width": 200},
    data={"vocabulary": 33_278, "context": 35},
    clip_norm=0.25,
)

CPU = replace(
    PAPER,
    name="cpu",
    epochs=6,
    schedule=Schedule("milestones", gamma=0.1, milestones=(3,)),
    variants=with_more_rates(_CPU_VARIANTS, _HALF_DECADES),
    model={"vocabulary": 4_000, "context": 35, "depth": 2, "width": 100},
    data={"vocabulary": 4_000, "context": 35, "train_words": 80_000, "eval_words": 20_000},
    deviations="Width 100 instead of 200, 80,000 words to learn from and the 4,000 most frequent "
    "ones kept apart, 6 epochs; the learning rate falls half way, as in the paper.",
)

TINY = replace(
    CPU,
    name="tiny",
    epochs=2,
    batch_size=4,
    schedule=Schedule("milestones", gamma=0.1, milestones=(1,)),
    variants=_CPU_VARIANTS[:2],
    seeds=(0, 1),
    model={"vocabulary": 60, "context": 8, "depth": 2, "width": 16},
    data={"vocabulary": 60, "context": 8, "train_words": 400, "eval_words": 200},
    deviations="Far too small to compare anything; for tests.",
)


class WikiText2(Task):
    """Predict the next word with a WordLM under cross-entropy.

    Options of the data: vocabulary (how many words are kept apart), context (words of a row),
    train_words and eval_words (None: all). Of the model: those of `WordLM`; its vocabulary has to
    be at least that of the data.
    """

    name = "wikitext2"
    figure = "7"
    title = "2-layer transformer on the words of WikiText-2"
    metric = PERPLEXITY
    presets: ClassVar = {preset.name: preset for preset in (PAPER, CPU, TINY)}

    def find_data(self, folder: Path | None, **options: Any) -> FoundData:
        """Return WikiText-2, or its stand-in, in a folder or where it usually is."""
        return find_source("wikitext-2", folder)

    def load_data(self, found: FoundData, batch_size: int, *, context: int, **options: Any) -> Data:
        """Return rows of `context` words, and for each word the one after it."""
        assert found.folder is not None
        words = load_words(found.folder, found.digest, **options)

        def loader(part: Tensor, streams: int) -> TensorLoader:
            # In the order of the text, as is usual for a word-level language model.
            return TensorLoader(rows_of_streams(part, streams, context), streams, shuffle=False)

        return Data(
            train=loader(words.train, batch_size),
            val=loader(words.val, _EVAL_STREAMS),
            test=loader(words.test, _EVAL_STREAMS),
            train_eval=loader(words.train[:_TRAIN_EVAL_WORDS], _EVAL_STREAMS),
        )

    def build_model(self, **options: Any) -> nn.Module:
        """Return the network."""
        return WordLM(**options)

    def loss(self, model: nn.Module, batch: Any, **options: Any) -> Tensor:
        """Return the mean cross-entropy of the words, in nats."""
        x, y = batch
        return cross_entropy(model(x).flatten(0, 1), y.flatten(), **options)

    def evaluate(self, model: nn.Module, loader: Loader) -> Mapping[str, float]:
        """Return the mean cross-entropy of the words, and its exponential."""
        words, total = 0, 0.0
        for x, y in loader:
            words += y.numel()
            total += float(cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum"))
        return with_perplexity(total / words)


def with_perplexity(loss: float) -> dict[str, float]:
    """Return a mean cross-entropy in nats, and its exponential; infinite where that is too large.

    Examples:
        >>> with_perplexity(0.0)
        {'loss': 0.0, 'perplexity': 1.0}
    """
    try:
        return {"loss": loss, "perplexity": math.exp(loss)}
    except OverflowError:
        return {"loss": loss, "perplexity": math.inf}
