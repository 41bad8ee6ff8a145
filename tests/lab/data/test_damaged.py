"""Data files that are cut short, damaged or do not fit each other: named, in one line."""

import gzip
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lab.tiny_data import (
    write_cifar,
    write_fashion_mnist,
    write_idx,
    write_image_folder,
    write_pairs,
    write_texts,
)
from nero_lab.cli.app import app
from nero_lab.data.cifar import read_batches
from nero_lab.data.idx import read_idx
from nero_lab.data.image_folder import FolderLoader
from nero_lab.data.images import read_images
from nero_lab.data.pairs import load_pairs, pair_files
from nero_lab.data.parts import digest_files
from nero_lab.data.text import cut_blocks
from nero_lab.data.words import word_files

TRAIN_LABELS = "train-labels-idx1-ubyte.gz"


def shorten(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def shorten_contents(file: Path) -> None:
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-20]))


def only_header(file: Path) -> None:
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:5]))


def flip(file: Path) -> None:
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 0xFF
    file.write_bytes(contents)


def no_gzip(file: Path) -> None:
    file.write_bytes(b"not compressed")


@pytest.mark.parametrize("damage", [shorten, shorten_contents, only_header, flip, no_gzip])
@pytest.mark.parametrize("name", [TRAIN_LABELS, "t10k-images-idx3-ubyte.gz"])
def test_a_damaged_idx_file_is_one_line(tmp_path: Path, damage: Callable, name: str):
    folder = write_fashion_mnist(tmp_path / "data")
    damage(folder / name)
    with pytest.raises(ValueError, match=rf"{name} is (cut short or damaged|no idx file)"):
        read_idx(folder / name)
    command = ["train", "cifar", "--preset", "tiny", "--data", str(folder), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert name in done.output
    assert "Aborted" not in done.output
    assert done.output.splitlines()[-1].startswith("error: ")
    listed = CliRunner().invoke(app, ["data", "--data", str(folder)])
    assert listed.exit_code == 0, listed.output


@pytest.mark.parametrize("part", ["train", "t10k"])
def test_as_many_labels_as_images_are_asked_for(tmp_path: Path, part: str):
    folder = write_fashion_mnist(tmp_path)
    write_idx(folder / f"{part}-labels-idx1-ubyte.gz", np.zeros(90, dtype=np.uint8))
    files = [
        folder / f"{each}-{kind}-ubyte.gz"
        for each in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ]
    with pytest.raises(ValueError, match="one label for each image"):
        read_images(folder, digest_files(files))


def test_a_damaged_cifar_batch_is_named(tmp_path: Path):
    contents = (write_cifar(tmp_path) / "test_batch").read_bytes()
    batch = pickle.loads(contents)
    broken = [contents[: len(contents) // 2], b"", b"\x80\x02.", pickle.dumps([1, 2])]
    broken += [
        pickle.dumps(batch | changes, protocol=2)
        for changes in ({"labels": [1]}, {"labels": [999]}, {"data": np.zeros((2, 5))})
    ]
    for each in broken:
        (tmp_path / "test_batch").write_bytes(each)
        with pytest.raises(ValueError, match=f"^{tmp_path / 'test_batch'} "):
            read_batches([tmp_path / "test_batch"])


@pytest.mark.parametrize(("contents", "missing"), [(b"\xff\xfe", 0), (b"some lines", 4)])
def test_damaged_sentences_are_named(tmp_path: Path, contents: bytes, missing: int):
    folder = write_pairs(tmp_path)
    packed = gzip.compress(contents)
    (folder / "train.de.gz").write_bytes(packed[: len(packed) - missing])
    files = pair_files(folder)
    assert files is not None
    with pytest.raises(ValueError, match=r"train\.de\.gz is (no text|cut short)"):
        load_pairs(folder, digest_files(files))


def test_what_is_no_file_is_no_text(tmp_path: Path):
    folder = write_texts(tmp_path, "some words")
    found = word_files(folder)
    (folder / "folder.md").mkdir()
    os.mkfifo(folder / "pipe.txt")
    (folder / "link.txt").symlink_to(folder / "nowhere")
    assert word_files(folder) == found


def test_texts_without_a_word_are_named(tmp_path: Path):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"there is no text in .*a\.txt"):
        cut_blocks([tmp_path / "a.txt"])


@pytest.mark.parametrize("size", [0, 60, 700])
def test_an_image_that_is_none_is_named(tmp_path: Path, size: int):
    folder = write_image_folder(tmp_path) / "train"
    image = folder / "class0" / "0.png"
    image.write_bytes(image.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"class0/0\.png is no image"):
        next(iter(FolderLoader(folder, 8, pixels=16)))
