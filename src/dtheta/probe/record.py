"""Records: frozen dataclasses to what JSON holds, and back by their own type hints.

Value vectors are written as text (``29/864/-``), tuples as lists, nested dataclasses as tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dtheta.errors import FormatError
from dtheta.probe.value_vector import ValueVector

T = TypeVar("T")


def record_of(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if isinstance(value, ValueVector):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: record_of(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): record_of(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [record_of(inner) for inner in value]
    return value


def from_record(kind: type[T], record: Any) -> T:
    """Return the dataclass that a record was made of.

    Raises:
        FormatError: If it is no such record, naming what was expected and where.
    """
    return _built(kind, record, kind.__name__)


def _built(kind: Any, value: Any, where: str) -> Any:
    options = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return None if value is None and NoneType in options else _built(options[0], value, where)
    if kind is ValueVector:
        return ValueVector.parse(_of_type(str, value, where))
    if is_dataclass(kind):
        return _dataclass(kind, value, where)
    if get_origin(kind) is tuple:
        return tuple(_built(options[0], inner, where) for inner in _of_type(list | tuple, value, where))
    if get_origin(kind) is Mapping:
        table = _of_type(Mapping, value, where)
        return {key: _built(options[1], inner, f"{where}.{key}") for key, inner in table.items()}
    if kind is float and type(value) is int:
        return float(value)
    return value if kind is Any else _of_type(kind, value, where)


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    table, hints = _of_type(Mapping, value, where), get_type_hints(kind)
    names = [entry.name for entry in fields(kind)]
    if set(table) != set(names):
        odd = sorted(set(table) ^ set(names))
        raise FormatError(f"{where}: expected the fields {', '.join(names)}; lacking or unknown: {', '.join(odd)}")
    return kind(**{name: _built(hints[name], table[name], f"{where}.{name}") for name in names})


def _of_type(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FormatError(f"{where}: found {type(value).__name__} {str(value)[:40]!r}, expected {kind}")
    return value
