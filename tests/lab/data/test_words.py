"""Words and pairs of sentences, as numbers."""

from pathlib import Path

import pytest
import torch

from lab.tiny_data import write_pairs, write_texts, write_wikitext
from nero_lab.data.pairs import PADDING, load_pairs, pair_files, pair_title
from nero_lab.data.parts import digest_files
from nero_lab.data.words import load_words, rows_of_streams, word_files, word_title


def digest_of(files: list[Path] | None) -> str:
    assert files is not None
    return digest_files(files)


def test_wikitext_keeps_its_words_and_ends_of_lines(tmp_path: Path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"wiki.{part}.tokens").write_text(" \n a <unk> b-c @,@ \n a \n")
    words = load_words(tmp_path, digest_of(word_files(tmp_path)))
    # <unk>, <eos>, then by frequency: a, and two words that stand once
    assert words.vocabulary == 5
    end, unknown, a = 1, 0, 2
    assert words.train[[0, 1, 2, 5, 6, 7]].tolist() == [end, a, unknown, end, a, end]
    assert len(words.train) == 8 == len(words.val) == len(words.test)
    assert len(set(words.train.tolist())) == 5


def test_rare_words_are_unknown_and_limits_hold(tmp_path: Path):
    write_wikitext(tmp_path)
    digest = digest_of(word_files(tmp_path))
    some = load_words(tmp_path, digest, vocabulary=20, train_words=100, eval_words=50)
    assert some.vocabulary == 20
    assert [len(part) for part in some[:3]] == [100, 50, 50]
    assert int(some.train.max()) < 20
    rare = load_words(tmp_path, digest, min_count=10_000)
    assert set(rare.train.tolist()) == {0, 1}


def test_other_texts_are_cut_into_words_and_marks(tmp_path: Path):
    write_texts(tmp_path, "freedom and equality, _always_")
    words = load_words(tmp_path, digest_of(word_files(tmp_path)))
    # unknown, end, freedom, and, equality, the comma, always; cut words at the ends of blocks
    assert 7 <= words.vocabulary < 80
    assert len(words.train) > 5 * len(words.val)
    common = torch.bincount(words.train).topk(5).values.sum()
    assert common > 0.98 * len(words.train)


def test_streams_go_on_in_the_next_batch():
    x, y = rows_of_streams(torch.arange(47), streams=3, context=4)
    assert x.shape == y.shape == (9, 4)
    assert torch.equal(y, x + 1)
    assert x[0, 0] == 0
    assert torch.equal(x[3:6], x[:3] + 4)
    with pytest.raises(ValueError, match="47 words are too few for 20 streams of 4 words"):
        rows_of_streams(torch.arange(47), streams=20, context=4)


def test_sets_are_recognised_by_their_sizes(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("nero_lab.data.words._WIKITEXT_2_WORDS", (665, 665, 665))
    monkeypatch.setattr("nero_lab.data.pairs._MULTI30K_PAIRS", (40, 40, 40))
    words = word_files(write_wikitext(tmp_path / "words"))
    pairs = pair_files(write_pairs(tmp_path / "pairs"))
    assert words is not None
    assert pairs is not None
    assert (word_title(words), pair_title(pairs)) == ("WikiText-2", "Multi30k")
    pairs[0].unlink()
    assert pair_files(tmp_path / "pairs") is None


def test_pairs_are_translations_under_one_vocabulary(tmp_path: Path):
    write_pairs(tmp_path)
    digest = digest_of(pair_files(tmp_path))
    pairs = load_pairs(tmp_path, digest, min_count=1, train_size=30, eval_size=10)
    assert [len(part.x) for part in pairs[:3]] == [30, 10, 10]
    # padding, unknown, begin, end, the full stop, and twenty words of each language
    assert pairs.vocabulary <= 45
    x, y = pairs.train
    lengths = (x != PADDING).sum(dim=1)
    assert torch.equal(lengths, (y != PADDING).sum(dim=1)), "word by word"
    assert set(x[:, 0].tolist()) == set(y[:, 0].tolist()) == {2}
    assert set(x[torch.arange(30), lengths - 1].tolist()) == {3}
    assert not set(x.flatten().tolist()) & set(y.flatten().tolist()) - {0, 1, 2, 3, 4}


def test_a_translation_of_another_length_is_refused(tmp_path: Path):
    write_pairs(tmp_path)
    (tmp_path / "val.en").write_text("one line\n")
    with pytest.raises(ValueError, match="has 40 lines and its translation 1"):
        load_pairs(tmp_path, digest_of(pair_files(tmp_path)))
