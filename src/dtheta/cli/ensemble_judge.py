"""What ``dtheta ensemble verify`` holds forecasts against, and how it scores them.

Shape legend: C channels, T leads, Q quantiles, ... cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dtheta.cli.console import Console
from dtheta.errors import ConfigError, ShapeMismatch

if TYPE_CHECKING:
    from dtheta.cli.ensemble_files import States
    from dtheta.cli.ensemble_verify import Options
    from dtheta.ensemble.hindcast import Climate, Hindcast
    from dtheta.score.ensemble import Box, VerificationResult


_PERCENTILES = (95,)  # that are events where none are asked for


@dataclass(frozen=True, eq=False)
class Judge:
    """What forecasts are held against; states have an axis of channels.

    Attributes:
        found: the run.
        file: of the truth, where one was given.
        usual: the file of the climate, likewise.
    """

    found: Hindcast
    file: States | None
    usual: States | None
    _kept: dict[int, Tensor] = field(default_factory=dict)

    @property
    def has_climate(self) -> bool:
        """Whether it is known what is usual."""
        return self.usual is not None or self.found.has_climate

    @cached_property
    def climate(self) -> Climate | None:
        """What is usual; None where it is not known."""
        from dtheta.cli.ensemble_climate import climate_of_file

        return self.found.climate() if self.usual is None else climate_of_file(self.usual)

    def truth(self, start: int, column: int) -> Tensor:
        """Return what happened (C, ...) at a start and a stored lead, by their places."""
        if start not in self._kept:
            self._kept.clear()
            self._kept[start] = self._read(start)
        return with_channels(self.found, self._kept[start][column])

    def _read(self, start: int) -> Tensor:
        if self.file is None:
            held = self.found.truth(start)
            assert held is not None, "judge_of has seen to it"
            return held
        step = np.timedelta64(round(3600 * self.found.record["hours"]), "s")
        first = np.datetime64(self.found.times[start], "s")
        return self.file.at([first + lead * step for lead in self.found.leads], f"a lead of the start {first}")


def with_channels(found: Hindcast, state: Tensor) -> Tensor:
    """Return a state (...) with an axis of channels in front."""
    return state if found.fields is not None else state[None]


def judge_of(options: Options, found: Hindcast) -> Judge:
    """Return what forecasts are held against.

    Raises:
        ConfigError: if nothing tells what happened, the starts are no dates, or options need a climate.
        ShapeMismatch: if a file has other cells.
    """
    file = None if options.truth is None else _file(options.truth, "--truth", found)
    if file is None and found.truth(0) is None:
        raise ConfigError(
            f"{options.run} holds no truth, since 'dtheta ensemble run' had no --truth; give --truth FILE"
        )
    if file is not None and isinstance(found.time(0), int):
        raise ConfigError("--truth is a file with dates, and the starts of this run are simulated, without any")
    usual = None if options.climate is None else _file(options.climate, "--climate", found)
    judge = Judge(found, file, usual)
    for name, given in {"--efi": options.efi, "--percentile": options.percentile}.items():
        if given and not judge.has_climate:
            raise ConfigError(f"{name} compares with a climate, and the run has none; give --climate FILE")
    return judge


def _file(path: Path, option: str, found: Hindcast) -> States:
    from dtheta.cli.ensemble_files import read_states
    from dtheta.ensemble.coordinates import require_same_coordinates

    states = read_states(path, option, found.names, {n: u for n, u in found.units.items() if u != "1"})
    if states.shape != found.shape:
        raise ShapeMismatch(f"{option} {path}: states are {states.shape}, and in {found.path} {found.shape}")
    if found.grid is not None and states.coordinates is not None:
        require_same_coordinates(found.grid, states.coordinates, f"{option} {path}")
    return states


def scored(options: Options, found: Hindcast, judge: Judge, console: Console) -> VerificationResult:
    """Return the scores of a run, with intervals over its starts."""
    from dtheta.ensemble.labeled import hours
    from dtheta.ensemble.verify import verify

    step = found.record["hours"]
    columns = {hours(lead * step): t for t, lead in enumerate(found.leads)}
    places = {_label(found.time(i)): i for i in range(len(found))}
    references = _references(options, found, judge)
    cells: dict[str, Any] = {} if found.grid is None else {"grid": found.grid}

    def truth(start: Any, lead: float) -> Tensor:
        return judge.truth(places[_label(start)], columns[lead])

    with console.progress("starts", len(found)) as begin:

        def archives() -> Iterator[Any]:
            for i, time in enumerate(found.times):
                begin(f"start {time}")
                yield found.archive(i)

        counted = verify(
            archives(), truth, _metrics(options, found, references), regions=regions_of(options, found),
            references=references, transform=transform_of(found), seed=options.seed, **cells,
        )  # fmt: skip
    return counted.result(resamples=options.resamples, block=options.block, seed=options.seed)


def _label(start: Any) -> int | str:
    return start if isinstance(start, int) else str(np.datetime64(start, "s"))


def _references(options: Options, found: Hindcast, judge: Judge) -> dict[str, Tensor]:
    if judge.climate is None:
        return {}
    quantiles = torch.stack([with_channels(found, one) for one in judge.climate.quantiles], 1)  # (C, Q, ...)
    last = quantiles.shape[1] - 1
    events = {f"p{p}": quantiles[:, round(p / 100 * last)] for p in options.percentile or _PERCENTILES}
    found_ = {"climatology": with_channels(found, judge.climate.mean), **events}
    return found_ | ({"climate": quantiles} if options.efi else {})


def climate_bytes(options: Options, found: Hindcast, judge: Judge) -> int:
    """Return about how many bytes the climate takes at the peak: while it is read, or with the references of it."""
    from dtheta.cli.ensemble_climate import QUANTILES, climate_memory

    if not judge.has_climate:
        return 0
    states = 2 * (1 + QUANTILES) + len(options.percentile or _PERCENTILES)  # as a climate, and by channel
    held = 4 * math.prod(found.shape) * states
    return held if judge.usual is None else max(held, climate_memory(judge.usual))


def _metrics(options: Options, found: Hindcast, references: dict[str, Tensor]) -> Any:
    from dtheta.score.ensemble import standard_metrics
    from dtheta.score.ensemble.statistic import trait

    settings = found.record["settings"]
    metrics = standard_metrics(
        climatology="climatology" if references else None,
        thresholds=[name for name in references if name.startswith("p")],
        climate="climate" if "climate" in references else None,
        spectra=transform_of(found) is not None,
        pairs=settings["pairs"] and not settings["control"],
    )
    members = len(found.record["members"])
    return [metric for metric in metrics if trait(metric, "least_members", 1) <= members]


def transform_of(found: Hindcast) -> Any:
    """Return the harmonics of the cells, up to the degree that fields have; None where there are none."""
    from dtheta.core.ring import RingTransform
    from dtheta.core.sphere import Grid, SphericalTransform

    grid = found.grid
    if isinstance(grid, Grid):
        resolved = min(grid.exact_degree, (grid.nlon - 1) // 2)
        degree = found.record["degree"]
        return SphericalTransform(grid, resolved if degree is None else min(degree, resolved))
    ring = found.record["truth"].startswith("lorenz96") and len(found.shape) == 1
    return RingTransform(found.shape[0]) if ring else None


def regions_of(options: Options, found: Hindcast) -> dict[str, Box]:
    """Return the regions by name.

    Raises:
        ConfigError: for a box that cannot be meant, or without latitudes and longitudes.
    """
    if options.region and found.grid is None:
        raise ConfigError("--region is a box of latitudes and longitudes, and states of this run have none")
    found_ = [_region(text) for text in options.region]
    names = [name for name, _ in found_]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--region: {name!r} is there twice; give each box a name of its own")
    return dict(found_)


def _region(text: str) -> tuple[str, Box]:
    from dtheta.score.ensemble import Box

    name, equals, box = text.partition("=")
    latitudes, _, longitudes = box.partition(",")
    try:
        bounds = [float(v) for part in (latitudes, longitudes or "0:360") for v in part.split(":")]
    except ValueError:
        bounds = []
    if not equals or not name.strip() or len(bounds) != 4:
        raise ConfigError(f"--region {text!r} is not of the form NAME=SOUTH:NORTH[,WEST:EAST], as europe=35:60,350:40")
    return name.strip(), Box(*bounds)
