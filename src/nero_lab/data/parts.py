"""Data in three parts, and what identifies the files it was read from."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor


class MissingData(Exception):
    """A folder lacks the files of a data set; the message says how to get them."""


class Split(NamedTuple):
    """Some of the examples: inputs and targets, with equally many rows."""

    x: Tensor
    """(rows, ...), float32, or int64 for tokens"""
    y: Tensor
    """(rows,) or (rows, targets of a row), int64"""


class Parts(NamedTuple):
    """A fixed three-way split: learn on train, choose learning rates on val, report test."""

    train: Split
    val: Split
    test: Split


def digest_files(files: Iterable[Path]) -> str:
    """Return what identifies files by their names and contents, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        contents = path.read_bytes()
        digest.update(f"{path.name} {len(contents)}\0".encode() + contents)
    return digest.hexdigest()[:16]


def check_digest(what: str, found: str, wanted: str) -> None:
    """Refuse files other than those that a run was planned for.

    Raises:
        ValueError: they changed in between.
    """
    if found != wanted:
        raise ValueError(f"{what} changed: its digest is {found}, and the run asks for {wanted}")
