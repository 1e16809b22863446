"""Where cells lie: latitudes and longitudes with the areas of their rows, and whether labels of cells are the same.

    area of row i  ~  |sin(edge above) - sin(edge below)|      edges midway to the next row

The outer edges are the poles where the rows reach them, that is where the pole is nearer to the last row than the next
row would be; a region ends half a row beyond its last one.

Shape legend: H latitudes, W longitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dtheta.errors import ConfigError, ShapeMismatch

LATITUDE, LONGITUDE = ("latitude", "lat"), ("longitude", "lon")
_DEGREES = ("latitude", "longitude")
_REACHES = 0.9  # of the distance of rows: Gauss grids have .77 of it from the last row to the pole, a region 1 or more
_SAME = 1e-4  # degrees; of other labels less, where these are small numbers


def common(dim: str) -> str:
    """Return a dimension's name as all data have it: latitude and longitude by these names."""
    return "latitude" if dim in LATITUDE else "longitude" if dim in LONGITUDE else dim


@dataclass(frozen=True)
class Coordinates:
    """Cells of a grid by their coordinates in degrees.

    Attributes:
        latitudes: (H,), rising or falling.
        longitudes: (W,).
    """

    latitudes: np.ndarray
    longitudes: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Areas of rows (H,)."""
        return areas_of_rows(self.latitudes)


def areas_of_rows(latitudes: np.ndarray) -> np.ndarray:
    """Return the areas of rows (H,) of latitudes (H,) in degrees, rising or falling; of the sphere they sum to 2."""
    if len(latitudes) < 2:
        return np.full(len(latitudes), 2.0)
    inner = (latitudes[1:] + latitudes[:-1]) / 2
    ends = [_outer_edge(*latitudes[:2]), _outer_edge(*latitudes[:-3:-1])]
    return np.abs(np.diff(np.sin(np.deg2rad([ends[0], *inner, ends[1]]))))


def _outer_edge(last: float, next_: float) -> float:
    """Return the latitude at which the last row ends."""
    pole, distance = float(np.copysign(90.0, last - next_)), abs(last - next_)
    if abs(pole - last) < _REACHES * distance:
        return pole
    return float(np.clip(last + (last - next_) / 2, -90, 90))


def degrees_along(data: Any, dim: str, what: str) -> np.ndarray:
    """Return the latitudes or longitudes along a dimension of labeled data.

    Raises:
        ConfigError: If there are none, or they are no numbers.
    """
    labels = np.asarray(data[dim].values) if dim in data.coords else np.array([""])
    if labels.dtype.kind not in "iuf":
        raise ConfigError(
            f"{what}: the dimension {dim!r} has no degrees, so rows have no areas; give it its coordinate, as by "
            f".assign_coords({dim}=...), or rename it where cells are of equal area"
        )
    return labels.astype(float)


def checked_coordinates(latitudes: Any, longitudes: Any, what: str) -> Coordinates:
    """Return coordinates that a grid can have.

    Raises:
        ConfigError: if latitudes neither rise nor fall or are none, or a meridian is there twice.
    """
    rows, columns = (np.asarray(values, dtype=float) for values in (latitudes, longitudes))
    check_latitudes(rows, what)
    turned = np.sort(columns % 360)
    if not bool(np.isfinite(columns).all()) or bool((np.diff([*turned, turned[0] + 360]) < _SAME).any()):
        raise ConfigError(
            f"{what}: longitudes run from {columns[0]:g} to {columns[-1]:g}, and a meridian is there twice, or has no "
            "number; drop one of the two, since its cells would count double"
        )
    return Coordinates(rows, columns)


def check_latitudes(latitudes: np.ndarray, what: str) -> None:
    """Raise ConfigError unless latitudes (H,) are degrees from -90 to 90 that rise, or fall."""
    steps = np.diff(latitudes)
    if not bool((np.abs(latitudes) <= 90 + _SAME).all()):
        raise ConfigError(
            f"{what}: latitudes run from {np.min(latitudes):g} to {np.max(latitudes):g}; expected degrees from -90 to "
            "90, north positive"
        )
    if not bool((steps > 0).all() or (steps < 0).all()):
        raise ConfigError(f"{what}: latitudes neither rise nor fall, so rows have no areas; sort by latitude first")


def require_same_coordinates(ours: Any, other: Any, whose: str) -> None:
    """Raise unless latitudes and longitudes are equal.

    Raises:
        ShapeMismatch: If they differ, saying how.
    """
    for dim in _DEGREES:
        require_same_labels(dim, getattr(ours, f"{dim}s"), getattr(other, f"{dim}s"), whose)


def require_same_labels(dim: str, ours: Any, other: Any, whose: str) -> None:
    """Raise unless labels of cells along a dimension, by its common name, are equal, in the same order.

    Raises:
        ShapeMismatch: If they differ, saying how.
    """
    a, b = np.asarray(ours), np.asarray(other)
    if not _equal(a, b):
        what = f"{dim}s" if dim in _DEGREES else dim
        raise ShapeMismatch(f"{what} differ: {_ends(a)} in the forecast, {_ends(b)} in {whose}; {_hint(dim, a, b)}")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape:
        return False
    if a.dtype.kind in "iuf" and b.dtype.kind in "iuf":
        return bool(np.allclose(a, b, rtol=1e-6, atol=min(_SAME, 1e-4 * float(np.abs(b).max(initial=0)))))
    return bool((a == b).all())


def _ends(labels: np.ndarray) -> str:
    return f"{len(labels)} from {_word(labels[0])} to {_word(labels[-1])}"


def _word(label: Any) -> str:
    return f"{label:g}" if np.issubdtype(type(label), np.number) else str(label)


def _hint(dim: str, ours: np.ndarray, other: np.ndarray) -> str:
    if _equal(ours, other[::-1]):
        return f"the order is reversed: flip one by .isel({dim}=slice(None, None, -1))"
    if sorted(map(str, ours)) == sorted(map(str, other)):
        return f"the order is another one: sort both by {dim}"
    if dim == "longitude" and ours.shape == other.shape and _equal(np.sort(ours % 360), np.sort(other % 360)):
        return "the same meridians, counted from -180 or from 0: take one modulo 360 and sort by it"
    return "interpolate one to the other's grid first" if dim in _DEGREES else f"select those of {dim} that both have"
