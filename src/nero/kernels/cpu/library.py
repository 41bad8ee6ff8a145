"""The compiled CPU kernel: finding it, and calling it through its C interface."""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from nero.kernels.cpu.build import LIBRARY, mark

INSTRUCTION_SET = "NERO_CPU"
"""The environment variable that forces an instruction set, or "none" for no kernel."""

OUT_OF_MEMORY = -2


class Missing(NamedTuple):
    """Why there is no kernel."""

    reason: str


class GroupFields(ctypes.Structure):
    """The hyperparameters of a group, as kernel.h has them."""

    _fields_ = (
        ("lr", ctypes.c_double),
        ("beta", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("radius", ctypes.c_double),
        ("nonfinite", ctypes.c_int64),
        ("max_turn", ctypes.c_double),
    )


class Library:
    """The kernel in one instruction set.

    Args:
        path: the shared library.
        forced: the instruction set to use; None for the best that the processor has.

    Attributes:
        instruction_sets: those that the library and the processor have, the best one last.
        instruction_set: the one in use.

    Raises:
        OSError: it cannot be loaded.
        ValueError: it was built from other sources, or lacks the forced instruction set.
    """

    def __init__(self, path: Path = LIBRARY, forced: str | None = None) -> None:
        # Read before it is loaded: a file that was cut off ends the process.
        if not path.read_bytes().endswith(mark()):
            raise ValueError("it was built from other sources, or is not whole")
        library = ctypes.CDLL(str(path))
        names = (ctypes.c_char_p * 8)()
        count = library.nero_instruction_sets(names, len(names))
        self.instruction_sets = [name.decode() for name in names[:count] if name]
        self.instruction_set = forced or self.instruction_sets[-1]
        if self.instruction_set not in self.instruction_sets:
            have = ", ".join(self.instruction_sets)
            raise ValueError(f"{INSTRUCTION_SET}={forced}: this machine has {have}")
        self._name = self.instruction_set.encode()
        self._step = library.nero_step
        self._step.restype = ctypes.c_int64
        self._step.argtypes = (
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_void_p,
        )

    def step(self, columns: Sequence[array[int]], group: GroupFields) -> int:
        """Update the tensors at these addresses; returns how many neurons were skipped.

        Args:
            columns: for each field of what kernel.h calls a Tensor, that of each tensor.
            group: hyperparameters.

        Raises:
            MemoryError: there is no room for gathered neurons; nothing was changed.
        """
        skipped = self._step(
            (ctypes.c_void_p * len(columns))(*(column.buffer_info()[0] for column in columns)),
            len(columns[0]),
            ctypes.byref(group),
            self._name,
            torch.get_num_threads(),
            openmp_parallel(),
        )
        if skipped == OUT_OF_MEMORY:
            raise MemoryError("the CPU kernel found no memory; nothing was changed")
        return skipped


@functools.cache
def load() -> Library | Missing:
    """The kernel, or why there is none; looked for once in a process."""
    forced = os.environ.get(INSTRUCTION_SET)
    if forced == "none":
        return Missing(f"{INSTRUCTION_SET}=none")
    if not LIBRARY.exists():
        return Missing(
            "it was not compiled; with a C++ compiler, run python -m nero.kernels.cpu.build"
        )
    try:
        return Library(LIBRARY, forced or None)
    except (OSError, ValueError, AttributeError) as error:
        return Missing(f"{error}; to compile it again, run python -m nero.kernels.cpu.build")


@functools.cache
def openmp_parallel() -> int | None:
    """The address of GOMP_parallel in the OpenMP runtime that torch runs on.

    The kernel then shares torch's threads instead of competing with them. None where it is not
    known: the kernel starts threads of its own for each step.
    """
    # Other packages bring runtimes of their own: only torch's will do.
    home = Path(torch.__file__).parent
    for path in sorted(
        path
        for directory in (home / "lib", home.with_name("torch.libs"))
        for path in directory.glob("lib*omp*")
    ):
        try:
            # Already loaded, or not torch's: RTLD_NOLOAD never loads a second one.
            runtime = ctypes.CDLL(str(path), mode=getattr(os, "RTLD_NOLOAD", 0) | os.RTLD_LAZY)
            return ctypes.cast(runtime.GOMP_parallel, ctypes.c_void_p).value
        except (OSError, AttributeError):
            continue
    return None
