"""Images in memory, from idx files or CIFAR batches: parts, scaling, padding, and crops."""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nero_lab.data.cifar import cifar_files, read_batches
from nero_lab.data.draw import draw_rows
from nero_lab.data.idx import idx_files, read_idx
from nero_lab.data.parts import Parts, Split, check_digest, digest_files

CROP_PADDING = 4
"""Pixels on each side by which `crop_and_flip` may shift an image, as is usual for CIFAR-10."""


def read_images(folder: Path, digest: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images (n, channels, height, width) of uint8, their classes, and the test's.

    Args:
        folder: with idx files or CIFAR batches.
        digest: what `digest_files` has to give for them.

    Raises:
        ValueError: there are no such files, others than those that were found, or damaged ones.
    """
    if files := idx_files(folder):
        images, labels, test_images, test_labels = map(read_idx, files)
        images, test_images = images[:, None], test_images[:, None]
    elif files := cifar_files(folder):
        images, labels = read_batches(files[:-1])
        test_images, test_labels = read_batches(files[-1:])
    else:
        raise ValueError(f"there are neither idx files nor CIFAR batches in {folder}")
    check_digest(f"the data in {folder}", digest_files(files), digest)
    for part, x, y in (("training", images, labels), ("test", test_images, test_labels)):
        if x.ndim != 4 or y.shape != (len(x),):
            raise ValueError(
                f"{folder} has {part} images of shape {x.shape} and labels of shape {y.shape}: "
                "there is to be one label for each image"
            )
    return images, labels, test_images, test_labels


@functools.lru_cache(maxsize=2)
def load_images(
    folder: Path,
    digest: str,
    *,
    train_size: int | None = None,
    val_size: int = 0,
    test_size: int | None = None,
    classes: tuple[int, ...] | None = None,
    channels: int = 1,
    pixels: int = 28,
    split_seed: int = 0,
) -> Parts:
    """Return images (n, channels, pixels, pixels), scaled, and classes.

    Each channel is shifted and scaled by its mean and standard deviation over the training images.
    Images that are smaller than asked get a border of black before that, and one channel is
    repeated where three are asked.

    Args:
        folder: where the files are.
        digest: what `digest_files` has to give for them.
        train_size: training images, with equally many of each class; None: all but the others.
        val_size: images for validation, taken from the training files, likewise.
        test_size: the first so many test images; None: all.
        classes: which to keep, counted from 0 in this order; None: all.
        channels: of the images returned.
        pixels: their height and width.
        split_seed: decides which images go where; no part of a run's own seed.
    """
    images, labels, test_images, test_labels = read_images(folder, digest)
    kept = tuple(map(int, np.unique(labels))) if classes is None else classes
    train, val = draw_rows(labels, train_size, val_size, split_seed, kept)
    test = np.flatnonzero(np.isin(test_labels, kept))[:test_size]
    mean = images[train].mean(axis=(0, 2, 3))
    std = images[train].std(axis=(0, 2, 3))

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        missing = pixels - images.shape[2]
        if missing < 0 or channels % images.shape[1]:
            raise ValueError(
                f"images of {images.shape[1:]} cannot be made {channels} x {pixels} x {pixels}"
            )
        border = (missing // 2, missing - missing // 2)
        images = np.pad(images, ((0, 0), (0, 0), border, border))
        x = torch.from_numpy(images.astype(np.float32))
        x = x.sub_(_column(mean)).div_(_column(std))
        x = x.repeat(1, channels // images.shape[1], 1, 1)
        return Split(x, torch.from_numpy(_renumbered(labels, kept)))

    return Parts(
        split(images[train], labels[train]),
        split(images[val], labels[val]),
        split(test_images[test], test_labels[test]),
    )


def _renumbered(labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    number = np.zeros(256, dtype=np.int64)
    number[list(classes)] = range(len(classes))
    return number[labels]


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1)


def crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return each image shifted by up to CROP_PADDING pixels, and every other one mirrored.

    As a random crop of the padded image: what moves in is zero, the mean of the training images.

    Args:
        images: (batch, channels, height, width).
        generator: draws shifts and flips, on the CPU.

    Examples:
        >>> images = torch.ones(2, 1, 8, 8)
        >>> crop_and_flip(images, torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 8, 8])
    """
    batch, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (CROP_PADDING,) * 4)
    top, left = torch.randint(2 * CROP_PADDING + 1, (2, batch, 1), generator=generator)
    flipped = torch.rand(batch, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = left + torch.where(flipped, torch.arange(width).flip(0), torch.arange(width))
    which = torch.arange(batch)[:, None, None]
    # Indexing with slices between puts the channels last: (batch, height, width, channels).
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
