"""A small language model on the texts of a folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nero_lab.data.parts import Parts
from nero_lab.data.text import load_text, train_tokenizer
from nero_lab.models.gpt import SmallGPT


class SmallLM:
    """Predict the next token with a SmallGPT under cross-entropy; see nero_lab.tasks.Task."""

    def data(
        self,
        *,
        folders: dict[str, str],
        corpus: str,
        digests: dict[str, str],
        tokenizer: str,
        vocabulary: int,
        **options: Any,
    ) -> Parts:
        """Return the tokens of one corpus, cut by a tokenizer that was learned on another or it.

        Args:
            folders: where each corpus is.
            corpus: which to return.
            digests: of each corpus that is used.
            tokenizer: the corpus on which the tokenizer is learned.
            vocabulary: number of its tokens.
            **options: train_tokens, eval_tokens, context.
        """
        learned = train_tokenizer(Path(folders[tokenizer]), digests[tokenizer], vocabulary)
        return load_text(Path(folders[corpus]), digests[corpus], learned, **options)

    def model(self, *, dtype: str = "float32", **options: Any) -> nn.Module:
        """Return the network in a dtype; options: vocabulary, context, depth, width, heads, tied.

        Its initial weights are drawn in float32 whatever the dtype.
        """
        return SmallGPT(**options).to(getattr(torch, dtype))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of outputs (rows, tokens, vocabulary), in nats."""
        return nn.functional.cross_entropy(outputs.flatten(0, 1).float(), targets.flatten())

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy, in nats, summed over the tokens."""
        return nn.functional.cross_entropy(
            outputs.flatten(0, 1).float(), targets.flatten(), reduction="sum"
        )
