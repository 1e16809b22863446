"""Which variables of a data set are fields: those with the dimensions that are needed, all on the same cells.

Beside fields, files hold masks, orography, and bounds of times and cells (``time_bnds``): none of these is a field.
Fields on other cells than the others, as at the ground and on levels, cannot be counted together: they are refused, and
not left out.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dtheta.errors import ConfigError


def chosen(
    data: Any, needed: Sequence[Collection[str]], dims: Collection[str], what: str, channels: Sequence[str] | None
) -> Any:
    """Return a data set with its fields alone; an array, or a data set without fields, as it is.

    Args:
        data: a data set or array of xarray.
        needed: for each dimension that fields must have, the names that it may have.
        dims: names of all dimensions that are no cells.
        what: for errors.
        channels: the variables that are meant; None for all.

    Raises:
        ConfigError: if fields lie on different cells.
    """
    if not hasattr(data, "data_vars"):
        return data
    bounds = {str(data[name].attrs.get("bounds") or data[name].encoding.get("bounds")) for name in data.variables}
    cells = {str(name): set(map(str, data[name].dims)) - set(dims) for name in data.data_vars if name not in bounds}
    having = {
        name: on for name, on in cells.items() if on and all(set(data[name].dims) & set(names) for names in needed)
    }
    if channels is not None and set(channels) <= set(having):
        having = {name: having[name] for name in channels}
    first = next(iter(having), "")
    for name, on in having.items():
        if on != having[first]:
            raise ConfigError(
                f"{what}: {first} lies on the cells {_words(having[first])}, and {name} on {_words(on)}; give those of "
                f"one kind, as by data[[{first!r}]] or their names as channels"
            )
    return data[list(having)] if having else data


def single(data: Any, stacked: Sequence[str], what: str) -> Any:
    """Return the only variable of a data set whose channels are a dimension; other data as it is.

    Args:
        data: a data set or array.
        stacked: the names that a dimension of channels may have.
        what: for errors.

    Raises:
        ConfigError: if there are several, so that nobody knows which are the channels.
    """
    there = [name for name in stacked if name in data.dims] if hasattr(data, "data_vars") else []
    names = [str(name) for name in data.data_vars] if there else []
    if len(names) > 1:
        raise ConfigError(
            f"{what}: {there[0]!r} is a dimension of channels, and {', '.join(names)} are variables; give one of them "
            "alone, as by data['x'], or one variable a channel"
        )
    return data[names[0]] if names else data


def _words(dims: Collection[str]) -> str:
    return ", ".join(sorted(dims))
