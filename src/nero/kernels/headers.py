"""What the tensors of a step look like and where they lie, for many of them at once.

Asking each tensor for its dtype, shape and strides takes longer than updating it, if it is small.
The compiled kernel asks all of them in one call, through the C interface that DLPack defines and
recent versions of torch have. Where there is none, iterators that run in C ask Python's attributes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from itertools import chain
from operator import attrgetter, eq
from typing import Any

from torch import Tensor

Addresses = ctypes.Array[ctypes.c_uint64]

# The kernel's nero_headers: list, count, PyList_GetItem, the reader of one header; addresses,
# notes and how many notes there is room for.
ReadHeaders = Callable[[list[Tensor], int, int | None, int, Addresses, Any, int], int]

DLPACK_VERSION = 1  # the major one


class Headers:
    """Dtypes, devices, shapes and strides of the tensors of a step, compared with the last one's.

    Args:
        read: the kernel's `nero_headers`; None to ask Python's attributes.
    """

    def __init__(self, read: ReadHeaders | None) -> None:
        self._read = read
        self._reader = reader_of_headers()
        self._addresses = room(0)
        self._notes: Any = (ctypes.c_int64 * 0)()
        self._attributes: list[Any] = []

    def same(self, tensors: list[Tensor]) -> bool:
        """Whether all headers are what they were at the last call, in this order."""
        if self._read is not None and self._reader is not None:
            try:
                return self._same_to_the_kernel(self._read, self._reader, tensors)
            except (BufferError, RuntimeError):  # such as tensors on "meta"
                self._read = None
        count = len(self._attributes)
        if count == len(_ATTRIBUTES) * len(tensors) and all(
            map(eq, _attributes(tensors), self._attributes)
        ):
            return True
        self._attributes = list(_attributes(tensors))
        return False

    def addresses(self, tensors: list[Tensor]) -> Addresses:
        """Where the first entries lie of the tensors that `same` was just called with."""
        if self._read is None or self._reader is None:
            return addresses_of(tensors)
        return self._addresses

    def _same_to_the_kernel(self, read: ReadHeaders, reader: int, tensors: list[Tensor]) -> bool:
        count, item = len(tensors), item_of_list()
        if len(self._addresses) != count:
            self._addresses = room(count)
        capacity = len(self._notes)
        noted = read(tensors, count, item, reader, self._addresses, self._notes, capacity)
        if noted > capacity:
            self._notes = (ctypes.c_int64 * noted)()
            read(tensors, count, item, reader, self._addresses, self._notes, noted)
        return noted == 0


def addresses_of(tensors: list[Tensor]) -> Addresses:
    """Where the first entries of the tensors lie."""
    return (ctypes.c_uint64 * len(tensors))(*map(Tensor.data_ptr, tensors))


def room(count: int) -> Addresses:
    """An array for as many addresses."""
    return (ctypes.c_uint64 * count)()


_ATTRIBUTES = (Tensor.stride, *map(attrgetter, ("dtype", "shape", "is_cpu")))


def _attributes(tensors: list[Tensor]) -> Iterator[Any]:
    return chain.from_iterable(map(get, tensors) for get in _ATTRIBUTES)


class _Exchange(ctypes.Structure):
    """DLPackExchangeAPI of dlpack.h, as far as it is needed."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("earlier", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("to_managed", ctypes.c_void_p),
        ("from_managed", ctypes.c_void_p),
        ("read_header", ctypes.c_void_p),
    )


@functools.cache
def reader_of_headers() -> int | None:
    """The address of the function by which torch tells the header of a tensor; None without it."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype = ctypes.c_void_p
    pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    exchange = _Exchange.from_address(pointer(capsule, b"dlpack_exchange_api"))
    return exchange.read_header if exchange.major == DLPACK_VERSION else None


@functools.cache
def item_of_list() -> int | None:
    """The address of Python's PyList_GetItem."""
    return ctypes.cast(ctypes.pythonapi.PyList_GetItem, ctypes.c_void_p).value
