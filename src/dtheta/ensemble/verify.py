"""Verify: an ensemble, or forecasts that were made before, against what happened.

A thin function over `dtheta.score.ensemble.Verification`: it brings forecasts and truth of each start and lead
together, by their labels where they have some, and counts them.

Shape legend: M members, ... the state, with channels first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.ensemble import labeled
from dtheta.ensemble.checks import Mask, checked_triple, mask_at
from dtheta.ensemble.coordinates import require_same_coordinates
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.references import lined_up
from dtheta.ensemble.store import Archive
from dtheta.ensemble.times import start_time
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score.ensemble import EnsembleMetric, Verification, standard_metrics
from dtheta.score.ensemble.entries import place
from dtheta.score.ensemble.source import tensor_of
from dtheta.score.ensemble.units import require_same_units

Analyses = Mapping[Any, Any] | Callable[[Any], Any]
CLIMATOLOGY, CLIMATE = "climatology", "climate"


def verify(
    forecasts: Any,
    truth: Any,
    metrics: Sequence[EnsembleMetric] | None = None,
    *,
    analyses: Analyses | None = None,
    starts: Iterable[Any] | None = None,
    leads: int | Sequence[int] | None = None,
    batch: int | None = None,
    mask: Mask = None,
    **settings: Any,
) -> Verification:
    """Count forecasts of all starts and leads against the truth; ``.result()`` of what is returned has the scores.

    >>> dt.verify(ensemble, truth, analyses=states, starts=dates, leads=40, grid=grid).result().table()

    Args:
        forecasts: An `Ensemble`, which is run; an `Archive`, or labeled data as xarray has them (see
            ``ensemble.labeled``), or several of these; or triples (start, lead, members (M, ...)).
        truth: Labeled data with the time of validity; or a function (start, lead) -> state (...), or a mapping of pairs
            (start, lead). Leads of ensembles, archives and labeled forecasts are in hours.
        metrics: None for `standard_metrics`: with ACC where there is a reference "climatology", with the EFI where
            there is "climate", and the scores of events above every other reference.
        analyses: For an ensemble: by start, the state, or the state and those before it.
        starts: For an ensemble: dates or numbers.
        leads: For an ensemble: steps, as `Ensemble.run` takes them.
        batch: For an ensemble: members that are run at a time, where all of them are too many; then CRPS and energy
            score, which need all members at once, are left out of the standard metrics.
        mask: True where a cell counts, (*cells) or (C, *cells); or a function (start, lead) that gives it. Forecasts
            and truth may have gaps elsewhere.
        **settings: Of `Verification`: grid, channels, units, regions, references, transform. Labeled forecasts give
            channels, units and coordinates themselves; ``channels`` then takes some of theirs, in this order, and
            references have one part a channel in the order of the channels.

    Raises:
        ConfigError: If channels, units or times do not line up, or something is missing.
        ShapeMismatch: If cells differ.
        NonFinite: If a value is NaN or infinite, naming channel, start, lead, member and cell.
        FormatError: If an archive is not what was written.
    """
    if isinstance(forecasts, Ensemble):
        verification = Verification(metrics or _standard(settings, batch is None), **settings)
        field = _truth(truth, verification)
        for start in _given(starts, "starts"):
            known = _given(analyses, "analyses"), start, _given(leads, "leads")
            _run(verification, forecasts, field, *known, batch, mask)
        return verification
    counted: Verification | None = None
    given: Callable[[Any, float], Any] | None = None
    if not _has_labels(forecasts) and (isinstance(forecasts, str | Mapping) or not isinstance(forecasts, Iterable)):
        raise ConfigError(
            f"forecasts are a {type(forecasts).__name__}; expected an Ensemble, archives, labeled data or triples; "
            "open_archive(path) opens an archive"
        )
    for item in [forecasts] if _has_labels(forecasts) else forecasts:
        if _has_labels(item):
            counted = _labeled(counted, item, truth, metrics, settings, mask)
        else:
            start, lead, members = checked_triple(item)
            counted = counted or Verification(metrics or _standard(settings), **settings)
            given = given or _truth(truth, counted)
            counted.update(start, lead, members, given(start, lead), mask=mask_at(mask, start, lead))
    if counted is None:
        raise ConfigError("no forecasts were given")
    return counted


def _run(
    verification: Verification,
    ensemble: Ensemble,
    field: Callable[[Any, float], Any],
    analyses: Analyses,
    start: Any,
    leads: int | Sequence[int],
    batch: int | None,
    mask: Mask,
) -> None:
    """Run one start and count all its leads."""
    found = analyses(start) if callable(analyses) else _at(analyses, start)
    state, past = found if isinstance(found, tuple) else (found, None)
    time = start_time(start)
    label = time if isinstance(time, int) else str(time)
    if batch is None:
        for step, members in ensemble.run(state, leads, past=past, time=start):
            lead = labeled.hours(step * ensemble.hours)
            verification.update(label, lead, members, field(start, lead), mask=mask_at(mask, start, lead))
        return
    gathered: dict[float, Any] = {}
    for part in _parts(len(ensemble), whole(batch, "batch", least=1)):
        for step, members in ensemble.only(part).run(state, leads, past=past, time=start):
            lead = labeled.hours(step * ensemble.hours)
            if lead not in gathered:
                gathered[lead] = verification.gather(label, lead, field(start, lead), mask=mask_at(mask, start, lead))
            gathered[lead].add(members)
    for sums in gathered.values():
        verification.accept(sums)


def _parts(count: int, size: int) -> Iterator[range]:
    return (range(first, min(first + size, count)) for first in range(0, count, size))


def _has_labels(value: Any) -> bool:
    return labeled.is_labeled(value) or isinstance(value, Archive)


def _labeled(
    counted: Verification | None,
    forecasts: Any,
    truth: Any,
    metrics: Sequence[EnsembleMetric] | None,
    settings: Mapping[str, Any],
    mask: Mask,
) -> Verification:
    """Count labeled forecasts; labeled truth must have their channels, units, cells and times."""
    alone, channels = None, settings.get("channels")
    if isinstance(forecasts, Archive):
        alone, channels = _complete(forecasts), channels or [one[0] for one in forecasts.record["layout"]["fields"]]
        forecasts = forecasts.to_xarray()
    forecast = labeled.fields_of(forecasts, ("lead", "member"), ("start", "channel"), "forecast", channels)
    verification = counted or _verification_of(forecast, metrics, settings)
    _require_same(verification, forecast)
    field = _truth(truth, verification, forecast)
    for start, lead, indices in labeled.runs(forecast):
        start = start if alone is None else alone
        arrays = list(forecast.at(indices).values())
        counts = mask_at(mask, start, lead)
        verification.update(_label(start), lead, _reader(arrays), field(start, lead), mask=counts)
    return verification


def _complete(archive: Archive) -> int | np.datetime64:
    """Return the start of an archive, all of whose members must be there as they were written."""
    missing = archive.missing()
    if missing:
        first = missing[0]
        raise ConfigError(
            f"{archive.path}: members {first.first} to {first.stop - 1} lack {len(first.leads)} leads, the first is "
            f"{first.leads[0]}; run the same ensemble into the archive again, it goes on from there"
        )
    archive.check()
    time = archive.record["time"]
    return int(time) if time.lstrip("-").isdigit() else np.datetime64(time, "s")


def _verification_of(
    forecast: labeled.Fields, metrics: Sequence[EnsembleMetric] | None, settings: Mapping[str, Any]
) -> Verification:
    """Return the verification of labeled forecasts: channels, units and cells are theirs."""
    there = forecast.coordinates
    cells: dict[str, Any] = {"grid": there}
    if there is None:
        areas = forecast.weights
        cells = {"cells": forecast.shape} | ({} if areas is None else {"weights": torch.from_numpy(areas.copy())})
    given: dict[str, Any] = cells | {"units": forecast.units} | dict(settings)
    given["channels"] = list(forecast.variables)
    given["references"] = lined_up(given.get("references"), forecast)
    return Verification(metrics or _standard(given), **given)


def _require_same(verification: Verification, forecast: labeled.Fields) -> None:
    """Raise unless labeled forecasts have the channels, units and cells that are counted."""
    channels = tuple(forecast.variables)
    if channels != verification.names:
        raise ConfigError(
            f"the forecast has the channels {', '.join(channels)}, and {', '.join(verification.names)} are counted; "
            "select them in the forecast"
        )
    require_same_units(forecast.units, verification.units, "the forecast", "what is counted")
    if forecast.coordinates is not None and verification.cells.grid is not None:
        require_same_coordinates(forecast.coordinates, verification.cells.grid, "the grid")


def _truth(
    truth: Any, verification: Verification, forecast: labeled.Fields | None = None
) -> Callable[[Any, float], Any]:
    """Return what gives the truth (...) at a start and lead.

    Raises:
        ConfigError, ShapeMismatch: if labeled truth has other channels, units or cells.
    """
    if not labeled.is_labeled(truth):
        return _fields(truth)
    fields = labeled.fields_of(truth, ("time",), ("channel",), "truth", verification.channels)
    if forecast is not None:
        labeled.require_aligned(forecast, fields)
    else:
        _require_fits(verification, fields)
    require_same_units(verification.units, fields.units, "what is counted", "the truth")
    times = labeled.Times(fields)

    def field(start: Any, lead: float) -> Tensor:
        index = times.index(start_time(start), lead, place(_label(start), lead))
        found = [tensor_of(array.values) for array in fields.at({"time": index}).values()]
        return torch.stack(found) if verification.channels is not None else found[0]

    return field


def _require_fits(verification: Verification, truth: labeled.Fields) -> None:
    """Raise unless labeled truth has the cells of forecasts without labels."""
    if verification.channels is None and len(truth.variables) > 1:
        raise ConfigError(
            f"the truth has the channels {', '.join(truth.variables)}, and forecasts none; give channels= for those "
            "of the forecasts, in order, or select one of the truth"
        )
    if truth.shape != verification.cells.shape:
        cells = dict(zip(truth.cells, truth.shape, strict=True))
        raise ShapeMismatch(f"the truth has cells {cells}, and the forecasts {verification.cells.shape}")
    if truth.coordinates is not None and verification.cells.grid is not None:
        require_same_coordinates(verification.cells.grid, truth.coordinates, "the truth")


def _reader(arrays: list[Any]) -> Callable[[int, slice], Any]:
    """Return the function that reads rows of all members of a channel: only these leave the disk."""
    return lambda channel, rows: arrays[channel].isel({arrays[channel].dims[1]: rows}).values


def _label(start: Any) -> int | str:
    time = start_time(start)
    return time if isinstance(time, int) else str(time)


def _fields(truth: Any) -> Callable[[Any, float], Any]:
    if callable(truth):
        return truth
    if isinstance(truth, Mapping):
        return lambda start, lead: _at(truth, (start, lead))
    raise ConfigError(
        f"truth is a {type(truth).__name__}; expected labeled data, a function (start, lead) -> state, or a mapping of "
        "pairs (start, lead)"
    )


def _at(mapping: Mapping[Any, Any], key: Any) -> Any:
    if key not in mapping:
        raise ConfigError(f"nothing is given for {key!r}; there is {', '.join(map(repr, list(mapping)[:3]))} ...")
    return mapping[key]


def _given(value: Any, name: str) -> Any:
    if value is None:
        raise ConfigError(f"to run an ensemble give {name}=")
    return value


def _standard(settings: Mapping[str, Any], whole_ensemble: bool = True) -> tuple[EnsembleMetric, ...]:
    references = settings.get("references") or {}
    return standard_metrics(
        climatology=CLIMATOLOGY if CLIMATOLOGY in references else None,
        climate=CLIMATE if CLIMATE in references else None,
        thresholds=[name for name in references if name not in (CLIMATOLOGY, CLIMATE)],
        spectra=settings.get("transform") is not None,
        whole_ensemble=whole_ensemble,
    )
