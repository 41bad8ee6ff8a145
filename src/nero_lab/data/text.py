"""Texts in a folder as tokens, for language models.

All texts are joined in the order of their paths and cut into blocks; of every ten blocks one goes
to validation and one to the test. The tokens are byte-level pairs (BPE) learned on training text.
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from nero_lab.data.files import read_file
from nero_lab.data.parts import Parts, Split, check_digest, digest_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ANARCHISM = Path("/usr/share/doc/anarchism/markdown")
"""An Anarchist FAQ, from Debian's package `anarchism`."""
DEBIAN_REFERENCE = Path("/usr/share/debian-reference")
"""The Debian Reference, from Debian's package `debian-reference-en`."""

TEXT_SUFFIXES = (".md", ".txt", ".md.gz", ".txt.gz")
"""Of the files that count as texts."""
_BLOCKS = 200
_TOKENIZER_CHARACTERS = 2_000_000


def load_text(
    folder: Path,
    digest: str,
    tokenizer: "Tokenizer",
    *,
    train_tokens: int,
    eval_tokens: int,
    context: int,
) -> Parts:
    """Return rows of `context` tokens, and as targets the token that follows each of them.

    Args:
        folder: where the texts are.
        digest: what `digest_files` has to give for them.
        tokenizer: what `train_tokenizer` returned.
        train_tokens: at most so many tokens to learn from, from blocks all over the text.
        eval_tokens: at most so many for validation, and as many for the test.
        context: tokens of a row.
    """
    train, val, test = _blocks(folder, digest)
    limits = (train_tokens, eval_tokens, eval_tokens)
    return Parts(
        *(
            _rows(blocks, tokenizer, limit, context)
            for blocks, limit in zip((train, val, test), limits, strict=True)
        )
    )


@functools.lru_cache(maxsize=2)
def train_tokenizer(folder: Path, digest: str, vocabulary: int) -> "Tokenizer":
    """Return a byte-level BPE tokenizer learned on the training part of the texts in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    train, _, _ = _blocks(folder, digest)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    share = _TOKENIZER_CHARACTERS // len(train) + 1
    tokenizer.train_from_iterator([block[:share] for block in train], trainer)
    return tokenizer


@functools.lru_cache(maxsize=2)
def _blocks(folder: Path, digest: str) -> tuple[list[str], list[str], list[str]]:
    """Return the blocks of training, validation and test."""
    files = text_files(folder)
    check_digest(f"the text in {folder}", digest_files(files), digest)
    return cut_blocks(files)


def text_files(folder: Path) -> list[Path]:
    """Return the texts in a folder, sorted, not those in folders inside it."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.name.endswith(TEXT_SUFFIXES) and path.is_file()]


def cut_blocks(files: Sequence[Path]) -> tuple[list[str], list[str], list[str]]:
    """Return the joined texts cut into blocks: those of training, validation and test."""
    text = "\n\n".join(read_text(path) for path in files)
    if not text.strip():
        raise ValueError(f"there is no text in {', '.join(map(str, files))}")
    size = -(-len(text) // _BLOCKS)
    blocks = [text[start : start + size] for start in range(0, len(text), size)]
    train = [block for index, block in enumerate(blocks) if index % 10 < 8]
    return train, blocks[8::10], blocks[9::10]


def read_text(path: Path) -> str:
    """Return the text of a file, gzipped or not."""
    return read_file(path).decode("utf-8", errors="replace")


def _rows(blocks: list[str], tokenizer: "Tokenizer", limit: int, context: int) -> Split:
    """Return rows from the beginning of every block, equally many from each, up to the limit."""
    rows = []
    for block, rows_wanted in zip(blocks, _shares(limit // context, len(blocks)), strict=True):
        # A token has about three characters; where more are needed, there are a few rows less.
        ids = tokenizer.encode(block[: 6 * (rows_wanted + 1) * context]).ids
        starts = itertools.islice(range(0, len(ids) - context, context), rows_wanted)
        rows += [ids[start : start + context + 1] for start in starts]
    if not rows:
        raise ValueError(f"the text is too short for one row of {context} tokens")
    tokens = torch.tensor(rows)
    return Split(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (part < total % parts) for part in range(parts)]
