from pathlib import Path

import pytest
import torch

from lab.tiny_data import write_texts
from nero_lab.data.parts import digest_files
from nero_lab.data.text import load_text, train_tokenizer
from nero_lab.data.words import word_files

WORDS = "every neuron turns by one angle and the others follow it slowly"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts"), WORDS)


def _digest(folder: Path) -> str:
    files = word_files(folder)
    assert files is not None
    return digest_files(files)


def _load(folder: Path):
    digest = _digest(folder)
    tokenizer = train_tokenizer(folder, digest, 300)
    sizes = {"train_tokens": 4096, "eval_tokens": 512, "context": 16}
    return load_text(folder, digest, tokenizer, **sizes), tokenizer


def test_targets_are_the_tokens_that_follow(folder: Path):
    parts, tokenizer = _load(folder)
    for part, rows in zip(parts, (4096 // 16, 512 // 16, 512 // 16), strict=True):
        assert tuple(part.x.shape) == tuple(part.y.shape) == (rows, 16)
        assert torch.equal(part.x[:, 1:], part.y[:, :-1])
    words = tokenizer.decode(parts.train.x[0].tolist()).split()
    assert set(words[1:-1]) <= set(WORDS.split())


def test_no_row_is_in_two_parts(folder: Path):
    parts, _ = _load(folder)
    train, val, test = ({tuple(row) for row in part.x.tolist()} for part in parts)
    assert not train & val
    assert not train & test
    assert not val & test


def test_tokenizer_is_the_same_each_time(folder: Path):
    digest = _digest(folder)
    first = train_tokenizer(folder, digest, 300)
    train_tokenizer.cache_clear()
    again = train_tokenizer(folder, digest, 300)
    assert first is not again
    assert first.to_str() == again.to_str()
    assert first.get_vocab_size() <= 300


def test_bytes_outside_the_training_text_have_tokens(folder: Path):
    _, tokenizer = _load(folder)
    assert tokenizer.decode(tokenizer.encode("Ω 42\n").ids) == "Ω 42\n"


def test_texts_that_changed_are_refused(tmp_path: Path):
    digest = _digest(write_texts(tmp_path, WORDS, 3000))
    (tmp_path / "b.txt").write_text("another text")
    with pytest.raises(ValueError, match="changed"):
        train_tokenizer(tmp_path, digest, 300)
