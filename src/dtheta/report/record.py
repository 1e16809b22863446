"""Frozen dataclasses to JSON files and back, checked: every field known, present and of its declared type.

Covers what the records of this package use: dataclasses, tuples, mappings, optional values, numbers and text.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dtheta.core.output import write_file
from dtheta.errors import ConfigError, FormatError, did_you_mean

T = TypeVar("T")


def write_record(record: Any, path: str | os.PathLike[str]) -> Path:
    """Write a dataclass as JSON, completely or not at all, and return the path. Raises `OutputError`."""
    with write_file(path) as stream:
        stream.write((json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False) + "\n").encode())
    return Path(path)


def read_record(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Read what `write_record` wrote. Raises `FormatError` where the file is not that."""
    return decode(read_json(path), kind, str(path))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the JSON in a file. Raises `FormatError` where there is none."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not a readable JSON file of results ({error})") from error


def decode(value: Any, kind: type[T], where: str) -> T:
    """``value`` (parsed JSON) as ``kind``. Raises `FormatError` naming the place, what was expected and what found."""
    return _decode(value, kind, where)


def _decode(value: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(value, kind, where)
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        present = [option for option in inner if option is not type(None)]
        return None if value is None and len(present) < len(inner) else _decode(value, present[0], where)
    if origin is tuple:
        return _items(value, inner, where)
    if origin is Mapping:
        fields = _expect(value, dict, where)
        return {name: _decode(item, inner[1], f"{where}.{name}") for name, item in fields.items()}
    if kind is float:
        return float(_expect(value, (int, float), where))
    return _expect(value, kind, where)


def _record(value: Any, kind: type, where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found, hints = _expect(value, dict, where), get_type_hints(kind)
    for name in found:
        if name not in fields:
            raise FormatError(f"{where}: unknown field {name!r}{did_you_mean(name, fields)}")
    for name, field in fields.items():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in found and not optional:
            raise FormatError(f"{where}: field {name!r} is missing")
    try:
        return kind(**{name: _decode(item, hints[name], f"{where}.{name}") for name, item in found.items()})
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from error


def _items(value: Any, inner: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    items = _expect(value, list, where)
    kinds = [inner[0]] * len(items) if inner[-1] is Ellipsis else inner
    if len(items) != len(kinds):
        raise FormatError(f"{where}: expected {len(kinds)} items, found {len(items)}")
    return tuple(_decode(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(items, kinds, strict=True)))


def _expect(value: Any, kind: Any, where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise FormatError(f"{where}: expected {wanted}, found {type(value).__name__}")
    return value
