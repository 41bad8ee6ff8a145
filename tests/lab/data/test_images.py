"""Images from CIFAR batches, idx files and folders: parts, scaling and crops."""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.tiny_data import write_cifar, write_fashion_mnist, write_idx, write_image_folder
from nero_lab.data.cifar import cifar_files, read_batches
from nero_lab.data.idx import idx_files, read_idx
from nero_lab.data.image_folder import FolderLoader
from nero_lab.data.images import crop_and_flip, load_images
from nero_lab.data.parts import digest_files


def test_cifar_batches_are_read_split_and_scaled(tmp_path: Path):
    files = cifar_files(write_cifar(tmp_path))
    assert files is not None
    parts = load_images(
        tmp_path, digest_files(files), train_size=100, val_size=50, channels=3, pixels=32
    )
    assert [tuple(part.x.shape) for part in parts] == [(n, 3, 32, 32) for n in (100, 50, 40)]
    assert torch.bincount(parts.train.y).tolist() == [10] * 10
    assert parts.train.x.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (parts.train.x.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-3
    bright = parts.test.x.mean(dim=(1, 3)).argmax(dim=1)
    assert torch.equal(bright, 3 * parts.test.y)
    whole = load_images(tmp_path, digest_files(files), val_size=50, channels=3, pixels=32)
    assert len(whole.train.y) == 150


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path):
    class Harm:
        def __reduce__(self):
            return (print, ("harm",))

    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": Harm(), "labels": []}, protocol=2))
    with pytest.raises(ValueError, match="it asks for"):
        read_batches([tmp_path / "test_batch"])


def test_grey_images_get_a_border_and_three_equal_channels(tmp_path: Path):
    files = idx_files(write_fashion_mnist(tmp_path))
    assert files is not None
    small = load_images(tmp_path, digest_files(files), train_size=100)
    large = load_images(tmp_path, digest_files(files), train_size=100, channels=3, pixels=32)
    assert large.test.x.shape[1:] == (3, 32, 32)
    assert torch.equal(large.test.x[:, 2, 2:30, 2:30], small.test.x[:, 0])
    black = large.test.x[:, :, :2]
    assert torch.equal(black, black.min().expand_as(black))
    with pytest.raises(ValueError, match="cannot be made 1 x 20 x 20"):
        load_images(tmp_path, digest_files(files), pixels=20)


def test_a_crop_is_a_shift_and_perhaps_a_mirror_image():
    image = torch.arange(1.0, 65).view(1, 1, 8, 8)
    cropped = crop_and_flip(image.expand(400, -1, -1, -1), torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(image[0, 0], (4, 4, 4, 4))
    windows = padded.unfold(0, 8, 1).unfold(1, 8, 1).reshape(81, 8, 8)
    either = torch.stack([windows, windows.flip(2)])
    match = (cropped[:, 0, None, None] == either).flatten(3).all(dim=3)
    assert match.any(dim=(1, 2)).all()
    assert match.any(dim=0).float().mean() > 0.8, "nearly all shifts and mirror images occur"


def test_crops_from_a_folder_depend_on_seed_and_epoch_alone(tmp_path: Path):
    loader = FolderLoader(write_image_folder(tmp_path) / "train", 8, pixels=16)
    epoch = list(loader.batches(1, seed=0))
    assert [len(y) for _, y in epoch] == [8, 8, 4]
    assert sorted(torch.cat([y for _, y in epoch]).tolist()) == sorted(loader.labels)
    torch.rand(3)
    resumed = list(loader.batches(1, seed=0, first=2))
    assert len(resumed) == 1
    assert torch.equal(resumed[0][0], epoch[2][0])
    assert not torch.equal(next(loader.batches(2, seed=0))[0], epoch[0][0])
    shares = [next(loader.batches(1, seed=0, rank=rank, world=2))[0] for rank in range(2)]
    assert torch.equal(shares[0], epoch[0][0][::2])
    assert torch.equal(shares[1], epoch[0][0][1::2])
    assert torch.equal(next(iter(loader))[0], next(iter(loader))[0])


def test_some_classes_count_from_zero_and_keep_their_images(tmp_path: Path):
    files = idx_files(write_fashion_mnist(tmp_path))
    assert files is not None
    sizes = {"train_size": 20, "val_size": 20}
    parts = load_images(tmp_path, digest_files(files), classes=(7, 5), **sizes)
    assert [torch.bincount(part.y).tolist() for part in parts] == [[10, 10]] * 3
    bright = parts.test.x.squeeze(1).mean(dim=2).argmax(dim=1)
    assert torch.equal(bright, torch.where(parts.test.y == 0, 2 * 7 + 4, 2 * 5 + 4))
    train, val = ({tuple(image.flatten().tolist()) for image in part.x} for part in parts[:2])
    assert not train & val


def test_too_many_images_are_refused(tmp_path: Path):
    files = idx_files(write_fashion_mnist(tmp_path))
    assert files is not None
    with pytest.raises(ValueError, match="class 0 has 150 images, and 160 are asked"):
        load_images(tmp_path, digest_files(files), train_size=1200, val_size=400)


def test_an_idx_file_is_read_and_one_of_another_kind_is_refused(tmp_path: Path):
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_idx(tmp_path / "x.gz", values)
    assert np.array_equal(read_idx(tmp_path / "x.gz"), values)
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\0"))
    with pytest.raises(ValueError, match="no idx file of bytes"):
        read_idx(tmp_path / "x.gz")
