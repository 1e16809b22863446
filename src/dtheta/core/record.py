"""Frozen dataclasses to what JSON holds and back, checked: every field known, present and of its declared type.

Covers what the records of this package use: dataclasses, tuples, mappings, optional values, numbers, text and plain
JSON (``Any``). What has a ``parse`` is written as its text, such as a value vector's address.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dtheta.errors import ConfigError, FormatError, did_you_mean

T = TypeVar("T")


def record_of(value: Any) -> Any:
    """Return a value as JSON holds it."""
    if hasattr(value, "parse"):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: record_of(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): record_of(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [record_of(inner) for inner in value]
    return value


def decode(value: Any, kind: type[T], where: str, *, complete: bool = False) -> T:
    """Return parsed JSON as the dataclass that it was made of.

    Args:
        value: The JSON.
        kind: The dataclass.
        where: What messages call the place.
        complete: Whether fields with a default must be there as well.

    Raises:
        FormatError: Naming the place, what was expected and what found.
    """
    return _decoded(value, kind, where, complete)


def _decoded(value: Any, kind: Any, where: str, complete: bool) -> Any:
    if kind is Any:
        return value
    if hasattr(kind, "parse"):
        return _parsed(value, kind, where)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(value, kind, where, complete)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        present = [option for option in inner if option is not type(None)]
        missing = value is None and len(present) < len(inner)
        return None if missing else _decoded(value, present[0], where, complete)
    if origin is tuple:
        return _items(value, inner, where, complete)
    if origin is Mapping:
        fields = _expect(value, dict, where)
        return {name: _decoded(item, inner[1], f"{where}.{name}", complete) for name, item in fields.items()}
    if kind is float:
        return float(_expect(value, (int, float), where))
    return _expect(value, kind, where)


def _parsed(value: Any, kind: Any, where: str) -> Any:
    try:
        return kind.parse(_expect(value, str, where))
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from error


def _record(value: Any, kind: Any, where: str, complete: bool) -> Any:
    found, hints = _expect(value, dict, where), get_type_hints(kind)
    _check_fields(found, kind, where, complete)
    try:
        return kind(**{name: _decoded(item, hints[name], f"{where}.{name}", complete) for name, item in found.items()})
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from error


def _check_fields(found: Mapping[str, Any], kind: Any, where: str, complete: bool) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if complete and (odd := sorted(set(found) ^ set(fields))):
        raise FormatError(f"{where}: expected the fields {', '.join(fields)}; lacking or unknown: {', '.join(odd)}")
    for name in found:
        if name not in fields:
            raise FormatError(f"{where}: unknown field {name!r}{did_you_mean(name, fields)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in found and not optional:
            raise FormatError(f"{where}: field {name!r} is missing")


def _items(value: Any, inner: tuple[Any, ...], where: str, complete: bool) -> tuple[Any, ...]:
    items = _expect(value, list, where)
    kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else inner
    if len(items) != len(kinds):
        raise FormatError(f"{where}: expected {len(kinds)} items, found {len(items)}")
    pairs = enumerate(zip(items, kinds, strict=True))
    return tuple(_decoded(item, kind, f"{where}[{i}]", complete) for i, (item, kind) in pairs)


def _expect(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise FormatError(f"{where}: expected {wanted}, found {type(value).__name__}")
    return value
