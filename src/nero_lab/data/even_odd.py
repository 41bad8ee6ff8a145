"""Ten classes of images as two, even and odd, with a part of the training labels drawn at random.

The task of the works on balanced networks that the study of generalisation stands beside. Each
image is centred and scaled to the norm sqrt(pixels), so that all lie on one sphere and a balanced
neuron, which does not see the mean, loses nothing.
"""

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nero_lab.data.draw import draw_by_class
from nero_lab.data.images import read_images
from nero_lab.data.parts import Split


def load_even_odd(
    folder: Path, digest: str, *, train_size: int, label_noise: float = 0.0, seed: int = 0
) -> tuple[Split, Split]:
    """Return training and test part: inputs (n, pixels), and labels +1 (even) and -1 (odd).

    Args:
        folder: with idx files of ten classes.
        digest: what `digest_files` has to give for them.
        train_size: training images, with equally many of each class.
        label_noise: the fraction of training labels that are replaced by fair coins, so that half
            of them are wrong. The test labels stay as they are.
        seed: decides which images, and which labels are replaced by what.

    Raises:
        ValueError: the files are others than those that were found, or the noise is not a
            fraction.
    """
    if not 0 <= label_noise <= 1:
        raise ValueError(f"label_noise must be in [0, 1], got {label_noise}")
    images, classes, test_images, test_classes = _images(folder, digest)
    generator = np.random.default_rng(seed)
    (rows,) = draw_by_class(classes, range(10), [train_size // 10], generator)
    labels = _even_or_odd(classes[rows])
    replaced = generator.permutation(len(rows))[: round(label_noise * len(rows))]
    labels[replaced] = generator.choice([-1, 1], size=len(replaced))
    return (
        Split(_on_sphere(images[rows]), torch.from_numpy(labels)),
        Split(_on_sphere(test_images), torch.from_numpy(_even_or_odd(test_classes))),
    )


@functools.lru_cache(maxsize=1)
def _images(folder: Path, digest: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return read_images(folder, digest)


def _even_or_odd(classes: np.ndarray) -> np.ndarray:
    return 1 - 2 * (classes.astype(np.int64) % 2)


def _on_sphere(images: np.ndarray) -> Tensor:
    x = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=1, keepdim=True) * x.shape[1] ** 0.5
