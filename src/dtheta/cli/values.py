"""Values: one reading of a value by the type of its field, whether it came as a flag, from YAML or by ``--set``.

YAML 1.1 reads ``1e-4`` as text, a flag is always text, and a number may be meant as a name: the field's type decides.
"""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, did_you_mean

_NONE = ("none", "null", "")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_value(value: Any, kind: Any, where: str) -> Any:
    """Return ``value`` as the type ``kind``.

    Args:
        value: Text, or what YAML made of it.
        kind: A type: str, int, float, bool, Path, a Literal, ``tuple[X, ...]``, or a union of these with None.
        where: Name of the option or field, for the message.

    Raises:
        ConfigError: If it cannot be meant.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(value, inner, where)
    if origin is tuple:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(read_value(item, inner[0], where) for item in items)
    if origin is Literal:
        if str(value) not in inner:
            near = did_you_mean(str(value), inner)
            raise ConfigError(f"{where} must be one of {', '.join(inner)}, found {value!r}{near}")
        return str(value)
    return _READERS[kind](value, where)


def _read_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    present = [kind for kind in kinds if kind is not type(None)]
    if len(present) < len(kinds) and (value is None or str(value).lower() in _NONE):
        return None
    for kind in present[:-1]:
        try:
            found = read_value(value, kind, where)
        except ConfigError:
            continue  # int | float: 0.9 is no integer, so it is read as the next kind
        if not (kind is int and float in present and _is_share(value)):
            return found
    return read_value(value, present[-1], where)


def _is_share(value: Any) -> bool:
    """Tell whether a number is written with a point: where a rank or a share may stand, 1.0 is all and not rank 1."""
    return isinstance(value, float) or (isinstance(value, str) and "." in value)


def _read_float(value: Any, where: str) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{where} must be a number, found {value!r}")
    return number


def _read_int(value: Any, where: str) -> int:
    number = None if isinstance(value, bool) else value
    if isinstance(number, str):
        try:
            number = int(number)
        except ValueError:
            number = _read_float(number, where)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if not isinstance(number, int):
        raise ConfigError(f"{where} must be a whole number, found {value!r}")
    return number


def _read_bool(value: Any, where: str) -> bool:
    if isinstance(value, bool):
        return value
    if str(value).lower() not in _TRUTH:
        raise ConfigError(f"{where} must be true or false, found {value!r}")
    return _TRUTH[str(value).lower()]


def _read_str(value: Any, where: str) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ConfigError(f"{where} must be text, found {value!r}")
    return str(value)


def _read_path(value: Any, where: str) -> Path:
    text = _read_str(value, where)
    if not text or "\0" in text:
        raise ConfigError(f"{where} must be a path, found {value!r}")
    try:
        return expanded(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


_READERS = {float: _read_float, int: _read_int, bool: _read_bool, str: _read_str, Path: _read_path}


def kind_name(kind: Any) -> str:
    """Return how a help text calls a type: N, X, PATH, TEXT, or the choices."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return "|".join(kind_name(k) for k in inner if k is not type(None))
    if origin is Literal:
        return "|".join(inner)
    if origin is tuple:
        return kind_name(inner[0])
    return {float: "X", int: "N", str: "TEXT", Path: "PATH", bool: ""}[kind]
