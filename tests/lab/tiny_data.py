"""Small files in the formats of the data sets, made up."""

import gzip
import struct
from pathlib import Path

import numpy as np


def write_fashion_mnist(folder: Path, train: int = 1500, test: int = 100) -> Path:
    """Write images whose class is the row that is bright, `train` and `test` of them."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = generator.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), 2 * labels + 4] += 150
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


def write_idx(path: Path, values: np.ndarray) -> None:
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def write_texts(folder: Path, words: str, characters: int = 200_000) -> Path:
    """Write two texts of random words, one of them gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    text = " ".join(generator.choice(words.split(), characters // 6))
    half = len(text) // 2
    (folder / "a.md.gz").write_bytes(gzip.compress(text[:half].encode(), mtime=0))
    (folder / "b.txt").write_text(text[half:], "utf-8")
    (folder / "c.png").write_bytes(b"\x89PNG")
    return folder
