"""Fashion-MNIST from a local folder: 70,000 grey images of 28 x 28 pixels in ten classes.

H. Xiao, K. Rasul, R. Vollgraf, 2017 (MIT licence); Debian has it as `dataset-fashion-mnist`.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nero_lab.data.draw import draw_by_class
from nero_lab.data.idx import read_idx
from nero_lab.data.parts import MissingData, Parts, Split, check_digest, digest_files

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts it."""

_FILES = tuple(
    f"{part}-{kind}-ubyte.gz"
    for part in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)


def fashion_mnist_files(folder: Path) -> list[Path]:
    """Return the four files of the data set.

    Raises:
        MissingData: some of them are not in the folder.
    """
    files = [folder / name for name in _FILES]
    if missing := [path.name for path in files if not path.is_file()]:
        raise MissingData(
            f"no Fashion-MNIST in {folder}: {', '.join(missing)} missing.\n"
            "Get it with: apt-get install dataset-fashion-mnist; or name a folder that has these "
            "files: --data-fashion-mnist DIR"
        )
    return files


def fashion_mnist_digest(folder: Path) -> str:
    """Return what identifies the files in `folder`."""
    return digest_files(fashion_mnist_files(folder))


@functools.lru_cache(maxsize=2)
def load_fashion_mnist(
    folder: Path,
    digest: str,
    classes: tuple[int, ...] = tuple(range(10)),
    train_size: int = 20_000,
    val_size: int = 5_000,
    split_seed: int = 0,
) -> Parts:
    """Return images (n, 1, 28, 28) and classes; training and validation from the training files.

    Both have equally many images of each class, drawn by `split_seed`; the test part is all test
    images of the classes. Pixels are shifted and scaled by the mean and standard deviation of the
    training images. Classes count from 0 in the order of `classes`.

    Args:
        folder: where the files are.
        digest: what `fashion_mnist_digest` has to give for them.
        classes: which of the ten to keep.
        train_size: number of training images, rounded down to equal classes.
        val_size: number of validation images, likewise.
        split_seed: decides which images go where.
    """
    check_digest(f"Fashion-MNIST in {folder}", fashion_mnist_digest(folder), digest)
    images, labels, test_images, test_labels = map(read_idx, fashion_mnist_files(folder))
    generator = np.random.default_rng(split_seed)
    train, val = draw_by_class(
        labels, classes, [train_size // len(classes), val_size // len(classes)], generator
    )
    test = np.flatnonzero(np.isin(test_labels, classes))
    mean, std = images[train].mean(), images[train].std()

    def split(images: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> Split:
        x = torch.from_numpy(images[rows].astype(np.float32)).sub_(float(mean)).div_(float(std))
        return Split(x.unsqueeze(1), _renumber(labels[rows], classes))

    return Parts(
        split(images, labels, train),
        split(images, labels, val),
        split(test_images, test_labels, test),
    )


def _renumber(labels: np.ndarray, classes: Sequence[int]) -> Tensor:
    number = np.zeros(256, dtype=np.int64)
    number[list(classes)] = range(len(classes))
    return torch.from_numpy(number[labels])
