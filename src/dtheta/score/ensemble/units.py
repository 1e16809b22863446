"""Units of what is brought together: compared where both sides tell them, never converted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dtheta.errors import ConfigError


def units_of(values: Any, channels: Iterable[str]) -> dict[str, str]:
    """Return the unit that an array tells itself, as those of xarray and zarr do by ``attrs``, for each channel."""
    attributes = getattr(values, "attrs", None)
    unit = attributes.get("units") if isinstance(attributes, Mapping) else None
    return {} if unit is None else dict.fromkeys(channels, str(unit))


def require_same_units(ours: Mapping[str, str], theirs: Mapping[str, str], we: str, they: str) -> None:
    """Raise where a channel has one unit here and another there; where one of the two is not known, all is well.

    Args:
        ours: By channel.
        theirs: Likewise.
        we: What has the units of ``ours``, such as "the forecast".
        they: What has the others, such as "the truth".

    Raises:
        ConfigError: Naming the first such channel, and both units.
    """
    for channel, unit in ours.items():
        if theirs.get(channel, unit) != unit:
            raise ConfigError(
                f"channel {channel!r}: {we} is in {unit}, {they} in {theirs[channel]}; convert one of them"
            )
