"""Hindcast: forecasts from several starts in one folder, with all that they began from and are judged by.

    starts/0000/          the ensemble of the first start, an archive (store.py)
    analyses/  FIELD (start, before, ...)             analyses before the start, the oldest first, and at the start
    truth/     FIELD (start, forecast_period, ...)    where the truth is known
    climate/   FIELD (quantile, ...), FIELD_mean      where a climate is known: quantiles k / (Q - 1)
    states/    FIELD (sample, ...)                    past states, where a perturbation is made of them

The folder is a zarr group; its attribute holds what made the run. So any member can be run again, and the whole be
scored, with nothing else at hand but the network. It appears with its data and without forecasts, and these are added
by ``dtheta.ensemble.archive``, which goes on after anything.

Shape legend: S starts, K analyses before a start, T leads, Q quantiles, ... the state.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.core.output import write_folder
from dtheta.core.sphere import Grid
from dtheta.ensemble.groups import put, reading, zarr_module
from dtheta.ensemble.latlon import LatLon, grid_of
from dtheta.ensemble.layout import PERIOD, Field, Layout
from dtheta.ensemble.store import Archive
from dtheta.errors import ConfigError, ShapeMismatch

_RECORD = "dtheta_hindcast"
_UNSTORED = 1 << 26  # bytes of a chunk that may be claimed and not stored: zarr leaves out chunks of zeros


@dataclass(frozen=True, eq=False)
class Climate:
    """What is usual.

    Attributes:
        mean: (...).
        quantiles: (Q, ...), at k / (Q - 1), rising.
    """

    mean: Tensor
    quantiles: Tensor


@dataclass(frozen=True, eq=False)
class Beginnings:
    """What forecasts begin from, and what they are judged by.

    Attributes:
        times: of the starts, dates or numbers, as text.
        analyses: (S, K + 1, ...), the last being that of the start.
        truth: (S, T, ...) at the leads; None where it is not known.
        climate: None where it is not known.
        states: (N, ...), past states that a perturbation is made of; None where none is.
    """

    times: Sequence[str]
    analyses: Tensor
    truth: Tensor | None = None
    climate: Climate | None = None
    states: Tensor | None = None


class Hindcast:
    """Forecasts from several starts on disk.

    Attributes:
        path: the folder.
        record: what made the run.
        times: of the starts, as text.
        leads: the stored leads, in steps.
        shape: of a state.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a folder.

        Raises:
            FormatError: if there is none, or it is none of ours.
        """
        zarr = zarr_module()
        self.path = Path(path)
        with reading(f"{self.path} is no run of 'dtheta ensemble run', nor written by Hindcast"):
            self.group = zarr.open_group(self.path, mode="r")
            document = json.loads(str(self.group.attrs[_RECORD]))
            self.record: dict[str, Any] = document["record"]
            self.times: list[str] = [str(one) for one in document["times"]]
            self.leads: list[int] = [int(lead) for lead in document["leads"]]
            self._fields = [Field(*one) for one in document["layout"]["fields"]]
            self.shape: tuple[int, ...] = tuple(int(n) for n in document["layout"]["shape"])
            self._channels = bool(document["layout"]["channels"])

    def __len__(self) -> int:
        """S."""
        return len(self.times)

    @property
    def names(self) -> list[str]:
        """Of the variables: one a channel, or one for the whole state."""
        return [field.name for field in self._fields]

    @property
    def fields(self) -> list[Field] | None:
        """The channels, as the engine takes them; None where states have no axis of channels."""
        return self._fields if self._channels else None

    @property
    def units(self) -> dict[str, str]:
        """By channel."""
        return {field.name: field.units for field in self._fields}

    @property
    def grid(self) -> Grid | LatLon | None:
        """Of the last two axes of a state; None where these are no latitudes and longitudes."""
        with self._reading():
            if "analyses/latitude" not in self.group:
                return None
            return grid_of(self._array("analyses/latitude")[...], self._array("analyses/longitude")[...])

    def place(self, start: int) -> Path:
        """Return the folder of the archive of a start."""
        return self.path / "starts" / f"{start:04d}"

    def archive(self, start: int) -> Archive:
        """Return the archive of a start.

        Raises:
            FormatError: if it was not begun yet.
        """
        return Archive(self.place(start))

    def time(self, start: int) -> int | str:
        """Return the time of a start as the engine takes it: a number, or a date."""
        text = self.times[start]
        return int(text) if text.lstrip("-").isdigit() else text

    def analyses(self, start: int) -> tuple[Tensor, Tensor]:
        """Return the analysis (...) of a start, and those before it (K, ...)."""
        found = self._read("analyses", start)
        return found[-1], found[:-1]

    def truth(self, start: int) -> Tensor | None:
        """Return the truth (T, ...) at the leads of a start; None where it is not known."""
        return self._read("truth", start) if self._has("truth") else None

    @property
    def has_climate(self) -> bool:
        """Whether it is known what is usual."""
        return self._has("climate")

    def climate(self) -> Climate | None:
        """Return the climate; None where it is not known."""
        if not self.has_climate:
            return None
        with self._reading():
            mean = self._stacked([np.asarray(self._array(f"climate/{name}_mean")[...])[None] for name in self.names])
            return Climate(mean[0], self._stacked([np.asarray(self._array(f"climate/{n}")[...]) for n in self.names]))

    def states(self) -> Tensor | None:
        """Return the past states (N, ...) that a perturbation is made of; None where none is."""
        return self._read("states", slice(None)) if self._has("states") else None

    def _has(self, part: str) -> bool:
        with self._reading():
            return part in self.group

    def _read(self, part: str, start: int | slice) -> Tensor:
        with self._reading():
            return self._stacked([np.asarray(self._array(f"{part}/{name}")[start]) for name in self.names])

    def _reading(self) -> AbstractContextManager[None]:
        return reading(f"{self.path} is damaged; remove it and run anew")

    def _array(self, name: str) -> Any:
        """Return an array that is in chunks as `put` makes them, none larger than what is stored or `_UNSTORED`."""
        array = self.group[name]
        size = math.prod(array.chunks) * array.dtype.itemsize
        stored = sum(file.stat().st_size for file in (self.path / name).rglob("*") if file.is_file())
        if array.chunks[1:] != array.shape[1:] or array.chunks[:1] not in (array.shape[:1], (1,)):
            raise ValueError(f"array {name!r} of {array.shape} is in chunks of {array.chunks}")
        if size > max(stored, _UNSTORED) or math.prod(array.shape[:1]) > max(
            len(self.times), math.prod(array.chunks[:1])
        ):
            raise ValueError(f"array {name!r} claims the shape {array.shape}, and has {stored:,} bytes")
        return array

    def _stacked(self, values: list[np.ndarray]) -> Tensor:
        """Return states (N, ...) of the fields (N, *sizes)."""
        found = torch.from_numpy(np.stack(values, 1) if self._channels else values[0])
        return found.reshape(len(found), *self.shape)


def create_hindcast(
    path: str | os.PathLike[str], layout: Layout, begin: Beginnings, leads: Sequence[int], hours: float,
    record: Mapping[str, Any],
) -> Hindcast:  # fmt: skip
    """Make a folder with what forecasts begin from; it appears complete or not at all.

    Args:
        path: a folder that does not exist yet.
        layout: of the states.
        begin: what forecasts begin from.
        leads: to be stored, in steps.
        hours: length of a step.
        record: what made the run.

    Raises:
        OutputError: if it cannot be written, or is there already.
        ShapeMismatch: for truth at other leads.
        ConfigError: for two starts of one time.
    """
    zarr = zarr_module()
    if begin.truth is not None and tuple(begin.truth.shape[:2]) != (len(begin.times), len(leads)):
        raise ShapeMismatch(f"truth is {tuple(begin.truth.shape)}; expected ({len(begin.times)}, {len(leads)}, ...)")
    if len(set(begin.times)) != len(begin.times):
        raise ConfigError(f"starts are {', '.join(begin.times)}; expected each once")
    document = {"record": dict(record), "times": list(begin.times), "leads": list(leads), "layout": layout.to_dict()}
    with write_folder(path) as aside:
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        group.attrs.update({"Conventions": "CF-1.11", "title": "ensemble forecasts", _RECORD: json.dumps(document)})
        group.create_group("starts")
        periods = np.array([lead * hours for lead in leads])
        before = hours * np.arange(1 - begin.analyses.shape[1], 1)
        _write(group, "analyses", layout, begin.analyses, ["start", "before"], {"before": before})
        if begin.truth is not None:
            _write(group, "truth", layout, begin.truth, ["start", PERIOD], {PERIOD: periods})
        if begin.climate is not None:
            quantiles = begin.climate.quantiles
            shares = np.linspace(0, 1, len(quantiles))
            part = _write(group, "climate", layout, quantiles, ["quantile"], {"quantile": shares})
            for field, values in zip(layout.fields, _parts(layout, begin.climate.mean[None]), strict=True):
                put(part, f"{field.name}_mean", values[0], list(layout.axes), field.attributes, apart="start")
        if begin.states is not None:
            _write(group, "states", layout, begin.states, ["sample"], {})
    return Hindcast(path)


def _write(
    group: Any, name: str, layout: Layout, states: Tensor, dims: list[str], coordinates: dict[str, np.ndarray]
) -> Any:
    """Write states (..., *state) as one array a field, in a group of their own, and return it."""
    part = group.create_group(name)
    lead = states.shape[: len(dims)]
    for field, values in zip(layout.fields, _parts(layout, states.reshape(-1, *layout.shape)), strict=True):
        put(
            part,
            field.name,
            values.reshape(*lead, *layout.sizes),
            [*dims, *layout.axes],
            field.attributes,
            apart="start",
        )
    for axis, values in coordinates.items():
        units = {"units": "1" if axis == "quantile" else "hours"}
        put(part, axis, values, [axis], units, apart="start")
    for axis, (values, attributes) in layout.coordinates.items():
        put(part, axis, values, [axis], attributes, apart="start")
    return part


def _parts(layout: Layout, states: Tensor) -> list[np.ndarray]:
    """Return states (N, ...) as one array (N, *sizes) a field."""
    values = states.detach().cpu().numpy()
    return [values[:, c] for c in range(len(layout.fields))] if layout.channels else [values]
