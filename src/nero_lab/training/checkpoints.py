"""Checkpoints that are whole or not there: a kill, a crash or a full disk never leaves half of one.

A checkpoint is written under another name, brought to the disk and only then given its own name.
It starts with a digest of what follows, so that one that rotted is found out and the one before it
is taken. The last two are kept.
"""

import hashlib
import io
import os
import random
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import nn

_MAGIC = b"nero checkpoint 1\n"
_DIGEST_SIZE = hashlib.sha256().digest_size
_KEPT = 2


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or fits no run; the message says what is left."""


class _Hashing(io.RawIOBase):
    """Passes what is written on to a file and keeps its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            # torch turns it into an error of its own that does not say why.
            self.error = error
            raise
        self.digest.update(data)
        return len(data)


def _save(state: Mapping[str, Any], file: BinaryIO) -> bytes:
    """Write a state to a file and return the digest of what was written."""
    hashing = _Hashing(file)
    try:
        torch.save(dict(state), cast(BinaryIO, hashing))
    except Exception:
        if hashing.error is not None:
            raise hashing.error from None
        raise
    return hashing.digest.digest()


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state_dict, under its own name only when it is whole.

    Raises:
        CheckpointError: it could not be written.
    """
    unfinished = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            _save(model.state_dict(), file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        if unfinished.parent.is_dir():
            unfinished.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write the weights {path}: {error.strerror or error}; the checkpoint of the "
            "end stays. Make room and give the same command again"
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
        probe = folder / f"probe-{os.getpid()}.tmp"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise CheckpointError(
                f"cannot keep checkpoints in {folder}: {error.strerror or error}; "
                "choose another directory with --out"
            ) from error

    def files(self) -> list[Path]:
        """Return the checkpoints, the newest first."""
        named = {
            int(match[1]): path
            for path in self.folder.glob("step-*.pt")
            if (match := re.fullmatch(r"step-(\d+)\.pt", path.name))
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
        unfinished = path.with_suffix(".tmp")
        try:
            self._write(unfinished, state)
            unfinished.replace(path)
            self._sync_folder()
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise CheckpointError(self._lost(path, error)) from error
        for old in self.files()[_KEPT:]:
            old.unlink()
        return path

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        with path.open("wb") as file:
            file.write(_MAGIC + bytes(_DIGEST_SIZE))
            digest = _save(state, file)
            file.seek(len(_MAGIC))
            file.write(digest)
            file.flush()
            os.fsync(file.fileno())

    def _sync_folder(self) -> None:
        # Brings the new name itself to the disk.
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _lost(self, path: Path, error: OSError) -> str:
        left = self.files()
        kept = f"the last good one is {left[0]}" if left else "there is none from before"
        return (
            f"cannot write the checkpoint {path}: {error.strerror or error}; {kept}. "
            "Make room, or choose another directory with --out, and give the same command again"
        )

    def load(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is whole, None where there is none.

        Warns of those that are not.
        """
        for path in self.files():
            contents = path.read_bytes()
            start = len(_MAGIC) + _DIGEST_SIZE
            wanted = contents[len(_MAGIC) : start]
            payload = memoryview(contents)[start:]
            if contents.startswith(_MAGIC) and hashlib.sha256(payload).digest() == wanted:
                return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            warnings.warn(f"{path} is damaged and passed over", stacklevel=2)
        return None

    def clear(self) -> None:
        """Remove all of them, and the folder."""
        for path in [*self.files(), *self.folder.glob("*.tmp")]:
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


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
