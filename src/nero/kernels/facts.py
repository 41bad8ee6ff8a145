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


_DISPATCH = "__torch_dispatch__"

NO_MEMORY = "does not lie in memory"

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
        # An address is then not zero where the storage's is.
        if any(x.numel() and not x.untyped_storage().data_ptr() for x in tensors):
            raise RuntimeError(f"a tensor {NO_MEMORY}")
    return map(_dtype, tensors), shapes, strides, negative, offset, nbytes


def shares_entries(x: Tensor) -> bool:
    """Whether several entries of a tensor are one place in memory, as after `expand`."""
    strides = zip(x.shape, x.stride(), strict=True)
    return x.numel() > 0 and any(n > 1 and stride == 0 for n, stride in strides)


def why_unreadable(x: Tensor, beside: Tensor | None = None) -> str:
    """Why the numbers of a tensor cannot be read; empty where they can, or where torch sees to it.

    Such are gradients that stand for others while a function is transformed, and tensors whose
    storage was freed or resized, which torch itself would read beyond. Beside a plain tensor that
    they are computed with, fake tensors cannot be read either.
    """
    if x.layout != torch.strided:
        return f"is {x.layout}"
    if x.device.type == "meta":
        return ""
    if _holds_others(x):
        fake = beside is not None and type(beside) in PLAIN and _is_fake(x)
        return f"is a {type(x).__name__}, which {NO_MEMORY}" if fake else ""
    try:
        found = Facts(*map(next, facts([x])))
    except RuntimeError:
        return NO_MEMORY
    if not found.lies_in_storage:
        return f"has a storage of {found.nbytes} bytes, fewer than its shape {tuple(x.shape)} takes"
    try:  # torch raises where a storage is a stand-in
        return "" if not x.numel() or x.untyped_storage().data_ptr() else NO_MEMORY
    except RuntimeError:
        return NO_MEMORY


def _holds_others(x: Tensor) -> bool:
    """Whether it is of a subclass that says for itself what operators do."""
    return type(x) not in PLAIN and getattr(type(x), _DISPATCH) is not getattr(Tensor, _DISPATCH)


def _is_fake(x: Tensor) -> bool:
    try:
        return x.untyped_storage().device != x.device
    except RuntimeError:
        return False
