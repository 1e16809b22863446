"""Layout: which variables and coordinates a state becomes in an archive, with the names of the CF conventions.

    state (C, H, W), fields of C names, a grid   ->  one variable a channel on (latitude, longitude)
    state (...), no fields                        ->  one variable "state" on all its axes

Names, units and standard names: CF conventions, cfconventions.org; axes of an ensemble are "realization" and
"forecast_period".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dtheta.core.sphere import Grid
from dtheta.errors import ConfigError, ShapeMismatch

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
REALIZATION, PERIOD = "realization", "forecast_period"
RESERVED = ("realization", "forecast_period", "forecast_reference_time", "time", "latitude", "longitude", "progress")


@dataclass(frozen=True)
class Field:
    """One channel of a state.

    Attributes:
        name: of the variable: letters, digits and underscores.
        units: as UDUNITS reads them; "1" for a pure number, empty where nobody tells.
        standard_name: of the CF table, such as "geopotential_height"; empty for none.
        long_name: for people.
    """

    name: str
    units: str = "1"
    standard_name: str = ""
    long_name: str = ""

    def __post_init__(self) -> None:
        """Raise ConfigError for a name that no variable can have."""
        if not _NAME.fullmatch(self.name) or self.name in RESERVED or self.name.startswith("member_"):
            raise ConfigError(
                f"a field is called {self.name!r}; expected letters, digits and underscores, and none of "
                f"{', '.join(RESERVED)}"
            )

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of its variable."""
        named = {"standard_name": self.standard_name, "long_name": self.long_name, "units": self.units}
        return {key: value for key, value in named.items() if value}


@dataclass(frozen=True, eq=False)
class Layout:
    """Variables and axes of a state.

    Attributes:
        shape: of a state.
        fields: one a channel, or a single one for the whole state.
        channels: whether the first axis of a state is that of the fields.
        axes: names of the axes of a variable.
        coordinates: values and attributes of the axes that have some.
    """

    shape: tuple[int, ...]
    fields: tuple[Field, ...]
    channels: bool
    axes: tuple[str, ...]
    coordinates: dict[str, tuple[np.ndarray, dict[str, str]]] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape of a variable of one member at one lead."""
        return self.shape[1:] if self.channels else self.shape

    def to_dict(self) -> dict[str, Any]:
        """Return the names and units, and which axes there are."""
        return {
            "shape": list(self.shape),
            "fields": [[one.name, one.units, one.standard_name, one.long_name] for one in self.fields],
            "channels": self.channels,
            "axes": list(self.axes),
        }


def layout(shape: Sequence[int], fields: Sequence[Field | str] | None = None, grid: Grid | None = None) -> Layout:
    """Return the layout of states of a shape.

    Args:
        shape: of a state.
        fields: one for each channel, the first axis; a name stands for a field without units. None for one variable.
        grid: of the last two axes; None where a state is on none.

    Raises:
        ConfigError: for two fields of one name.
        ShapeMismatch: for another number of fields than channels, or a grid that does not fit.
    """
    shape = tuple(shape)
    named = [Field(one, "") if isinstance(one, str) else one for one in fields or [Field("state")]]
    if len({one.name for one in named}) != len(named):
        raise ConfigError(f"two fields have one name: {', '.join(one.name for one in named)}")
    if fields is not None and (not shape or shape[0] != len(named)):
        raise ShapeMismatch(f"{len(named)} fields, and a state {shape}; expected one for each of the first axis")
    if grid is not None and shape[-2:] != grid.shape:
        raise ShapeMismatch(f"a state is {shape}; expected (..., {grid.nlat}, {grid.nlon}), as the grid")
    sizes = shape[1:] if fields is not None else shape
    axes = [f"axis_{i}" for i in range(len(sizes))]
    coordinates: dict[str, tuple[np.ndarray, dict[str, str]]] = {}
    if grid is not None:
        if len(sizes) < 2:
            raise ShapeMismatch(f"a field has the shape {sizes}; expected latitudes and longitudes as its last axes")
        axes[-2:] = "latitude", "longitude"
        for name, values, units in (
            ("latitude", grid.latitudes, "degrees_north"), ("longitude", grid.longitudes, "degrees_east"),
        ):  # fmt: skip
            coordinates[name] = (np.array(values), {"standard_name": name, "units": units})
    return Layout(shape, tuple(named), fields is not None, tuple(axes), coordinates)
