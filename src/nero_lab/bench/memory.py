"""Bytes: of state, and at the peak of a step.

Two meters watch the peak. PyTorch's profiler sees each allocation of PyTorch's own to the byte and
nothing else. The peak of the process's resident memory, which Linux keeps and lets one reset, sees
also what a compiled kernel takes from the system, in pages; psutil has no such peak. On a GPU there
is the allocator's own peak, to the byte.
"""

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
RESET_PEAK = "5"
"""what Linux takes for: set the peak of resident memory to what is resident now"""


def state_bytes(optimizers: Iterable[Any]) -> int:
    """Return the bytes of all state tensors, memory that two of them share counted once."""
    storages = {}
    for optimizer in optimizers:
        for state in optimizer.state.values():
            for value in state.values():
                for x in _plain(value):
                    storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    return sum(storages.values())


def _plain(value: Any) -> list[Tensor]:
    """Return the tensors that a value is made of; a quantised one is made of several."""
    if not isinstance(value, Tensor):
        return []
    if hasattr(value, "__tensor_flatten__"):
        names, _ = value.__tensor_flatten__()  # type: ignore[attr-defined]
        return [x for name in names for x in _plain(getattr(value, name))]
    return [value]


def torch_peak(action: Callable[[], Any]) -> int:
    """Return the most that PyTorch held at a time during the action above what it held before."""
    with (
        _no_messages(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded,
    ):
        action()
    results: Any = recorded.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def cuda_peak(action: Callable[[], Any]) -> int:
    """Return the most that was allocated on the GPU during the action above what was before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextlib.contextmanager
def _no_messages() -> Iterator[None]:
    """Keep what the profiler's C++ part writes to the standard error stream from the console."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def resident_rise(action: Callable[[], Any], repeats: int = 3) -> int | None:
    """Return the rise of the process's resident memory at its peak during the action.

    The least of some repeats, since what else happens in the process only adds to it. None where
    the system does not report it.
    """
    rises = []
    for _ in range(repeats):
        before = reset_peak()
        action()
        after = peak_resident()
        if before is None or after is None:
            return None
        rises.append(after - before)
    return min(rises)


def reset_peak() -> int | None:
    """Forget the peak of resident memory and return what is resident; None where that fails."""
    # Memory that was freed but stays resident would be used again unseen.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text(RESET_PEAK)
    except OSError:
        return None
    return peak_resident()


def peak_resident() -> int | None:
    """Return the most memory that was resident since the reset; None where nothing reports it."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text("ascii"), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None
