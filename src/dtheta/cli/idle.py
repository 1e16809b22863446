"""Idle options: what would do nothing in the way a command is called is refused, and never ignored."""

from __future__ import annotations

from collections.abc import Iterable

from dtheta.cli.options import CommonOptions, fields_of
from dtheta.errors import ConfigError


def refuse_idle(options: CommonOptions, names: Iterable[str], why: str) -> None:
    """Raise if one of some options, which would do nothing here, is not as it is by default.

    Args:
        options: Of the verb.
        names: The fields that nothing here looks at.
        why: What follows the option in the message: where it has a meaning, or why it has none, and what to do.

    Raises:
        ConfigError: Naming the first of them.
    """
    fields = fields_of(type(options))
    for name in names:
        if (value := getattr(options, name)) != fields[name].default:
            raise ConfigError(f"{fields[name].flag(value)} {why}")
