"""Making an archive without data: its arrays, the coordinates of all axes, and the record of what will be run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dtheta.core.output import require_space, write_folder
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.groups import put, zarr_module
from dtheta.ensemble.layout import PERIOD, REALIZATION, Layout
from dtheta.ensemble.store import RECORD, Archive
from dtheta.ensemble.times import moved
from dtheta.errors import ConfigError

CHUNK_BYTES = 4_000_000  # of one field: large enough for few files, small enough to be shared out
_EPOCH = "seconds since 1970-01-01 00:00:00"


def create(
    path: str | os.PathLike[str],
    ensemble: Ensemble,
    layout: Layout,
    leads: Sequence[int],
    time: int | np.datetime64,
    *,
    dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
    start: Mapping[str, Any] | None = None,
) -> Archive:
    """Make an archive without data; it appears complete or not at all.

    Args:
        path: a folder that does not exist yet.
        ensemble: what will be run.
        layout: of its states.
        leads: to be stored.
        time: of the start.
        dtype: of the states.
        chunk: members of a chunk; None for about 4 MB a field.
        start: what else makes the run, such as digests of its analyses.

    Raises:
        ConfigError: for states of a dtype that NumPy has not.
        OutputError: if it cannot be written, is there already, or the disk is too small for all of it.
    """
    zarr = zarr_module()
    target, width = Path(path), _width(dtype)
    size = int(np.prod(layout.sizes, dtype=np.int64)) * width.itemsize
    chunk = max(1, min(len(ensemble), chunk or CHUNK_BYTES // max(1, size)))
    require_space(target, size * len(layout.fields) * len(ensemble) * len(leads))
    record = {
        "ensemble": ensemble.to_dict(), "layout": layout.to_dict(), "leads": list(leads), "time": str(time),
        "chunk": chunk, "start": dict(start or {}),
    }  # fmt: skip
    with write_folder(target) as aside:
        group = zarr.open_group(aside, mode="w", zarr_format=3)
        group.create_group("progress")
        group.attrs.update({"Conventions": "CF-1.11", "title": "ensemble forecast", RECORD: json.dumps(record)})
        _coordinates(group, ensemble, layout, leads, time)
        for field in layout.fields:
            group.create_array(
                field.name, shape=(len(ensemble), len(leads), *layout.sizes), chunks=(chunk, 1, *layout.sizes),
                dtype=width, fill_value=float("nan"), compressors=None,
                dimension_names=[REALIZATION, PERIOD, *layout.axes], attributes=field.attributes,
            )  # fmt: skip
    return Archive(target)


def _width(dtype: torch.dtype) -> np.dtype[Any]:
    """Return the dtype of the arrays.

    Raises:
        ConfigError: for states of a dtype that NumPy has not.
    """
    if dtype not in (torch.float16, torch.float32, torch.float64):
        raise ConfigError(
            f"states are {dtype}; an archive holds float16, float32 or float64: run a step that takes one of these"
        )
    return np.dtype(str(dtype).removeprefix("torch."))


def _coordinates(
    group: Any, ensemble: Ensemble, layout: Layout, leads: Sequence[int], time: int | np.datetime64
) -> None:
    """Write the coordinates of all axes."""
    hours = ensemble.hours
    axes = {
        REALIZATION: (np.arange(len(ensemble)), {"standard_name": "realization", "units": "1"}),
        PERIOD: (np.array([lead * hours for lead in leads]), {"standard_name": "forecast_period", "units": "hours"}),
        **layout.coordinates,
    }
    for name, (values, attributes) in axes.items():
        put(group, name, values, [name], attributes)
    auxiliary = []
    for what in ("parameters", "draw", "sign"):
        auxiliary.append(f"member_{what}")
        values = np.array([getattr(member, what) for member in ensemble.members])
        put(group, auxiliary[-1], values, [REALIZATION], {"long_name": f"{what} of the member", "units": "1"})
    if isinstance(time, np.datetime64):
        auxiliary += ["forecast_reference_time", "time"]
        valid = np.array([moved(time, lead * hours) for lead in leads], "datetime64[s]")
        for name, values, dims in (
            ("forecast_reference_time", np.array(time).astype("int64"), []), ("time", valid.astype("int64"), [PERIOD]),
        ):  # fmt: skip
            attributes = {"standard_name": name, "units": _EPOCH, "calendar": "proleptic_gregorian"}
            put(group, name, values, dims, attributes)
    group.attrs["coordinates"] = " ".join(auxiliary)
