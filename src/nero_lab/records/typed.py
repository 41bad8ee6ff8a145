"""Whether what was read from JSON has the types that a dataclass states."""

import functools
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_DEEPEST = 16
"""levels of objects and lists; those who use a record walk through it, and Python's stack ends"""


def check_types(record: Any) -> None:
    """Refuse a dataclass with a value of another type than its field's.

    Text has to be one line without control characters, and numbers have to be finite.

    Raises:
        TypeError: a field has such a value.
    """
    for name, hint in _hints(type(record)).items():
        value = getattr(record, name)
        if not _fits(value, hint):
            raise TypeError(f"{name} of a {type(record).__name__} is {value!r:.80}, not {hint}")
        if is_dataclass(value):
            check_types(value)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return _is_plain(value, _DEEPEST)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if origin is Sequence:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if hint is float:
        return _is_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str) and _is_line(value)
    return isinstance(value, hint)


def _is_line(text: str) -> bool:
    # Surrogates, which JSON can hold and no file, are of the category Cs.
    return text.isprintable() or not {"Cc", "Cs"} & set(map(unicodedata.category, text))


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)


def _is_plain(value: Any, levels: int) -> bool:
    """Return whether a value is finite JSON of not too many levels."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_is_plain(each, levels - 1) for each in inner)
    if isinstance(value, str):
        return _is_line(value)
    return isinstance(value, bool | NoneType) or _is_number(value)
