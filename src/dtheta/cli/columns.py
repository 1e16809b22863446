"""Columns: whether a table has those that the options of a command name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dtheta.errors import ConfigError, did_you_mean

_SHOWN = 8  # columns named in a message


def require_columns(path: Path, there: Sequence[str], wanted: Mapping[str, str | None]) -> None:
    """Raise unless a table has the columns that some options name.

    Args:
        path: The table.
        there: Its columns.
        wanted: Column by option; None where the option is not given.

    Raises:
        ConfigError: Naming the option and the columns that there are.
    """
    for option, column in wanted.items():
        if column is not None and column not in there:
            shown = ", ".join(there[:_SHOWN]) + (", ..." if len(there) > _SHOWN else "")
            raise ConfigError(
                f"{option}: {path.name} has no column {column!r}; there are: {shown}{did_you_mean(column, there)}"
            )
