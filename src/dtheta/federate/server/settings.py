"""Settings of the server's parts: frozen dataclasses whose fields are the configuration."""

from __future__ import annotations

import dataclasses
from typing import Any

from dtheta.adapt.fields import settle_fields
from dtheta.errors import ConfigError


class Settings:
    """A part of the server; subclasses are frozen dataclasses, whose fields are checked against their types."""

    def __post_init__(self) -> None:
        settle_fields(self)

    def to_dict(self) -> dict[str, Any]:
        """Return name and fields."""
        return described(self)

    def require(self, fits: bool, name: str, wanted: str) -> None:
        """Raise unless a field fits.

        Raises:
            ConfigError: Naming the field and what it should be.
        """
        if not fits:
            raise ConfigError(f"{type(self).__name__}: {name} must be {wanted}, found {getattr(self, name)!r}")


def described(value: Any) -> dict[str, Any]:
    """Return a dataclass by name and fields, those that are dataclasses too among them."""
    found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    nested = {n: described(v) if dataclasses.is_dataclass(v) else v for n, v in found.items()}
    return {"name": type(value).__name__, **nested}
