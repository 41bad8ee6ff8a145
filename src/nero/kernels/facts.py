"""What a step asks of its tensors: all of it, here.

A tensor may change between two steps in every way that torch has: another dtype or shape by
`p.data = ...`, other strides, a mark instead of numbers, memory that was freed. So everything is
asked at every step, of many tensors by iterators that run in C, and what follows from the answers
is kept under the answers alone. Of state less is asked, see `Column.lies_still`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import attrgetter, is_
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


# A tuple for each field of `Facts`, or None where all tensors of a column are as usual.
ColumnFacts = tuple[tuple[Any, ...] | None, ...]

CPU = torch.device("cpu")

_DISPATCH = "__torch_dispatch__"

NO_MEMORY = "does not lie in memory"

# Subclasses may hold their entries elsewhere.
PLAIN = {Tensor, torch.nn.Parameter, torch.nn.Buffer}

_dtype, _shape, _is_cpu, _is_cuda = map(attrgetter, ("dtype", "shape", "is_cpu", "is_cuda"))


def are_plain(tensors: Sequence[Tensor]) -> bool:
    """Whether all are of torch's own classes."""
    return PLAIN.issuperset(map(type, tensors))


class Column:
    """Tensors that have one part in a step, one for each parameter, and what was asked of them.

    Args:
        tensors: weights, say, or their gradients.

    Attributes:
        reason: why a kernel cannot read them, in words; empty where it can.
        facts: their `Facts`: for each field a tuple, or None where all are as usual. Hashable.
        addresses: of their first entries.
        device: the one on which all are, the CPU or a CUDA device; None where a kernel cannot read
            them.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.facts: ColumnFacts = ()
        self.addresses: list[int] = []
        self.reason = ""
        self.device = None
        if not are_plain(tensors):
            self.reason = f"is a {next(type(x) for x in tensors if not are_plain([x])).__name__}"
        elif (device := _device_of(tensors)) is None:
            self.reason = f"is on {next(x.device for x in tensors if not x.is_cpu)}"
        else:
            self.device = device
            try:
                self._ask()
            except RuntimeError:  # torch's, of tensors without strides or storage
                self.reason = NO_MEMORY

    def _ask(self) -> None:
        tensors = self.tensors
        self._storages = list(map(Tensor.untyped_storage, tensors))
        nbytes = tuple(map(UntypedStorage.nbytes, self._storages))
        offset = None
        if any(map(Tensor.storage_offset, tensors)):
            offset = tuple(map(Tensor.storage_offset, tensors))
        shapes = strides = negative = None
        if any(map(Tensor.dim, tensors)):
            shapes = tuple(map(_shape, tensors))
            if not all(map(Tensor.is_contiguous, tensors)):
                strides = tuple(map(Tensor.stride, tensors))
        if any(map(Tensor.is_neg, tensors)):
            negative = tuple(map(Tensor.is_neg, tensors))
        self.facts = (tuple(map(_dtype, tensors)), shapes, strides, negative, offset, nbytes)
        self.addresses = list(map(Tensor.data_ptr, tensors))
        # The address of a tensor inside its storage is not zero where the storage's is.
        starts = self.addresses if offset is None else map(UntypedStorage.data_ptr, self._storages)
        if (offset or not all(self.addresses)) and any(
            x.numel() and not start for x, start in zip(tensors, starts, strict=True)
        ):
            self.reason = NO_MEMORY

    def lies_still(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same objects, and lie where they lay, in as much memory.

        Enough for state, which belongs to the optimizer: its dtype, strides and marks are not asked
        again. The storages are held on to, so that no other one is where they were.
        """
        return (
            not self.reason
            and len(tensors) == len(self.tensors)
            and all(map(is_, tensors, self.tensors))
            and _device_of(tensors) == self.device
            and list(map(Tensor.data_ptr, tensors)) == self.addresses
            and tuple(map(UntypedStorage.nbytes, self._storages)) == self.facts[-1]
            and (self.facts[1] is None or tuple(map(_shape, tensors)) == self.facts[1])
        )


def _device_of(tensors: Sequence[Tensor]) -> torch.device | None:
    """The device of all of them, where kernels run; None for others or several."""
    if all(map(_is_cpu, tensors)):
        return CPU
    if all(map(_is_cuda, tensors)) and len(set(map(Tensor.get_device, tensors))) == 1:
        return tensors[0].device
    return None


def of_each(facts: ColumnFacts) -> Iterator[Facts]:
    """The facts of one tensor of a column after another."""
    usual = (None, (), None, False, 0, None)
    return map(Facts, *(repeat(u) if x is None else x for x, u in zip(facts, usual, strict=True)))


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
        memory = x.untyped_storage().nbytes()
        offset = int(x.storage_offset())
        found = Facts(x.dtype, x.shape, x.stride(), x.is_neg(), offset, memory)
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
