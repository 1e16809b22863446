"""Analyses, truth and climate of ``dtheta ensemble`` from files: zarr or NetCDF with named variables and times.

Nothing is interpolated, converted or filled. The times that a run needs must be there, without gaps.

Shape legend: N times, C channels, H latitudes, W longitudes, ... cells of any other kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dtheta.cli.places import require_input
from dtheta.errors import ConfigError, FormatError, MissingExtra, NonFinite, did_you_mean

if TYPE_CHECKING:
    from dtheta.core.sphere import Grid
    from dtheta.ensemble.labeled import Coordinates, Fields
    from dtheta.ensemble.latlon import LatLon
    from dtheta.ensemble.layout import Field


@dataclass(frozen=True, eq=False)
class States:
    """States in a file.

    Attributes:
        path: the file or folder.
        option: by which it was given, for messages.
        data: what it holds.
        channels: names of the variables, in order.
    """

    path: Path
    option: str
    data: Fields
    channels: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a state, (C, ...)."""
        return len(self.channels), *self.data.shape

    @property
    def size(self) -> int:
        """Values of a state."""
        return math.prod(self.shape)

    @cached_property
    def times(self) -> np.ndarray:
        """(N,), ascending."""
        times = np.asarray(self.data.labels("time"))
        if not np.issubdtype(times.dtype, np.datetime64):
            raise ConfigError(f"{self.path}: the times are {times.dtype}; expected dates")
        times = times.astype("datetime64[s]")
        if len(times) == 0 or bool((np.diff(times) <= np.timedelta64(0, "s")).any()):
            raise ConfigError(f"{self.path}: expected times that rise, each once; sort by time and drop what is twice")
        return times

    @property
    def fields(self) -> list[Field]:
        """The channels."""
        from dtheta.ensemble.layout import Field

        variables, units = self.data.variables, self.data.units
        found = []
        for name in self.channels:
            attributes = variables[name].attrs
            said = {key: str(attributes.get(key, "")) for key in ("standard_name", "long_name")}
            found.append(Field(name, units.get(name, "1"), **said))
        return found

    @property
    def coordinates(self) -> Coordinates | None:
        """Latitudes and longitudes, where these are the cells."""
        return self.data.coordinates

    @cached_property
    def grid(self) -> Grid | LatLon | None:
        """Where the cells lie; None where they are no latitudes and longitudes."""
        from dtheta.ensemble.latlon import grid_of

        found = self.coordinates
        return None if found is None else grid_of(found.latitudes, found.longitudes)

    def index(self, time: np.datetime64, why: str) -> int:
        """Return where a time is.

        Raises:
            ConfigError: if it is not there, naming the nearest that are.
        """
        place = int(np.searchsorted(self.times, time))
        if place < len(self.times) and self.times[place] == time:
            return place
        near = ", ".join(str(one) for one in self.times[max(0, place - 1) : place + 1])
        raise ConfigError(f"{self.option} {self.path} has no {time}, {why}; nearest: {near}")

    def at(self, times: Sequence[np.datetime64], why: str) -> Tensor:
        """Return the states (len(times), C, ...) at some times, in float32.

        Raises:
            ConfigError: if a time is not there.
            NonFinite: for a gap, naming channel, time and cell.
        """
        indices = [self.index(time, why) for time in times]
        values = np.stack([self._read(name, indices) for name in self.channels], 1)
        return torch.from_numpy(values)

    def blocks(self, nbytes: int) -> Iterator[Tensor]:
        """Yield all times of some rows of a channel (N, n), rows in order, channel by channel.

        Args:
            nbytes: that reading a block takes at most, if not one row takes more.

        Raises:
            NonFinite: for a gap, naming channel, time and cell.
        """
        rows = max(1, nbytes // self.bytes_of_rows(1))
        for name in self.channels:
            for first in range(0, self.shape[1], rows):
                yield torch.from_numpy(self._read(name, slice(None), slice(first, first + rows))).flatten(1)

    def bytes_of_rows(self, rows: int) -> int:
        """Return the bytes that it takes to read all times of some rows, the first axis of cells, of a channel."""
        widest = max(self.data.variables[name].dtype.itemsize for name in self.channels)
        return len(self.times) * rows * math.prod(self.shape[2:]) * (widest + 4 + 1)  # as it is, in float32, gaps

    def _read(self, name: str, times: list[int] | slice, rows: slice = slice(None)) -> np.ndarray:
        array = self.data.variables[name].transpose(self.data.dims["time"], *self.data.cells)
        try:
            chosen = array.isel({self.data.dims["time"]: times, self.data.cells[0]: rows})
            values = np.asarray(chosen.values, dtype=np.float32)
        except (OSError, ValueError, RuntimeError) as error:
            raise FormatError(f"{self.path}: cannot read {name}: {error}") from error
        gaps = ~np.isfinite(values)
        if gaps.any():
            first = np.argwhere(gaps)[0] + [0, rows.start or 0, *[0] * (gaps.ndim - 2)]
            cell = ", ".join(
                f"{dim} {_label(array, dim, index)}" for dim, index in zip(self.data.cells, first[1:], strict=True)
            )
            raise NonFinite(
                f"{self.option} {self.path}: {name} has {int(gaps.sum()):,} gaps (NaN or infinity), the first at "
                f"{self.times[times][int(first[0])]}, {cell}; fill them first"
            )
        return values


def _label(array: Any, dim: str, index: int) -> str:
    if dim not in array.coords:
        return str(index)
    value = array[dim].values[index]
    return f"{value:g}" if np.issubdtype(value.dtype, np.number) else str(value)  # else a station's name, or a date


def read_states(
    path: Path, option: str, channels: Sequence[str] | None, units: Mapping[str, str] | None = None
) -> States:
    """Return the states in a zarr folder or a NetCDF file.

    Args:
        path: where.
        option: by which it was given, for messages.
        channels: names of the variables, in order; None for all that have times and cells.
        units: that channels must have.

    Raises:
        ConfigError: if nothing is there, or a channel, the times or the expected units are not, or cells are no maps.
        FormatError: if it cannot be read.
        MissingExtra: where xarray, or what reads such a file, is not installed.
    """
    from dtheta.ensemble import labeled
    from dtheta.score.ensemble.units import require_same_units

    data = _opened(require_input(path))
    if channels is not None and set(channels) <= set(map(str, data.data_vars)):
        data = data[list(dict.fromkeys(channels))]  # others may lie on other cells
    fields = labeled.fields_of(data, ("time",), ("channel",), f"{option} {path}")
    there = fields.variables
    timed = tuple(name for name, array in there.items() if fields.dims["time"] in array.dims)
    wanted = timed if channels is None else tuple(channels)
    for name in wanted:
        if name not in timed:
            raise ConfigError(
                f"{option} {path} has no channel {name!r}; it has {', '.join(timed) or 'none'}"
                + did_you_mean(name, timed)
            )
    expected = {name: unit for name, unit in (units or {}).items() if name in wanted}
    for name, unit in expected.items():
        if name not in fields.units:
            raise ConfigError(f"{option} {path}: {name} tells no unit, expected {unit}; give it its attribute 'units'")
    require_same_units(fields.units, expected, f"{option} {path}", "what it goes with")
    _require_maps(fields, f"{option} {path}")
    return States(path, option, fields, wanted)


def _require_maps(fields: Fields, where: str) -> None:
    """Raise where cells have latitudes and are no maps: their areas would be lost on the way to the scores.

    Raises:
        ConfigError: naming the dimensions; or for latitudes and longitudes that no grid has.
    """
    if fields.coordinates is None and fields.weights is not None:
        raise ConfigError(
            f"{where}: variables have the dimensions {', '.join(fields.cells)}; expected latitude and longitude alone. "
            "Make a variable of each level, as z500 and z850"
        )


def _opened(path: Path) -> Any:
    try:
        import xarray
    except ImportError as error:
        raise MissingExtra("files of states need xarray and zarr: pip install 'dtheta[weather]'") from error
    try:
        if path.is_dir():
            return xarray.open_zarr(path, consolidated=None, decode_timedelta=False, chunks=None)
        return xarray.open_dataset(path, decode_timedelta=False)
    except ImportError as error:
        raise MissingExtra(f"{path}: {error}") from error
    except Exception as error:  # every engine has errors of its own
        said = " ".join(str(error).split())
        if "engine" in said or "backend" in said:
            raise MissingExtra(
                f"{path}: nothing that is installed reads it ({said:.200}); for NetCDF 4: pip install h5netcdf, or "
                "give a zarr folder"
            ) from error
        raise FormatError(f"{path} is no zarr folder and no NetCDF file: {said:.300}") from error
