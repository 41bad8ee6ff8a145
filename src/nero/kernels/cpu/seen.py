"""Whether the tensors of a step are as they were at the last one, and where they lie.

Asking each tensor for its gradient, dtype, shape, strides and state takes longer than updating it,
if it is small. The compiled kernel asks all of them in one call, through Python's C interface and
the one that DLPack defines and recent versions of torch have. Where there is none, iterators that
run in C ask Python's attributes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor

Addresses = ctypes.Array[ctypes.c_uint64]
States = Mapping[Tensor, dict[str, Any]]

# The kernel's nero_look: functions of Python; parameters and their count; their gradients, or None
# and a list that receives them; states; addresses; hints; notes and how many there is room for.
Look = Callable[..., int]

DLPACK_VERSION = 1  # the major one


class Seen:
    """The tensors of a step: parameters, their gradients and their state.

    Args:
        look: the kernel's `nero_look`; None to ask Python's attributes.
    """

    def __init__(self, look: Look | None) -> None:
        functions = python_functions()
        self._comparison: _ByKernel | _ByAttributes = (
            _ByAttributes() if look is None or functions is None else _ByKernel(look, functions)
        )
        self._known = False
        self._kept: list[
            Tensor
        ] = []  # alive, so that no other parameter takes an address of theirs

    def know(self, params: list[Tensor], gradients: list[Tensor], states: States) -> None:
        """Compare others with these from now on."""
        self._known = True
        self._unchanged(params, gradients, states)
        self._known, self._kept = True, params

    def forget(self) -> None:
        """Find nothing unchanged until `know` is called."""
        self._known, self._kept = False, []

    def same(self, params: list[Tensor], gradients: list[Tensor], states: States) -> bool:
        """Whether all is as it was when `know` was called; what is not is forgotten.

        That is: the same parameters in this order, states in the memory that they had, and all with
        the dtypes, devices, shapes and strides that they had; parameters and gradients of torch's
        own classes.
        """
        return self._unchanged(params, gradients, states) is not None

    def gradients(self, params: list[Tensor], states: States) -> list[Tensor] | None:
        """The gradients of those that have one, if `same` holds of these; otherwise None."""
        return self._unchanged(params, None, states)

    @property
    def addresses(self) -> Addresses:
        """Where the first entries lie of those found unchanged, and of the gradient of each."""
        return self._comparison.addresses

    def _unchanged(
        self, params: list[Tensor], gradients: list[Tensor] | None, states: States
    ) -> list[Tensor] | None:
        if not self._known:
            return None
        try:
            found = self._comparison.unchanged(params, gradients, states)
        except (BufferError, RuntimeError):  # such as tensors on "meta"
            found, self._comparison = None, _ByAttributes()
        if found is None:
            self.forget()
        return found


class _ByKernel:
    """Comparison with what was looked at last, by the compiled kernel."""

    def __init__(self, look: Look, functions: PythonFunctions) -> None:
        self._look = look
        self._functions = functions
        self._notes: Any = (ctypes.c_int64 * 0)()
        self._hints: Any = (_Hint * 0)()
        self._hinted = False
        self.addresses = _room(0)

    def unchanged(
        self, params: list[Tensor], gradients: list[Tensor] | None, states: States
    ) -> list[Tensor] | None:
        """The gradients where nothing has changed: those given, or the parameters' own."""
        noted, found = self._walk(params, gradients, states)
        if noted > len(self._notes):
            self._notes = (ctypes.c_int64 * noted)()
            self._walk(params, gradients, states)
        if noted:
            self._hinted = False
            return None
        if not self._hinted:
            self._hinted = True
            for hint, p in zip(self._hints, params, strict=False):
                hint.set(p, p.grad, states[p])
        return found

    def _walk(
        self, params: list[Tensor], gradients: list[Tensor] | None, states: States
    ) -> tuple[int, list[Tensor]]:
        if len(self._hints) < len(params):
            self._hints = (_Hint * len(params))()
            self.addresses = _room(2 * len(params))
        found: list[Tensor] = []
        noted = self._look(
            ctypes.byref(self._functions),
            params,
            len(params),
            gradients,
            found,
            states,
            self.addresses,
            self._hints,
            self._notes,
            len(self._notes),
        )
        return noted, found if gradients is None else gradients


class _Lay(ctypes.Structure):
    """Where a tensor's object, what torch holds about it, and its storage lie.

    As seen.cpp has it.
    """

    _fields_ = (
        ("object", ctypes.c_uint64),
        ("body", ctypes.c_uint64),
        ("storage", ctypes.c_uint64),
    )

    def set(self, value: object) -> None:
        """Say it of a tensor; of any other object, where that lies."""
        self.object, self.body, self.storage = id(value), 0, 0
        if isinstance(value, Tensor) and are_plain([value], []):
            self.body = getattr(value, "_cdata", 0)
            self.storage = getattr(value.untyped_storage(), "_cdata", 0)


class _Hint(ctypes.Structure):
    """What the kernel fetches ahead for one parameter, as seen.cpp has it."""

    _fields_ = (
        ("place", ctypes.c_int64),
        ("lays", _Lay * 6),
    )

    def set(self, p: Tensor, g: Tensor | None, state: dict[str, Any]) -> None:
        """Have these fetched."""
        for lay, value in zip(self.lays, (p, g, state, *state.values()), strict=False):
            lay.set(value)


class _ByAttributes:
    """Comparison with what was looked at last, by attributes in Python."""

    def __init__(self) -> None:
        self._params: list[Tensor] = []
        self._attributes: list[object] = []
        self.addresses = _room(0)

    def unchanged(
        self, params: list[Tensor], gradients: list[Tensor] | None, states: States
    ) -> list[Tensor] | None:
        """The gradients where nothing has changed: those given, or the parameters' own."""
        if gradients is None:
            params = [p for p in params if p.grad is not None]
            gradients = [p.grad for p in params if p.grad is not None]
        names = list(chain.from_iterable(states[p] for p in params))
        values = chain.from_iterable(states[p].values() for p in params)
        in_states = [x for x in values if isinstance(x, Tensor)]
        tensors = params + gradients + in_states
        attributes = [names, *_attributes(tensors), *map(Tensor.data_ptr, in_states)]
        same = (
            are_plain(params, gradients)
            and len(params) == len(self._params)
            and all(map(is_, params, self._params))
            and attributes == self._attributes
        )
        self._params, self._attributes = params, attributes
        self.addresses = addresses_of(params, gradients)
        return gradients if same else None


def are_plain(params: Sequence[Tensor], gradients: Sequence[Tensor]) -> bool:
    """Whether they are no subclasses, which may hold their entries elsewhere."""
    return _PLAIN.issuperset(map(type, params)) and {Tensor}.issuperset(map(type, gradients))


_PLAIN = {Tensor, torch.nn.Parameter, torch.nn.Buffer}


def addresses_of(params: Iterable[Tensor], gradients: Iterable[Tensor]) -> Addresses:
    """Where the first entries of each parameter and of its gradient lie."""
    pairs = zip(params, gradients, strict=True)
    pointers = [tensor.data_ptr() for pair in pairs for tensor in pair]
    return (ctypes.c_uint64 * len(pointers))(*pointers)


def _room(count: int) -> Addresses:
    return (ctypes.c_uint64 * count)()


_ATTRIBUTES = (Tensor.stride, *map(attrgetter, ("dtype", "shape", "is_cpu")))


def _attributes(tensors: list[Tensor]) -> Iterator[object]:
    return chain.from_iterable(map(get, tensors) for get in _ATTRIBUTES)


class PythonFunctions(ctypes.Structure):
    """What the kernel uses of Python and torch, as seen.cpp has it."""

    _fields_ = (
        ("item", ctypes.c_void_p),
        ("append", ctypes.c_void_p),
        ("attribute", ctypes.c_void_p),
        ("type", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("read_header", ctypes.c_void_p),
        ("grad", ctypes.py_object),
        ("none", ctypes.py_object),
        ("tensor", ctypes.py_object),
        ("parameter", ctypes.py_object),
        ("buffer", ctypes.py_object),
    )


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
def python_functions() -> PythonFunctions | None:
    """What the kernel uses of Python and torch; None where torch does not tell headers."""
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    python = ctypes.pythonapi
    pointer = python.PyCapsule_GetPointer
    pointer.restype = ctypes.c_void_p
    pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    exchange = _Exchange.from_address(pointer(capsule, b"dlpack_exchange_api"))
    if exchange.major != DLPACK_VERSION:
        return None
    functions = (
        python.PyList_GetItem,
        python.PyList_Append,
        python.PyObject_GetAttr,
        python.PyObject_Type,
        python.PyDict_Next,
        python.Py_DecRef,
    )
    return PythonFunctions(
        *(ctypes.cast(function, ctypes.c_void_p).value for function in functions),
        exchange.read_header,
        "grad",
        None,
        Tensor,
        torch.nn.Parameter,
        torch.nn.Buffer,
    )
