"""Checkpoints that are whole or not there: a kill, a crash or a full disk never leaves half of one.

A checkpoint is written under another name, brought to the disk and only then given its own name.
It starts with a digest of what follows, so that one that rotted is found out and the one before it
is taken. The last two are kept.
"""

import contextlib
import errno
import glob
import hashlib
import io
import os
import random
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import nn

_MAGIC = b"nero checkpoint 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_KEPT = 2


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or fits no run; the message says what is left."""


class BusyRun(CheckpointError):
    """Another process trains the run in the same place."""


@contextmanager
def only_process(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Keep other processes from the run whose checkpoints are in a folder; all have to ask.

    The death of this process ends it too.

    Args:
        folder: of the run's checkpoints.
        wait: seconds to wait for another process.

    Raises:
        BusyRun: another process has the run.
        CheckpointError: the folder cannot be written to.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock", timeout=wait)
        lock.acquire()
    except Timeout:
        raise BusyRun(
            f"another process trains this run, with checkpoints in {folder}: wait for its end, or "
            "choose another directory with --out"
        ) from None
    except OSError as error:
        raise CheckpointError(_cannot_keep("checkpoints", folder, error)) from error
    try:
        yield
    finally:
        # First removed: filelock gives nobody a lock on a file that is not there any more.
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def check_writable(folder: Path, what: str) -> None:
    """Make a folder where it is missing, and see that files can be written to it.

    Raises:
        CheckpointError: they cannot; `what` is what they are.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CheckpointError(_cannot_keep(what, folder, error)) from error


def _cannot_keep(what: str, folder: Path, error: OSError) -> str:
    return (
        f"cannot keep {what} in {folder}: {error.strerror or error}; "
        "choose another directory with --out"
    )


def _write(path: Path, *contents: bytes | memoryview) -> None:
    """Write a file that gets its name only when it is whole and on the disk.

    Raises:
        OSError: it could not be written; what had the name before is as it was.
    """
    # A name that no other process takes.
    unfinished = path.with_name(f"{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.writelines(contents)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name
        finally:
            os.close(folder)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def _bytes_of(state: Mapping[str, Any]) -> memoryview:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getbuffer()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state_dict, under its own name only when it is whole.

    Raises:
        CheckpointError: it could not be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What processes that were killed have left of it.
        for left in path.parent.glob(f"{glob.escape(path.name)}.????????.tmp"):
            left.unlink(missing_ok=True)
        _write(path, _bytes_of(model.state_dict()))
    except OSError as error:
        then = "Make room and give" if _is_full(error) else "Give"
        raise CheckpointError(
            f"cannot write the weights {path}: {error.strerror or error}; the checkpoint of the "
            f"end stays. {then} the same command again"
        ) from error


def start_from(model: nn.Module, path: Path, fresh: Sequence[str] = ()) -> None:
    """Give a model the weights in a file that `save_weights` wrote.

    Args:
        model: modified in place.
        path: of the file.
        fresh: modules, by their dotted names, that keep the weights that they have.
    """
    kept = tuple(f"{module}." for module in fresh)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    own = {name: value for name, value in model.state_dict().items() if name.startswith(kept)}
    taken = {name: value for name, value in weights.items() if not name.startswith(kept)}
    model.load_state_dict(taken | own)


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Args:
        folder: made if it is missing.

    Raises:
        CheckpointError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        check_writable(folder, "checkpoints")

    def files(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        named = {
            int(match[1]): path
            for path in self.folder.glob("step-*.pt")
            if (match := re.fullmatch(r"step-(\d+)\.pt", path.name)) and path.is_file()
        }
        return [named[step] for step in sorted(named, reverse=True)]

    def save(self, state: Mapping[str, Any], step: int) -> Path:
        """Write a checkpoint and return its file; it is on the disk when this returns.

        Args:
            state: what `torch.load` with weights_only can read.
            step: what it is called by.

        Raises:
            CheckpointError: it could not be written; those before it are as they were.
        """
        path = self.folder / f"step-{step}.pt"
        payload = _bytes_of(state)
        try:
            _write(path, _MAGIC, hashlib.sha256(payload).digest(), payload)
        except OSError as error:
            raise CheckpointError(self._lost(path, error)) from error
        for old in self.files()[_KEPT:]:
            old.unlink(missing_ok=True)
        for left in self.folder.glob("*.tmp"):
            left.unlink(missing_ok=True)
        return path

    def _lost(self, path: Path, error: OSError) -> str:
        left = self.files()
        kept = f"the last good one is {left[0]}" if left else "there is none from before"
        then = "Make room, or choose" if _is_full(error) else "Choose"
        return (
            f"cannot write the checkpoint {path}: {error.strerror or error}; {kept}. "
            f"{then} another directory with --out, and give the same command again"
        )

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole, None where there is none.

        Warns of those that are not.
        """
        for path in self.files():
            with contextlib.suppress(_Damaged):
                return _read(path)
            warnings.warn(f"{path} is damaged and passed over", stacklevel=2)
        return None

    def clear(self) -> None:
        """Remove all of them, and the folder."""
        for path in [*self.files(), *self.folder.glob("*.tmp")]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds something else
            self.folder.rmdir()


class _Damaged(Exception):
    """A checkpoint is not what was written."""


def _read(path: Path) -> dict[str, Any]:
    contents = path.read_bytes()
    start = len(_MAGIC) + _DIGEST_SIZE
    payload = memoryview(contents)[start:]
    digest = contents[len(_MAGIC) : start]
    if not contents.startswith(_MAGIC) or hashlib.sha256(payload).digest() != digest:
        raise _Damaged
    try:
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:  # made by somebody else: it holds no state, or code
        raise _Damaged from None
    if not isinstance(state, dict):
        raise _Damaged
    return state


@contextmanager
def restoring(folder: Path | None) -> Iterator[None]:
    """Name the folder of a checkpoint that holds something else than the run's state.

    Raises:
        CheckpointError: what is done with the checkpoint raised an error.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder} holds a checkpoint that does not fit the run "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): remove it, or give "
            "--fresh"
        ) from error


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def rng_state() -> dict[str, Any]:
    """Return the state of every global generator: torch's, CUDA's, NumPy's and Python's."""
    _, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    state = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [torch.from_numpy(np.asarray(keys)), int(position), int(has_gauss), float(gauss)],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put every global generator into a state that `rng_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy(), position, has_gauss, gauss))  # noqa: NPY002
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def weights_digest(model: nn.Module) -> str:
    """Return what identifies the values of all parameters and buffers, bit for bit."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\0".encode())
        digest.update(flat.numpy().tobytes())
    return digest.hexdigest()[:16]
