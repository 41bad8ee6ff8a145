"""Texts as words, for word-level language models: WikiText-2, or any texts in a folder.

Files that come in three parts, one sentence or paragraph a line and words between blanks, are taken
as they are. Other texts are joined, cut into blocks of which every ninth and tenth go to validation
and test, and their words are runs of letters or of marks.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nero_lab.data.parts import check_digest, digest_files
from nero_lab.data.text import cut_blocks, read_text, text_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_IN_PARTS = (
    ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"),
    ("train.txt", "valid.txt", "test.txt"),
)
_WIKITEXT_2_WORDS = (2_088_628, 217_646, 245_569)
"""Words of its parts, the ends of lines among them, as its authors count them."""
_UNKNOWN, _END = "<unk>", "<eos>"
_MARKUP = re.compile(r"[_*#>`|\\]+")


class Words(NamedTuple):
    """Three parts of a text as numbers of words."""

    train: Tensor
    """(words,), int64"""
    val: Tensor
    test: Tensor
    vocabulary: int
    """how many different words there are"""


def word_files(folder: Path) -> list[Path] | None:
    """Return the texts in a folder: three parts where it has them, else all; None without any."""
    for names in _IN_PARTS:
        files = [folder / name for name in names]
        if all(file.is_file() for file in files):
            return files
    return text_files(folder) or None


def word_title(files: Sequence[Path]) -> str | None:
    """Return "WikiText-2" where the files are its own, by the number of words in each part."""
    if not _in_parts(files):
        return None
    counts = tuple(
        sum(len(line.split()) + 1 for line in read_text(path).splitlines()) for path in files
    )
    return "WikiText-2" if counts == _WIKITEXT_2_WORDS else None


@functools.lru_cache(maxsize=2)
def load_words(
    folder: Path,
    digest: str,
    *,
    vocabulary: int | None = None,
    min_count: int = 1,
    train_words: int | None = None,
    eval_words: int | None = None,
) -> Words:
    """Return the texts in a folder as numbers of words.

    Args:
        folder: where they are.
        digest: what `digest_files` has to give for them.
        vocabulary: the most words, "unknown" and "end of line" among them; None: no limit.
        min_count: a word that the training text has less often is unknown.
        train_words: the first so many words to learn from; None: all.
        eval_words: the first so many for validation, and for the test.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    files = word_files(folder) or []
    check_digest(f"the text in {folder}", digest_files(files), digest)
    if _in_parts(files):
        parts = [read_text(path).splitlines() for path in files]
        splitter: pre_tokenizers.PreTokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        parts = [list(_paragraphs(blocks)) for blocks in cut_blocks(files)]
        splitter = pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**31 if vocabulary is None else vocabulary,
        min_frequency=min_count,
        special_tokens=[_UNKNOWN, _END],
        show_progress=False,
    )
    # WikiText writes rare words as "<unk>": not to be counted as a word beside the unknown one.
    tokenizer.train_from_iterator((line.replace(_UNKNOWN, " ") for line in parts[0]), trainer)
    limits = (train_words, eval_words, eval_words)
    numbers = [
        _numbers(tokenizer, lines, limit) for lines, limit in zip(parts, limits, strict=True)
    ]
    return Words(*numbers, vocabulary=tokenizer.get_vocab_size())


def rows_of_streams(words: Tensor, streams: int, context: int) -> tuple[Tensor, Tensor]:
    """Return a text as rows of `context` words, and the word after each of them.

    The text is cut into `streams` pieces of equal length that are read side by side: rows 0 to
    streams - 1 begin them, and each later row goes on where the one `streams` before it ended. So
    batches of `streams` rows, in order, are the usual batches of a word-level language model.

    Args:
        words: (words,).
        streams: rows of a batch.
        context: words of a row.

    Returns:
        (rows, context) each.

    Examples:
        >>> x, y = rows_of_streams(torch.arange(10), streams=2, context=2)
        >>> x.tolist(), y.tolist()
        ([[0, 1], [5, 6], [2, 3], [7, 8]], [[1, 2], [6, 7], [3, 4], [8, 9]])
    """
    length = len(words) // streams
    windows = (length - 1) // context
    if windows < 1:
        raise ValueError(f"{len(words)} words are too few for {streams} streams of {context} words")
    pieces = words[: streams * length].view(streams, length)

    def rows(start: int) -> Tensor:
        cut = pieces[:, start : start + windows * context]
        return cut.reshape(streams, windows, context).transpose(0, 1).reshape(-1, context)

    return rows(0), rows(1)


def _in_parts(files: Sequence[Path]) -> bool:
    return tuple(path.name for path in files) in _IN_PARTS


def _paragraphs(blocks: Iterable[str]) -> Iterable[str]:
    for block in blocks:
        yield from _MARKUP.sub(" ", block).split("\n\n")


def _numbers(tokenizer: "Tokenizer", lines: Sequence[str], limit: int | None) -> Tensor:
    end = tokenizer.token_to_id(_END)
    numbers: list[int] = []
    for encoding in tokenizer.encode_batch(list(lines), add_special_tokens=False):
        numbers += [*encoding.ids, end]
        if limit is not None and len(numbers) >= limit:
            break
    return torch.tensor(numbers[:limit])
