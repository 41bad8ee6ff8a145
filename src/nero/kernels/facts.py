"""What a step asks of its tensors: all of it, here.

A tensor may change between two steps in every way that torch has: another dtype or shape by
`p.data = ...`, other strides, a mark instead of numbers, memory that was freed. So everything is
asked at every step, by iterators that run in C, and what follows from the answers is kept under
the answers alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage


class Facts(NamedTuple):
    """What a kernel has to know of a plain tensor besides its device and address; hashable.

    Attributes:
        dtype: its dtype.
        shape: its shape.
        given_strides: in entries; None where it is contiguous.
        negative: whether its numbers are those in memory, negated.
        offset: of its first entry in its storage.
        nbytes: of its storage.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    given_strides: tuple[int, ...] | None
    negative: bool
    offset: int
    nbytes: int

    @property
    def strides(self) -> tuple[int, ...]:
        """In entries."""
        if self.given_strides is not None:
            return self.given_strides
        sizes = [max(size, 1) for size in self.shape]  # as torch counts them where one is 0
        return tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))

    @property
    def is_contiguous(self) -> bool:
        """Whether entries follow each other in order."""
        if not math.prod(self.shape):
            return True
        axes = zip(self.shape, self.strides, self._replace(given_strides=None).strides, strict=True)
        return all(size == 1 or stride == plain for size, stride, plain in axes)

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
    """The `Facts` of plain tensors, an iterator for each field.

    Most columns are of contiguous tensors at the start of their storage, which is asked at once;
    their strides are left out.

    Raises:
        RuntimeError: a tensor without strides or storage, here or when an iterator comes to it.
    """
    nbytes = map(UntypedStorage.nbytes, map(Tensor.untyped_storage, tensors))
    scalars = not any(map(Tensor.dim, tensors))
    shapes = repeat(()) if scalars else map(_shape, tensors)
    strides = repeat(None)
    if not (scalars or all(map(Tensor.is_contiguous, tensors))):
        strides = map(Tensor.stride, tensors)
    negative = map(Tensor.is_neg, tensors) if any(map(Tensor.is_neg, tensors)) else repeat(False)
    offset = repeat(0)
    if any(map(Tensor.storage_offset, tensors)):
        offset = map(Tensor.storage_offset, tensors)
    return map(_dtype, tensors), shapes, strides, negative, offset, nbytes


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
