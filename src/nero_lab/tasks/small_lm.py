"""A small language model on the texts of a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nero_lab.data.found import FoundData
from nero_lab.data.sources import find_source
from nero_lab.data.text import load_text, train_tokenizer
from nero_lab.experiments.schedule import Schedule
from nero_lab.experiments.task import LOSS_PER_TOKEN, Data, Loader, Preset, Task, Variant
from nero_lab.models.gpt import SmallGPT
from nero_lab.tasks.in_memory import loaders

CONTEXT = 64
BATCH = 16
_EVAL_ROWS = 16
_TRAIN_EVAL_ROWS = 64
_PLAIN = "nero-for-model-plain"

CPU = Preset(
    name="cpu",
    epochs=1,
    batch_size=BATCH,
    schedule=Schedule("linear"),
    variants=(Variant("nero", "Nero", "nero"), Variant("adamw", "AdamW", "adamw")),
    model={"vocabulary": 1024, "context": CONTEXT, "width": 128},
    data={
        "corpus": "anarchism",
        "tokenizer": "anarchism",
        "vocabulary": 1024,
        "context": CONTEXT,
        "train_tokens": 450 * BATCH * CONTEXT,
        "eval_tokens": 32_768,
    },
    groups={"head": "head"},
    notes=("Byte-level BPE, learned on the training text of the corpus that `tokenizer` names.",),
)
TINY = replace(
    CPU,
    name="tiny",
    seeds=(0,),
    model={"vocabulary": 320, "context": CONTEXT, "width": 32},
    data={
        **CPU.data,
        "vocabulary": 320,
        "train_tokens": 4 * BATCH * CONTEXT,
        "eval_tokens": 1024,
    },
    notes=(*CPU.notes, "Far too small to compare anything; for tests."),
)

# All of the corpus once and a half, for a GPU with fast products in bfloat16.
H100 = replace(
    CPU,
    name="h100",
    title="A GPT of 25 million parameters on bytes",
    epochs=10,
    batch_size=64,
    variants=(
        Variant("nero-for-model", "Nero, recommended", "nero-for-model", (1.5e-2, 5e-2, 1.5e-1)),
        Variant(_PLAIN, "Nero, recommended, no momentum", _PLAIN, (5e-2,)),
        Variant("adamw", "AdamW", "adamw", (3e-4, 1e-3, 3e-3)),
        Variant("muon", "Muon with AdamW", "muon", (1e-3, 3e-3, 1e-2)),
    ),
    model={"vocabulary": 256, "context": 256, "width": 512, "depth": 8, "heads": 8},
    data={
        **CPU.data,
        "vocabulary": 256,
        "context": 256,
        "train_tokens": 8_800_000,
        "eval_tokens": 131_072,
        "epoch_steps": 80,
    },
    precision="bf16-mixed",
    notes=("A token is a byte. 800 steps, linear decay, after the customary warm-up.",),
)


@dataclass(frozen=True, kw_only=True)
class _Corpora(FoundData):
    """A corpus, and the one on which its tokenizer is learned."""

    corpus: FoundData
    tokenizer: FoundData


class SmallLM(Task):
    """Predict the next token with a SmallGPT.

    Options of the model: dtype, vocabulary, context, depth, width, heads, tied. Of the data: corpus
    and tokenizer, names of texts in `nero data`; vocabulary, context, train_tokens, eval_tokens,
    epoch_steps (steps of an epoch; None: all of the training part).
    """

    name = "small-lm"
    title = "small GPT-like language model on the texts of a folder"
    metric = LOSS_PER_TOKEN
    presets: ClassVar = {preset.name: preset for preset in (CPU, H100, TINY)}

    def find_data(
        self, folder: Path | None, *, corpus: str, tokenizer: str, **options: Any
    ) -> FoundData:
        """Return the corpus and the tokenizer's, in a folder or where they usually are."""
        texts, learned = find_source(corpus, folder), find_source(tokenizer, folder)
        digest = texts.digest if corpus == tokenizer else f"{texts.digest}-{learned.digest}"
        return _Corpora(texts.name, digest, corpus=texts, tokenizer=learned)

    def load_data(
        self,
        found: FoundData,
        batch_size: int,
        *,
        corpus: str,
        tokenizer: str,
        vocabulary: int,
        epoch_steps: int | None = None,
        **options: Any,
    ) -> Data:
        """Return rows of tokens, and the token that follows each of them."""
        assert isinstance(found, _Corpora)
        texts, learned = found.corpus, found.tokenizer
        assert texts.folder is not None
        assert learned.folder is not None
        cut = train_tokenizer(learned.folder, learned.digest, vocabulary)
        parts = load_text(texts.folder, texts.digest, cut, **options)
        return loaders(
            parts,
            batch_size,
            eval_rows=_EVAL_ROWS,
            train_eval_rows=_TRAIN_EVAL_ROWS,
            epoch_steps=epoch_steps,
        )

    def build_model(self, *, dtype: str = "float32", **options: Any) -> nn.Module:
        """Return the network in a dtype; its weights are drawn in float32 whatever the dtype."""
        return SmallGPT(**options).to(getattr(torch, dtype))

    def loss(self, model: nn.Module, batch: Any, **options: Any) -> Tensor:
        """Return the mean cross-entropy of a batch, in nats per token, computed in float32."""
        return _cross_entropy(model, batch, "mean")

    def evaluate(self, model: nn.Module, loader: Loader) -> Mapping[str, float]:
        """Return the mean cross-entropy over all tokens."""
        total, tokens = 0.0, 0
        for batch in loader:
            total += _cross_entropy(model, batch, "sum").item()
            tokens += batch[1].numel()
        return {"loss": total / tokens}


def _cross_entropy(model: nn.Module, batch: Any, reduction: str) -> Tensor:
    x, y = batch
    scores = model(x).flatten(0, 1).float()
    return nn.functional.cross_entropy(scores, y.flatten(), reduction=reduction)
