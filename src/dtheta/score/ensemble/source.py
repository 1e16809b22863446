"""Where members are read from: a tensor, an array on disk, or a function, a few rows of one channel at a time.

    array      (M, C, *cells), (M, *cells) where there are no channels: a tensor, a NumPy memory map, a zarr array;
               whatever has ``shape`` and can be indexed
    function   (channel index, slice of rows) -> (M, rows, ...): all members of a band

Rows are the first dimension of the cells: latitudes on the sphere. So an ensemble that fits no memory is scored by
latitude bands, each with all its members.

Shape legend: M members, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.errors import ConfigError, ShapeMismatch

Band = Callable[[int, slice], Any]
ALL = slice(None)


@dataclass(frozen=True)
class Source:
    """Members of one forecast.

    Attributes:
        members: M.
        whole: Whether ``read`` with some of the members reads only these.
        read: (channel index, rows, members) -> (m, rows, ...).
    """

    members: int
    whole: bool
    read: Callable[[int, slice, slice], Tensor]


def source_of(
    forecast: Any, shape: tuple[int, ...], channels: tuple[str, ...] | None, where: str, first: int = 0
) -> Source:
    """Return the source of a forecast whose members have fields of this shape, channels aside, from row ``first`` on.

    Raises:
        ShapeMismatch: If it has other fields, or other channels.
        ConfigError: If it is neither an array nor a function, or has no members.
    """
    if hasattr(forecast, "shape"):
        return _array(forecast, shape, channels, where)
    if not callable(forecast):
        raise ConfigError(
            f"{where}: forecast is a {type(forecast).__name__}; expected a tensor or array (members, ...), or a "
            "function (channel index, rows) -> (members, rows, ...)"
        )
    row = tensor_of(forecast(0, slice(first, first + 1)))
    members = len(row) if row.ndim else 0
    _require_members(members, where)

    def read(channel: int, rows: slice, some: slice = ALL) -> Tensor:
        found = tensor_of(forecast(channel, rows))
        expected = (members, rows.stop - rows.start, *shape[1:])
        if tuple(found.shape) != expected:
            raise ShapeMismatch(
                f"{where}: the function of members gave {tuple(found.shape)} for rows {rows.start}:{rows.stop} of "
                f"channel {channel}; expected {expected}"
            )
        return found[some]

    return Source(members, False, read)


def _array(forecast: Any, shape: tuple[int, ...], channels: tuple[str, ...] | None, where: str) -> Source:
    expected = (*(() if channels is None else (len(channels),)), *shape)
    found = tuple(forecast.shape)
    if found[1:] != expected or not found:
        names = "" if channels is None else f" with channels {', '.join(channels)}"
        raise ShapeMismatch(
            f"{where}: forecast has the shape {found}; expected (members, {', '.join(map(str, expected))}){names}"
        )
    _require_members(found[0], where)

    def read(channel: int, rows: slice, some: slice = ALL) -> Tensor:
        return tensor_of(forecast[some, rows] if channels is None else forecast[some, channel, rows])

    return Source(found[0], True, read)


def _require_members(members: int, where: str) -> None:
    if members < 1:
        raise ConfigError(f"{where}: the forecast has no members")


def field(values: Any, shape: tuple[int, ...], channels: tuple[str, ...] | None, what: str) -> Tensor:
    """Return fields (C, *cells), with C = 1 where there are no channels.

    Raises:
        ShapeMismatch: If the shape is another one.
    """
    found = tensor_of(values)
    expected = (*(() if channels is None else (len(channels),)), *shape)
    if tuple(found.shape) != expected:
        raise ShapeMismatch(f"{what} has the shape {tuple(found.shape)}; expected {expected}")
    return found if channels is not None else found[None]


def tensor_of(values: Any) -> Tensor:
    """Return numbers as a tensor in float32 or float64, without a copy where there need be none.

    Raises:
        ConfigError: If they are complex, or no numbers.
    """
    if not isinstance(values, Tensor):
        array = np.asarray(values)
        if array.dtype.kind not in "biufc":
            raise ConfigError(f"a {type(values).__name__} of {array.dtype} is no field; expected numbers")
        if isinstance(values, np.memmap) or not array.flags.writeable or not array.dtype.isnative:
            array = np.array(array, dtype=array.dtype.newbyteorder("="))  # read from disk now, and once
        # Arrays that were flipped have strides below 0, of which torch has none.
        values = torch.from_numpy(array.copy() if any(step < 0 for step in array.strides) else array)
    values = values.detach()
    if values.is_complex():
        raise ConfigError("fields are complex numbers; give real ones, such as the parts or the absolute value")
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.float() if values.is_floating_point() else values.double()
