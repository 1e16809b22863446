"""Fields: settings checked against their declared types, and made the plain numbers that a file can hold.

A numpy integer is a whole number and becomes ``int``, a numpy float a number and becomes ``float``. Text is no number,
and neither is a truth value, although Python counts with it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from dtheta.errors import ConfigError


def settle_fields(settings: Any) -> None:
    """Check every field of a frozen dataclass, and put plain values in the place of numpy's.

    Raises:
        ConfigError: For a value of another type, naming the class, the field, and both.
    """
    cls = type(settings)
    for name, hint in _declared(cls).items():
        value = getattr(settings, name)
        found = plain(value, hint, f"{cls.__name__}: {name}")
        if found is not value:
            object.__setattr__(settings, name, found)


def plain(value: Any, hint: Any, what: str) -> Any:
    """Return a value as a plain one of a type.

    Args:
        value: Anything.
        hint: A class, a union, a ``Literal`` or a ``tuple[...]``; a value is taken as it is for other hints.
        what: How to call the value in an error.

    Raises:
        ConfigError: If it is of another type.
    """
    try:
        return _plain(value, hint)
    except TypeError:
        raise ConfigError(f"{what} must be {spelled(hint)}, found {value!r}") from None


def finite_number(value: Any, what: str) -> float:
    """Return a finite number as a float.

    Raises:
        ConfigError: For anything else.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ConfigError(f"{what} must be a finite number, found {value!r}")
    return float(value)


def spelled(hint: Any) -> str:
    """Return how a type is written."""
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


@functools.cache
def _declared(cls: type) -> Mapping[str, Any]:
    """Return the declared types of a dataclass's fields."""
    try:
        hints = get_type_hints(cls)
    except NameError as error:
        raise ConfigError(f"{cls.__name__}: {error}, which a field has as its type; import it for run time") from error
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _plain(value: Any, hint: Any) -> Any:
    """Return a value as one of a type, or raise TypeError."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return _first(value, options)
    if origin is tuple:
        return _row(value, options)
    if origin is Literal:
        return value if any(type(value) is type(option) and value == option for option in options) else _refuse()
    if hint in (int, float) and isinstance(value, bool):
        return _refuse()
    if hint is int:
        return int(value) if isinstance(value, Integral) else _refuse()
    if hint is float:
        kept = type(value) in (int, float)
        return value if kept else float(value) if isinstance(value, Real) else _refuse()
    return value if not isinstance(hint, type) or isinstance(value, hint) else _refuse()


def _refuse() -> NoReturn:
    raise TypeError


def _first(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        try:
            return _plain(value, option)
        except TypeError:
            continue
    return _refuse()


def _row(value: Any, options: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a tuple of a declared kind; JSON has lists in their place."""
    if not isinstance(value, (tuple, list)):
        _refuse()
    kinds = options[:1] * len(value) if options[1:] == (...,) else options
    if len(kinds) != len(value):
        _refuse()
    return tuple(_plain(item, kind) for item, kind in zip(value, kinds, strict=True))
