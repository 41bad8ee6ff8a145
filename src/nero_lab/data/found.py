"""A data set that is there, before it is loaded."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FoundData:
    """A data set that is there, not loaded yet."""

    name: str
    """of the data that are really used, such as "Fashion-MNIST" """
    digest: str
    """of its files: other files, other digest"""
    folder: Path | None = None
    """None: it comes inside a package"""
    stand_in_for: str | None = None
    """the data set of the paper that it stands in for, if it does"""
