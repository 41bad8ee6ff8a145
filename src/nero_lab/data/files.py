"""Contents of data files, gzipped or not; one that is cut short or damaged is named."""

import gzip
import zlib
from pathlib import Path


def read_file(path: Path) -> bytes:
    """Return the contents of a file, decompressed where its name ends with ".gz".

    Raises:
        ValueError: it is cut short or damaged.
        OSError: it cannot be read.
    """
    contents = path.read_bytes()
    if path.suffix != ".gz":
        return contents
    try:
        return gzip.decompress(contents)
    # The first is what Typer takes for Ctrl-D at a prompt.
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is cut short or damaged: {error}") from None


def read_utf8(path: Path) -> str:
    """Return the text of a file, decompressed where its name ends with ".gz".

    Raises:
        ValueError: it is cut short or damaged, or no UTF-8.
        OSError: it cannot be read.
    """
    try:
        return read_file(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from None
