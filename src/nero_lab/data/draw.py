"""Which rows of a data set go into training and which into validation."""

from collections.abc import Sequence

import numpy as np


def draw_by_class(
    labels: np.ndarray,
    classes: Sequence[int],
    counts: Sequence[int],
    generator: np.random.Generator,
) -> list[np.ndarray]:
    """Return disjoint rows, for each of `counts` that many of every class, sorted.

    Raises:
        ValueError: a class has fewer rows than all counts together.
    """
    drawn: list[list[np.ndarray]] = [[] for _ in counts]
    for label in classes:
        rows = generator.permutation(np.flatnonzero(labels == label))
        if len(rows) < sum(counts):
            raise ValueError(f"class {label} has {len(rows)} images, and {sum(counts)} are asked")
        for part, some in zip(drawn, np.split(rows, np.cumsum(counts)), strict=False):
            part.append(some)
    return [np.sort(np.concatenate(part)) for part in drawn]


def draw_rows(
    labels: np.ndarray,
    train_size: int | None,
    val_size: int,
    seed: int,
    classes: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of training and of validation.

    Args:
        labels: of all rows.
        train_size: rows of training, rounded down to equally many of each class; None: all that
            are left.
        val_size: rows of validation, likewise.
        seed: of the drawing.
        classes: which to draw from; None: all.
    """
    if classes is None:
        classes = [int(label) for label in np.unique(labels)]
    counts = [size // len(classes) for size in (train_size or 0, val_size)]
    train, val = draw_by_class(labels, classes, counts, np.random.default_rng(seed))
    if train_size is None:
        train = np.setdiff1d(np.flatnonzero(np.isin(labels, classes)), val)
    return train, val
