"""Small files in the formats of the data sets, made up."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image


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


def write_texts(
    folder: Path, words: str = "no gods nor masters rule those who share", characters: int = 200_000
) -> Path:
    """Write two texts of random words, one of them gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    text = " ".join(generator.choice(words.split(), characters // 6))
    half = len(text) // 2
    (folder / "a.md.gz").write_bytes(gzip.compress(text[:half].encode(), mtime=0))
    (folder / "b.txt").write_text(text[half:], "utf-8")
    (folder / "c.png").write_bytes(b"\x89PNG")
    return folder


def write_cifar(folder: Path, each: int = 40) -> Path:
    """Write six batches of `each` images whose class is the row that is bright."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        labels = [row % 10 for row in range(each)]
        images = generator.integers(0, 100, (each, 3, 32, 32), dtype=np.uint8)
        images[np.arange(each), :, 3 * np.array(labels)] += 150
        batch = {
            "batch_label": name,
            "labels": labels,
            "data": images.reshape(each, -1),
            "filenames": [f"{row}.png" for row in range(each)],
        }
        # As the original: written by Python 2, whose strings are bytes.
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def write_image_folder(folder: Path, each: int = 2, classes: int = 10) -> Path:
    """Write `each` grey images of every class for train, and as many for val."""
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in range(classes):
            (folder / part / f"class{label}").mkdir(parents=True)
            for row in range(each):
                pixels = generator.integers(0, 256, (40, 50), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / f"class{label}" / f"{row}.png")
    return folder


def write_wikitext(folder: Path, words: int = 600) -> Path:
    """Write three parts of random words and some unknown ones, in WikiText's format."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part in ("train", "valid", "test"):
        chosen = generator.choice([*(f"word{number}" for number in range(40)), "<unk>"], words)
        lines = [" ", " = Title = ", *(" ".join(line) for line in chosen.reshape(-1, 10))]
        (folder / f"wiki.{part}.tokens").write_text("".join(f" {line} \n" for line in lines))
    return folder


def write_pairs(folder: Path, pairs: int = 40) -> Path:
    """Write sentences and their translations word by word; one file is gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for part in ("train", "val", "test"):
        numbers = [
            generator.integers(0, 20, generator.integers(3, 8)).tolist() for _ in range(pairs)
        ]
        for language in ("de", "en"):
            lines = [" ".join(f"{language}{number}" for number in row) + "." for row in numbers]
            (folder / f"{part}.{language}").write_text("".join(f"{line}\n" for line in lines))
    text = (folder / "train.de").read_bytes()
    (folder / "train.de.gz").write_bytes(gzip.compress(text, mtime=0))
    (folder / "train.de").unlink()
    return folder
