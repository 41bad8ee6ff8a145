"""Where data sets are looked for, what they go by, and what is said when there are none."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lab.tiny_data import (
    write_cifar,
    write_fashion_mnist,
    write_idx,
    write_image_folder,
    write_pairs,
    write_texts,
    write_wikitext,
)
from nero_lab.data import fetch, sources
from nero_lab.data.parts import MissingData
from nero_lab.data.sources import SOURCES, find_source

MNIST_LABELS = [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5]
FASHION_LABELS = [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9]


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NERO_DATA", str(tmp_path / "cache"))
    bare = {
        name: sources.Source(**{**vars(source), "installed": None})
        for name, source in SOURCES.items()
    }
    monkeypatch.setattr(sources, "SOURCES", bare)


def write_labels(folder: Path, labels: list[int]) -> Path:
    write_fashion_mnist(folder, train=len(labels), test=10)
    write_idx(folder / "train-labels-idx1-ubyte.gz", np.array(labels, dtype=np.uint8))
    return folder


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_missing_is_reported_in_two_lines(name: str, tmp_path: Path):
    with pytest.raises(MissingData) as caught:
        find_source(name)
    first, second = str(caught.value).splitlines()
    assert SOURCES[name].title in first
    assert str(tmp_path / "cache" / name) in first
    assert SOURCES[name].get in second
    assert "--data DIR" in second
    if stand_in := SOURCES[name].stand_in:
        assert SOURCES[stand_in].get in second


@pytest.mark.parametrize(
    ("labels", "name", "stand_in_for"),
    [(MNIST_LABELS, "MNIST", None), (FASHION_LABELS, "Fashion-MNIST", "MNIST")],
)
def test_images_in_the_same_format_are_distinguished(tmp_path: Path, labels, name, stand_in_for):
    found = find_source("mnist", write_labels(tmp_path / "some", labels))
    assert (found.name, found.stand_in_for) == (name, stand_in_for)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("mnist", write_fashion_mnist),
        ("cifar-10", write_cifar),
        ("imagenet", write_image_folder),
        ("wikitext-2", write_wikitext),
        ("multi30k", write_pairs),
    ],
)
def test_data_in_the_right_format_go_by_their_own_name(tmp_path: Path, name: str, write):
    found = find_source(name, write(tmp_path / "mine"))
    assert (found.name, found.stand_in_for) == ("data of mine", SOURCES[name].title)
    again = find_source(name, tmp_path / "mine")
    assert again == found
    other = next(path for path in sorted((tmp_path / "mine").rglob("*")) if path.is_file())
    if name == "mnist":
        write_fashion_mnist(tmp_path / "mine", train=20)
    else:
        other.write_bytes(other.read_bytes() + b"\n")
    assert find_source(name, tmp_path / "mine").digest != found.digest


def test_the_order_of_places(tmp_path: Path):
    cache = tmp_path / "cache"
    write_labels(cache / "fashion-mnist" / "FashionMNIST" / "raw", FASHION_LABELS)
    assert find_source("mnist").name == "Fashion-MNIST"
    assert find_source("cifar-10").stand_in_for == "CIFAR-10"
    write_labels(cache / "mnist" / "MNIST" / "raw", MNIST_LABELS)
    assert find_source("mnist").name == "MNIST"
    named = write_labels(tmp_path / "named" / "mnist", FASHION_LABELS)
    assert find_source("mnist", tmp_path / "named").folder == named
    with pytest.raises(MissingData, match=r"no MNIST in .*empty"):
        find_source("mnist", tmp_path / "empty")


def test_texts_of_a_stand_in_count_as_texts(tmp_path: Path):
    write_texts(tmp_path / "cache" / "anarchism", "no gods no masters")
    found = find_source("wikitext-2")
    assert (found.name, found.stand_in_for) == ("An Anarchist FAQ", "WikiText-2")


WORDS = {"text": ["", " = Title = \n", " some words <unk> . \n"]}
PAIRS = {"de": ["Ein Hund .", "Zwei\nHunde"], "en": ["A dog .", "Two dogs"]}


class _Hub:
    """What Hugging Face datasets returns, made up."""

    def load_dataset(self, path: str, name: str | None = None) -> dict:
        return dict.fromkeys(
            ("train", "validation", "test"), WORDS if "wikitext" in path else PAIRS
        )


@pytest.mark.parametrize("name", ["wikitext-2", "multi30k"])
def test_what_is_fetched_from_the_hub_is_found(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setitem(sys.modules, "datasets", _Hub())
    fetch.fetch(name, tmp_path / "cache" / name)
    found = find_source(name)
    assert found.folder == tmp_path / "cache" / name
    assert found.folder is not None
    files = SOURCES[name].files(found.folder)
    assert files is not None
    lines = {len(file.read_text().splitlines()) for file in files}
    assert lines == {3 if name == "wikitext-2" else 2}


def test_torchvision_fetches_to_where_it_is_found(tmp_path: Path, monkeypatch):
    import torchvision.datasets

    def download(root: Path, download: bool) -> None:
        assert download
        write_labels(Path(root) / "MNIST" / "raw", MNIST_LABELS)

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    fetch.fetch("mnist", tmp_path / "cache" / "mnist")
    assert find_source("mnist").name == "MNIST"


def test_what_cannot_be_fetched_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'imagenet' cannot be fetched"):
        fetch.fetch("imagenet", tmp_path)
