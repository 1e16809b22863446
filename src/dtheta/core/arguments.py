"""Arguments of public functions: deltas and numbers, checked before anything is computed with them."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.core.delta import Delta, refuse_gradient
from dtheta.errors import ConfigError, NonFinite


def one_delta(value: Any) -> Delta:
    """Return a delta.

    Raises:
        ConfigError: If it is something else.
    """
    if not isinstance(value, Delta):
        raise ConfigError(f"a {type(value).__name__} was given; expected one delta, as dt.load(path) returns")
    return value


def listed(deltas: Delta | Sequence[Delta]) -> list[Delta]:
    """Return one or several deltas as a list.

    Raises:
        ConfigError: If there are none, or something else is among them.
    """
    if not isinstance(deltas, Delta) and (isinstance(deltas, str) or not hasattr(deltas, "__iter__")):
        raise ConfigError(f"{deltas!r} is no delta; expected deltas, as dt.load(path) returns")
    found = [deltas] if isinstance(deltas, Delta) else list(deltas)
    if not found:
        raise ConfigError("no deltas were given; it takes at least one delta")
    for i, one in enumerate(found):
        if not isinstance(one, Delta):
            raise ConfigError(f"item {i} is a {type(one).__name__}; expected deltas, as dt.load(path) returns")
    return found


def require_flag(value: Any, name: str, hint: str = "") -> None:
    """Raise unless a value is True or False: any other text or number would count as one of them without a word.

    Raises:
        ConfigError: Naming the argument, with a hint behind.
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} is {value!r}; expected True or False{hint}")


def is_number(value: Any) -> bool:
    """Tell whether something is one real number: Python's, NumPy's, or a tensor of one element."""
    if isinstance(value, bool):
        return False
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool
    return isinstance(value, numbers.Real)


def number(value: Any, what: str) -> float:
    """Return a finite number.

    Raises:
        ConfigError: If it is none.
        NonFinite: If it is NaN or infinite.
    """
    if isinstance(value, str):  # which float would read
        raise ConfigError(f"{what} is {value!r}; expected a number")
    try:
        found = float(value.detach() if isinstance(value, Tensor) else value)
    except OverflowError:  # a whole number that no float holds
        found = math.inf
    except (TypeError, ValueError, RuntimeError):  # a tensor of several numbers
        raise ConfigError(f"{what} is {value!r}; expected a number") from None
    if not math.isfinite(found):
        raise NonFinite(f"{what} is {found}; expected a finite number")
    return found


def coefficient(value: Any, what: str) -> float:
    """Return a finite number by which deltas count.

    Raises:
        ConfigError: If it is none, or a tensor that wants a gradient: no delta hands one on.
        NonFinite: If it is NaN or infinite.
    """
    refuse_gradient(value, what)
    return number(value, what)


def positive(value: Any, what: str) -> float:
    """Return a positive finite number.

    Raises:
        ConfigError: If it is none, or not positive.
        NonFinite: If it is NaN or infinite.
    """
    found = number(value, what)
    if found <= 0:
        raise ConfigError(f"{what} must be positive, got {value!r}")
    return found


def require_rank_or_energy(value: Any) -> None:
    """Raise unless a value says how much of a matrix to keep: a rank, or as a float the share of its energy.

    Raises:
        ConfigError: If it is neither a positive integer nor a float in (0, 1).
    """
    rank = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not rank and not (isinstance(value, float) and 0 < value < 1):
        raise ConfigError(f"rank must be a positive integer, or a share of the energy in (0, 1); found {value!r}")


def require_like(value: Any, like: Tensor, what: str) -> None:
    """Raise unless a tensor has the dtype of another one, and lies where that does: products of the two need it.

    Raises:
        ConfigError: Naming both.
    """
    if not isinstance(value, Tensor):
        raise ConfigError(f"{what} is a {type(value).__name__}; expected a tensor of {like.dtype}")
    if value.dtype != like.dtype or value.device != like.device:
        raise ConfigError(
            f"{what} is {value.dtype} on {value.device}, and the weights are {like.dtype} on {like.device}; bring one "
            "to the other: x.to(weight), or network.to(x)"
        )


def whole(value: Any, what: str, least: int | None = None) -> int:
    """Return a whole number, of any type that counts (NumPy's too).

    Raises:
        ConfigError: If it is none, or below ``least``.
    """
    wanted = "a whole number" + (f", {least} or more" if least is not None else "")
    try:
        found = operator.index(value)
    except TypeError:
        raise ConfigError(f"{what} is {value!r}; expected {wanted}") from None
    if isinstance(value, bool) or (least is not None and found < least):
        raise ConfigError(f"{what} is {value!r}; expected {wanted}")
    return found
