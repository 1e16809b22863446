"""Named: what a configuration file writes as a name, or as a table of a name and fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from dtheta.errors import ConfigError, did_you_mean

T = TypeVar("T")


def table_of(value: Any, what: str) -> dict[str, Any]:
    """Return a name, or a table with a name, as a table of one's own.

    Raises:
        ConfigError: If it is neither.
    """
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(f"{value!r:.80} is no {what}; expected its name, or a table with its name and fields")
    return dict(value)


def built(table: Mapping[str, Any], known: Mapping[str, type[T]], what: str) -> T:
    """Return the dataclass that a table names, with the fields that it gives.

    Args:
        table: With a "name", as ``table_of`` returns it.
        known: Dataclasses by name.
        what: What they are, for messages.

    Raises:
        ConfigError: For an unknown name or field, one that is missing, or a value of another type.
    """
    name, given = table["name"], {key: value for key, value in table.items() if key != "name"}
    if name not in known:
        raise ConfigError(f"no {what} is called {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
    fields = {field.name: field for field in dataclasses.fields(known[name])}  # type: ignore[arg-type]  # as said above
    for key in given:
        if key not in fields:
            has = f"it has {', '.join(fields)}" if fields else "it has none"
            raise ConfigError(f"the {what} {name!r} has no field {key!r}{did_you_mean(str(key), fields)}; {has}")
    for field in fields.values():
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in given and not optional:
            raise ConfigError(f"the {what} {name!r} needs {field.name!r}")
    return known[name](**given)
