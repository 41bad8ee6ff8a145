import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.tiny_data import write_fashion_mnist, write_idx
from nero_lab.data.fashion_mnist import fashion_mnist_digest, load_fashion_mnist
from nero_lab.data.idx import read_idx
from nero_lab.data.parts import MissingData


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_fashion_mnist(tmp_path_factory.mktemp("fashion"))


def test_idx_round_trip(tmp_path: Path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", values)
    assert np.array_equal(read_idx(tmp_path / "x.gz"), values)


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\0"))
    with pytest.raises(ValueError, match="no idx file of bytes"):
        read_idx(tmp_path / "x.gz")


def test_parts_are_disjoint_scaled_and_have_equal_classes(folder: Path):
    digest = fashion_mnist_digest(folder)
    parts = load_fashion_mnist(folder, digest, train_size=600, val_size=200)
    assert [tuple(part.x.shape) for part in parts] == [(n, 1, 28, 28) for n in (600, 200, 100)]
    for part, each in zip(parts, (60, 20, 10), strict=True):
        assert torch.bincount(part.y).tolist() == [each] * 10
    train, val = ({tuple(image.flatten().tolist()) for image in part.x} for part in parts[:2])
    assert not train & val
    assert abs(parts.train.x.mean()) < 1e-5
    assert abs(parts.train.x.std() - 1) < 1e-3


def test_some_classes_count_from_zero_and_keep_their_images(folder: Path):
    parts = load_fashion_mnist(
        folder, fashion_mnist_digest(folder), classes=(7, 5), train_size=20, val_size=20
    )
    assert sorted(parts.train.y.unique().tolist()) == [0, 1]
    bright = parts.test.x.squeeze(1).mean(dim=2).argmax(dim=1)
    assert torch.equal(bright, torch.where(parts.test.y == 0, 2 * 7 + 4, 2 * 5 + 4))


def test_too_many_images_are_refused(folder: Path):
    with pytest.raises(ValueError, match="class 0 has 150 images, and 160 are asked"):
        load_fashion_mnist(folder, fashion_mnist_digest(folder), train_size=1200, val_size=400)


def test_missing_files_are_named_with_the_package(tmp_path: Path):
    with pytest.raises(MissingData, match="apt-get install dataset-fashion-mnist") as caught:
        fashion_mnist_digest(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_files_that_changed_are_refused(folder: Path):
    with pytest.raises(ValueError, match="changed"):
        load_fashion_mnist(folder, "0123456789abcdef")
