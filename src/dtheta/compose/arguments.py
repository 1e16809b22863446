"""Arguments of merges: the deltas, one number for each, options. They are checked before an entry is looked at."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Any

from dtheta.core.arguments import coefficient, listed
from dtheta.core.delta import Delta, total
from dtheta.core.fingerprint import Fingerprint
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer


def checked(deltas: Delta | Sequence[Delta]) -> tuple[list[Delta], Fingerprint]:
    """Return deltas whose entries can be merged one by one as a list, and their joint base.

    Raises:
        ConfigError: If there are none, or nothing is changed by any.
        UnsupportedLayer: If one brings a new vector.
        BaseMismatch, ShapeMismatch: If they do not fit together.
    """
    found = listed(deltas)
    for i, delta in enumerate(found):
        if new := next(iter(delta.new), None):
            raise UnsupportedLayer(
                f"delta {i}: {new!r} is a new vector, which the base does not have: its entries are no displacements "
                "that could be trimmed or drawn; leave it out by delta.restrict(...), or use compose, which sums it"
            )
    base = total(found).base
    if not any(map(len, found)):
        raise ConfigError(f"none of the {len(found)} deltas changes a parameter, so there is nothing to merge")
    return found, base


def all_finite(deltas: Sequence[Delta]) -> None:
    """Check that all that changes hold is finite, for merges that only take sums and would carry it along.

    Raises:
        NonFinite: If something is NaN or infinite.
    """
    for i, delta in enumerate(deltas):
        for name, change in delta.changes.items():
            if not change.is_finite():
                raise NonFinite(f"delta {i}, {name}: NaN or infinity is in the change")


def each(value: Any, count: int, what: str) -> list[float]:
    """Return one finite number for each delta, from one for all or a sequence.

    Raises:
        ConfigError: If there are too few or too many, or one is no number.
        NonFinite: If one is NaN or infinite.
    """
    if isinstance(value, numbers.Real) or getattr(value, "ndim", None) == 0:
        return [coefficient(value, f"one of the {what}")] * count
    if isinstance(value, (str, Mapping, Set)) or not hasattr(value, "__len__"):  # sets have no order
        raise ConfigError(f"the {what} are {value!r}; expected a number, or one for each delta")
    if len(value) != count:
        raise ConfigError(f"{len(value)} {what} were given for {count} deltas; expected one for each")
    return [coefficient(one, f"one of the {what}") for one in value]


def weights_of(weights: Any, count: int) -> list[float]:
    """Return one weight for each delta; ones by default."""
    return [1.0] * count if weights is None else each(weights, count, "weights")


def choose(value: Any, known: Sequence[Any], what: str) -> None:
    """Check that an option is a known one.

    Raises:
        ConfigError: If not.
    """
    if value not in known:
        raise ConfigError(f"{what}={value!r} is not known; expected one of {', '.join(map(repr, known))}")
