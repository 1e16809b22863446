"""Labeled arrays, as xarray has them: their dimensions by the names in use, their labels, and whether two line up.

    forecast   Dataset of variables, or a DataArray, with start, lead, member (, channel), and cells
    truth      the same with time (of validity) in the place of start, lead and member

A dimension may have any of the names in ``NAMES``; start and channel may be missing, and a start may be a single
coordinate. Cells are latitude and longitude, or whatever dimensions are left. The field that belongs to a forecast is
the one at start + lead. What does not line up is refused: nothing is interpolated, no nearest time is taken, no units
are converted.

Shape legend: M members, C channels, H latitudes, W longitudes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dtheta.ensemble.coordinates import (
    LATITUDE,
    LONGITUDE,
    Coordinates,
    areas_of_rows,
    check_latitudes,
    checked_coordinates,
    common,
    degrees_along,
    require_same_labels,
)
from dtheta.ensemble.variables import chosen, single
from dtheta.errors import ConfigError, ShapeMismatch, did_you_mean
from dtheta.score.ensemble.units import require_same_units

NAMES = {
    "start": ("start", "init_time", "forecast_reference_time", "initial_time", "time"),
    "lead": ("lead", "lead_time", "step", "prediction_timedelta", "forecast_period"),
    "member": ("member", "realization", "number", "ensemble", "sample"),
    "channel": ("channel", "variable"),
    "time": ("time", "valid_time"),
}
_HOURS = {"hours": 1.0, "hour": 1.0, "h": 1.0, "days": 24.0, "minutes": 1 / 60, "seconds": 1 / 3600}


def is_labeled(value: Any) -> bool:
    """Tell whether something is an array or data set with named dimensions."""
    return hasattr(value, "dims") and hasattr(value, "coords") and hasattr(value, "isel")


@dataclass(frozen=True)
class Fields:
    """A labeled array or data set, and which of its dimensions is which.

    Attributes:
        data: xarray's DataArray or Dataset.
        dims: Our name of a dimension -> its name there.
        what: "forecast" or "truth", for errors.
        channels: Those that are meant, in this order; None for all in the order of the data.
    """

    data: Any
    dims: Mapping[str, str]
    what: str
    channels: tuple[str, ...] | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Names there of the dimensions of cells: latitude and longitude last, the others by name."""
        left = sorted(str(d) for d in self.data.dims if d not in self.dims.values())
        return tuple(sorted(left, key=lambda d: (d in LATITUDE) + 2 * (d in LONGITUDE)))

    @property
    def variables(self) -> dict[str, Any]:
        """Channels by name, each an array without the dimension of channels; what has no cells is none.

        Raises:
            ConfigError: If one that is meant is not there.
        """
        known = self._all()
        for name in self.channels or ():
            if name not in known:
                raise ConfigError(
                    f"the {self.what} has no channel {name!r}, only {', '.join(known)}{did_you_mean(name, known)}"
                )
        return known if self.channels is None else {name: known[name] for name in self.channels}

    def _all(self) -> dict[str, Any]:
        if hasattr(self.data, "data_vars"):
            found = {str(name): self.data[name] for name in self.data.data_vars}
            return {name: array for name, array in found.items() if set(self.cells) <= set(array.dims)}
        if "channel" in self.dims:
            dim = self.dims["channel"]
            return {str(name): self.data.isel({dim: i}) for i, name in enumerate(self.data[dim].values)}
        return {str(self.data.name or "field"): self.data}

    @property
    def units(self) -> dict[str, str]:
        """Units by channel, where they are known."""
        found = {name: array.attrs.get("units") for name, array in self.variables.items()}
        return {name: str(unit) for name, unit in found.items() if unit is not None}

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the cells."""
        return tuple(int(self.data.sizes[d]) for d in self.cells)

    @property
    def coordinates(self) -> Coordinates | None:
        """Latitudes and longitudes, where these are the cells."""
        if len(self.cells) != 2 or self.cells[0] not in LATITUDE or self.cells[1] not in LONGITUDE:
            return None
        latitudes, longitudes = (degrees_along(self.data, d, self.what) for d in self.cells)
        return checked_coordinates(latitudes, longitudes, self.what)

    @property
    def weights(self) -> np.ndarray | None:
        """Areas of cells (*cells), of rows of latitude among other dimensions; None where no dimension is latitude.

        Raises:
            ConfigError: If latitudes neither rise nor fall.
        """
        along = [i for i, d in enumerate(self.cells) if d in LATITUDE]
        if not along:
            return None
        latitudes = degrees_along(self.data, self.cells[along[0]], self.what)
        check_latitudes(latitudes, self.what)
        shape = [len(latitudes) if i == along[0] else 1 for i in range(len(self.cells))]
        return np.broadcast_to(areas_of_rows(latitudes).reshape(shape), self.shape)

    def labels(self, name: str) -> np.ndarray:
        """Return the labels along one of our dimensions."""
        return np.asarray(self.data[self.dims[name]].values)

    def at(self, indices: Mapping[str, int]) -> dict[str, Any]:
        """Return the channels at indices of our dimensions, the rest as (member, *cells)."""
        chosen = {self.dims[name]: index for name, index in indices.items() if name in self.dims}
        order = [*([self.dims["member"]] if "member" in self.dims else []), *self.cells]
        return {name: array.isel(chosen).transpose(*order) for name, array in self.variables.items()}


def fields_of(
    data: Any, needed: tuple[str, ...], optional: tuple[str, ...], what: str, channels: Sequence[str] | None = None
) -> Fields:
    """Return labeled data with its dimensions told apart; those of no name of ours are cells.

    Raises:
        ConfigError: If a dimension is missing, no cells are left, or fields lie on different cells.
    """
    beside = {d for name in (*needed, *optional) for d in NAMES[name]}
    data = single(chosen(data, [NAMES[name] for name in needed], beside, what, channels), NAMES["channel"], what)
    there, dims = [str(d) for d in data.dims], {}
    for name in (*needed, *optional):
        known = [d for d in NAMES[name] if d in there and d not in dims.values()]
        if known:
            dims[name] = known[0]
        elif name in needed:
            raise ConfigError(
                f"{what}: no dimension for {name} (one of {', '.join(NAMES[name])}); there is {', '.join(there)}"
            )
    fields = Fields(data, dims, what, None if channels is None else tuple(channels))
    if not fields.cells or not fields.variables:
        raise ConfigError(f"{what}: no variable with cells beside the dimensions {', '.join(dims.values())}")
    return fields


def require_aligned(forecast: Fields, truth: Fields) -> None:
    """Raise unless units and coordinates of the forecast are those of the truth.

    Raises:
        ConfigError: If a channel has another unit, naming it.
        ShapeMismatch: If the cells are not the same, in the same order.
    """
    require_same_units(forecast.units, truth.units, "the forecast", "the truth")
    if forecast.shape != truth.shape or _common(forecast.cells) != _common(truth.cells):
        raise ShapeMismatch(
            f"cells differ: {dict(zip(forecast.cells, forecast.shape, strict=True))} in the forecast, "
            f"{dict(zip(truth.cells, truth.shape, strict=True))} in the truth; interpolate one of them first"
        )
    require_same_cells(forecast, truth, "the truth")


def require_same_cells(ours: Fields, other: Fields, whose: str) -> None:
    """Raise unless cells have the same labels, in the same order, along every dimension that both label.

    Raises:
        ShapeMismatch: If they differ, saying how.
    """
    for a, b in zip(ours.cells, other.cells, strict=True):
        if a in ours.data.coords and b in other.data.coords:
            require_same_labels(common(a), ours.data[a].values, other.data[b].values, whose)


def _common(cells: tuple[str, ...]) -> list[str]:
    """Return the names of cells, in whatever way latitude and longitude are written."""
    return [common(d) for d in cells]


def runs(forecast: Fields) -> Iterator[tuple[Any, float, dict[str, int]]]:
    """Yield (start, lead in hours, indices) of a forecast; the start is 0 where nothing says it."""
    single = [n for n in NAMES["start"] if n in forecast.data.coords and not forecast.data[n].ndim]
    if "start" in forecast.dims:
        starts = list(forecast.labels("start"))
    else:
        starts = [forecast.data[single[0]].values[()] if single else 0]
    leads = _leads(forecast)
    for i, start in enumerate(starts):
        for j, lead in enumerate(leads):
            yield start, lead, {"start": i, "lead": j}


def _leads(forecast: Fields) -> list[float]:
    """Return the leads in hours.

    Raises:
        ConfigError: If one is no duration, or not there (NaT, NaN).
    """
    labels, scale = forecast.labels("lead"), _scale(forecast)
    found = [hours(lead, scale) for lead in labels]
    for j, lead in enumerate(found):
        if not math.isfinite(lead):
            raise ConfigError(
                f"forecast: lead {j} is {labels[j]}; expected a duration. Drop it, as by "
                f".isel({forecast.dims['lead']}=...), or give it its label"
            )
    return found


def _scale(forecast: Fields) -> float:
    """Return the hours of a unit of the leads, where these are numbers.

    Raises:
        ConfigError: If they are neither numbers nor durations, or of a unit that is no time.
    """
    labels = forecast.data[forecast.dims["lead"]]
    unit = str(labels.attrs.get("units", "hours"))
    if np.issubdtype(labels.dtype, np.timedelta64):
        return 1.0
    if unit not in _HOURS or labels.dtype.kind not in "iuf":
        raise ConfigError(
            f"forecast: leads are in {unit!r}, as {labels.dtype}; expected durations, or numbers in {', '.join(_HOURS)}"
        )
    return _HOURS[unit]


def hours(lead: Any, scale: float = 1.0) -> float:
    """Return a duration, or a number of units, in hours: whole where it is."""
    found = float(lead / np.timedelta64(1, "h") if isinstance(lead, np.timedelta64) else lead * scale)
    return int(found) if found.is_integer() else found


class Times:
    """Where in a truth a time is."""

    def __init__(self, truth: Fields) -> None:
        self._labels = truth.labels("time")

    def index(self, start: Any, lead: float, where: str) -> int:
        """Return the index of start + lead.

        Raises:
            ConfigError: If it is not there, naming the nearest that are; or one of the two is a date and one a number.
        """
        dated = np.issubdtype(self._labels.dtype, np.datetime64)
        if dated != isinstance(start, np.datetime64):
            raise ConfigError(f"{where}: of start and times of the truth, one is a date and the other a number")
        wanted = start + np.timedelta64(round(lead * 3600), "s") if dated else start + lead
        found = np.flatnonzero(self._labels == wanted)
        if len(found) == 1:
            return int(found[0])
        near = ", ".join(str(t) for t in self._labels[np.argsort(np.abs(self._labels - wanted))[:2]])
        count = f"{len(found)} fields" if len(found) else "no field"
        raise ConfigError(f"{where}: the truth has {count} at {wanted}, the time that it is valid at; nearest: {near}")
