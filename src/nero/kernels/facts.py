"""What a step asks of its tensors: all of it, here.

A tensor may change between two steps in every way that torch has: another dtype or shape by
`p.data = ...`, other strides, a mark instead of numbers, memory that was freed. So everything is
asked at every step, by iterators that run in C, and what follows from the answers is kept under
the answers alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage


class Facts(NamedTuple):
    """What a kernel has to know of a plain tensor besides its device and address; hashable.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        strides: in entries.
        negative: whether its numbers are those in memory, negated.
        offset: of its first entry in its storage.
        nbytes: of its storage.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    negative: bool
    offset: int
    nbytes: int

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return not math.prod(self.shape)
            expected *= size
        return True

    @property
    def lies_in_storage(self) -> bool:
        """Whether its storage is as long as its shape says; it may have been resized."""
        if not math.prod(self.shape):
            return True
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize <= self.nbytes


# Subclasses may hold their entries elsewhere.
PLAIN = {Tensor, torch.nn.Parameter, torch.nn.Buffer}

_dtype, _shape, _is_cpu = map(attrgetter, ("dtype", "shape", "is_cpu"))


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether all are of torch's own classes."""
    return PLAIN.issuperset(map(type, tensors))


def are_on_cpu(tensors: Sequence[Tensor]) -> bool:
    """Whether all are on the CPU."""
    return all(map(_is_cpu, tensors))


def facts(tensors: Sequence[Tensor]) -> tuple[Iterator[Any], ...]:
    """The `Facts` of plain tensors, an iterator for each field, which asks as it goes.

    It raises RuntimeError when it comes to a tensor without strides or storage.
    """
    return (
        map(_dtype, tensors),
        map(_shape, tensors),
        map(Tensor.stride, tensors),
        map(Tensor.is_neg, tensors),
        map(Tensor.storage_offset, tensors),
        map(UntypedStorage.nbytes, map(Tensor.untyped_storage, tensors)),
    )


NO_MEMORY = "does not lie in memory"


def why_unreadable(x: Tensor) -> str:
    """Why the numbers of a tensor cannot be read; empty where they can, or where torch sees to it.

    Such are gradients that stand for others while a function is transformed, and tensors whose
    storage was freed or resized, which torch itself would read beyond.
    """
    if type(x) not in PLAIN or x.device.type == "meta":
        return ""
    try:
        found = Facts(*map(next, facts([x])))
        address = x.data_ptr()
    except RuntimeError:
        return NO_MEMORY
    if not found.lies_in_storage:
        return f"has a storage of {found.nbytes} bytes, fewer than its shape {tuple(x.shape)} takes"
    return "" if address or not x.numel() else NO_MEMORY
