"""Images and labels in the idx files of MNIST and Fashion-MNIST."""

import math
from pathlib import Path

import numpy as np

from nero_lab.data.files import read_file

_NAMES = tuple(
    f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)


def idx_files(folder: Path) -> list[Path] | None:
    """Return the four files in a folder, gzipped or not, or None where one is missing.

    In the order training images, training labels, test images, test labels.
    """
    found = []
    for name in _NAMES:
        file = next((f for f in (folder / f"{name}.gz", folder / name) if f.is_file()), None)
        if file is None:
            return None
        found.append(file)
    return found


def read_idx(path: Path) -> np.ndarray:
    """Return the bytes of an idx file, gzipped or not, in the shape that its header states.

    Raises:
        ValueError: it is not such a file, holds something other than bytes, or is cut short.
    """
    contents = read_file(path)
    # The header: two zero bytes, the type (8 is uint8), the number of axes, then their sizes.
    if contents[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is no idx file of bytes")
    axes = contents[3]
    start = 4 + 4 * axes
    shape = np.frombuffer(contents[4:start].ljust(4 * axes, b"\0"), ">u4").tolist()
    if len(contents) != start + math.prod(shape):
        raise ValueError(
            f"{path} is cut short or damaged: it has {len(contents)} bytes, and its header makes "
            f"{start + math.prod(shape)} of them"
        )
    return np.frombuffer(contents, np.uint8, offset=start).reshape(shape)


def idx_title(files: list[Path]) -> str | None:
    """Return which data set the files are, None where they are neither of the two."""
    labels = tuple(int(label) for label in read_idx(files[1])[: len(_FIRST_LABELS["MNIST"])])
    return next((title for title, first in _FIRST_LABELS.items() if first == labels), None)


_FIRST_LABELS = {
    "MNIST": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5),
    "Fashion-MNIST": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9),
}
"""Of the training images. The files have the same names and sizes, and are compressed anew here and
there, so that neither names nor digests distinguish one set from the other."""
