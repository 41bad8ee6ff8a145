"""Append-only files of JSON objects, one a line."""

import errno
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar


class _Json(Protocol):
    def to_json(self) -> str: ...


R = TypeVar("R", bound=_Json)

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


class JsonLines(Generic[R]):
    """Records in one file, a line each, by their id. Later records of the same run win.

    A line that cannot be read, such as the last one of a process that was killed while writing, is
    passed over and counted in `unreadable`: its run counts as not done.

    Args:
        path: the file; its folder is made when something is written.
        parse: a line -> a record, or an error that says that the line holds none.
        identify: a record -> the id of its run.

    Raises:
        OSError: the file cannot be read, or is a folder, a pipe or the like.
    """

    def __init__(self, path: Path, parse: Callable[[str], R], identify: Callable[[R], str]) -> None:
        self.path = path
        self.records: dict[str, R] = {}
        self.unreadable = 0
        self._identify = identify
        for line in filter(None, _contents(path).split(b"\n")):
            try:
                record = parse(line.decode("utf-8"))
            except _UNREADABLE:
                self.unreadable += 1
            else:
                self.records[identify(record)] = record

    def append(self, record: R) -> None:
        """Write one record to the end of the file, on the disk before this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            # A line cut short by a kill must not swallow the record that follows it.
            if file.tell() and not self._ends_with_newline(file):
                file.write(b"\n")
            file.write(record.to_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.records[self._identify(record)] = record

    @staticmethod
    def _ends_with_newline(file: BinaryIO) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _contents(path: Path) -> bytes:
    if not path.exists():
        return b""
    if not path.is_file():  # reading a pipe would wait for a writer
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path.read_bytes()


def finite(value: Any) -> Any:
    """Return a structure of JSON with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
