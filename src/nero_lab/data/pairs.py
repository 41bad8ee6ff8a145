"""Sentences in two languages from parallel text files, one sentence a line."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nero_lab.data.files import read_utf8
from nero_lab.data.parts import Split, check_digest, digest_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SOURCE, TARGET = "de", "en"
_PARTS = (("train",), ("val", "valid", "validation"), ("test_2016_flickr", "test2016", "test"))
_MULTI30K_PAIRS = (29_000, 1_014, 1_000)
_PADDING, _UNKNOWN, _BEGIN, _END = "<pad>", "<unk>", "<bos>", "<eos>"
PADDING = 0
"""The number of the word that fills rows up."""


class Pairs(NamedTuple):
    """Three parts of a parallel text; x is the source, y the target, (pairs, words) of int64.

    A row is begin, words, end, and padding. x and y of a part may differ in their length.
    """

    train: Split
    val: Split
    test: Split
    vocabulary: int
    """how many different words the two languages have together"""


def pair_files(folder: Path) -> list[Path] | None:
    """Return the six files in a folder, or None where one is missing.

    Source and target of training, validation, test: `train.de` and `train.en`, gzipped or not, and
    likewise `val`, `valid` or `validation`, and `test_2016_flickr`, `test2016` or `test`.
    """
    found = []
    for names in _PARTS:
        both = next(filter(None, (_both(folder, name) for name in names)), None)
        if both is None:
            return None
        found += both
    return found


def pair_title(files: Sequence[Path]) -> str | None:
    """Return "Multi30k" where the files are its own, by the number of pairs in each part."""
    counts = tuple(len(_lines(path)) for path in files[::2])
    return "Multi30k" if counts == _MULTI30K_PAIRS else None


@functools.lru_cache(maxsize=2)
def load_pairs(
    folder: Path,
    digest: str,
    *,
    vocabulary: int | None = None,
    min_count: int = 3,
    longest: int = 100,
    train_size: int | None = None,
    eval_size: int | None = None,
) -> Pairs:
    """Return the sentences as numbers of words, in lower case, under one vocabulary.

    Args:
        folder: where the files are.
        digest: what `digest_files` has to give for them.
        vocabulary: the most words of both languages together; None: no limit.
        min_count: a word that the training text has less often is unknown.
        longest: the most words of a sentence, begin and end among them; longer ones are cut.
        train_size: the first so many pairs to learn from; None: all.
        eval_size: the first so many for validation, and for the test.
    """
    files = pair_files(folder) or []
    check_digest(f"the text in {folder}", digest_files(files), digest)
    limits = (train_size, train_size, *[eval_size] * 4)
    texts = [_lines(path)[:limit] for path, limit in zip(files, limits, strict=True)]
    for source, target, path in zip(texts[::2], texts[1::2], files[::2], strict=True):
        if len(source) != len(target):
            raise ValueError(
                f"{path} has {len(source)} lines and its translation {len(target)}: they are to be "
                "each other's translation line by line"
            )
    tokenizer = _learn_words(texts[0] + texts[1], vocabulary, min_count)
    rows = [_rows(tokenizer, text, longest) for text in texts]
    parts = [Split(x, y) for x, y in zip(rows[::2], rows[1::2], strict=True)]
    return Pairs(*parts, vocabulary=tokenizer.get_vocab_size())


def trim(rows: Tensor) -> Tensor:
    """Return rows without the columns at their end that hold nothing but padding.

    Examples:
        >>> trim(torch.tensor([[2, 5, 3, 0], [2, 3, 0, 0]])).tolist()
        [[2, 5, 3], [2, 3, 0]]
    """
    return rows[:, : int((rows != PADDING).sum(dim=1).max())]


def _learn_words(lines: list[str], vocabulary: int | None, min_count: int) -> "Tokenizer":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(
        vocab_size=2**31 if vocabulary is None else vocabulary,
        min_frequency=min_count,
        special_tokens=[_PADDING, _UNKNOWN, _BEGIN, _END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    assert tokenizer.token_to_id(_PADDING) == PADDING
    return tokenizer


def _rows(tokenizer: "Tokenizer", lines: list[str], longest: int) -> Tensor:
    begin, end = tokenizer.token_to_id(_BEGIN), tokenizer.token_to_id(_END)
    encodings = tokenizer.encode_batch(lines, add_special_tokens=False)
    rows = [torch.tensor([begin, *each.ids[: longest - 2], end]) for each in encodings]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING)


def _both(folder: Path, name: str) -> list[Path] | None:
    files = []
    for language in (SOURCE, TARGET):
        candidates = (folder / f"{name}.{language}", folder / f"{name}.{language}.gz")
        files += [path for path in candidates if path.is_file()][:1]
    return files if len(files) == 2 else None


def _lines(path: Path) -> list[str]:
    # Not splitlines, which also splits at characters that may stand inside a sentence.
    return read_utf8(path).rstrip("\n").split("\n")
