"""The scene of ``dtheta ensemble run``: a network, its starts, and what happened, simulated or from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dtheta.cli import ensemble_simulated as simulated
from dtheta.cli.ensemble_climate import climate_of, climate_of_file
from dtheta.cli.ensemble_files import States, read_states
from dtheta.cli.ensemble_networks import Network, described, flow_of, flows, hours_of
from dtheta.cli.ensemble_parts import Part
from dtheta.cli.units import plural
from dtheta.errors import ConfigError, ShapeMismatch

if TYPE_CHECKING:
    from dtheta.cli.ensemble_run import Options
    from dtheta.core.sphere import Grid
    from dtheta.ensemble.hindcast import Beginnings
    from dtheta.ensemble.latlon import LatLon
    from dtheta.ensemble.layout import Field

PAST_STATES = 64  # of the climate, of which a perturbation is made, at most
_HORIZON = 48.0  # hours after which the network is measured, as Mahesh et al. 2025 do
_COUNTABLE = 2**53  # steps; beyond, a float is no whole number of them
_TRIALS = 8  # forecasts that measure it, at most


@dataclass(frozen=True, eq=False)
class Source:
    """Where states come from: a flow, or files.

    Attributes:
        flow: the simulated truth; None where there are files.
        analyses: where states come from files.
        truth: likewise, where it was given.
        climate: likewise.
        hours: length of a step.
    """

    flow: Any
    analyses: States | None
    truth: States | None
    climate: States | None
    hours: float

    @property
    def fields(self) -> list[Field] | None:
        """The channels; None where states have no axis of channels."""
        return simulated.fields_of(self.flow) if self.analyses is None else self.analyses.fields

    @property
    def grid(self) -> Grid | LatLon | None:
        """Of the last two axes of a state."""
        return getattr(self.flow, "grid", None) if self.analyses is None else self.analyses.grid

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a state."""
        if self.analyses is not None:
            return self.analyses.shape
        fields = simulated.fields_of(self.flow)
        return (self.flow.variables,) if fields is None else (len(fields), *self.flow.grid.shape)

    @property
    def degree(self) -> int | None:
        """Up to which degree fields have power; None where nobody knows."""
        return getattr(self.flow, "truncation", None)

    @property
    def horizon(self) -> int:
        """Steps after which the network is measured."""
        return max(1, round(_HORIZON / self.hours))


def source_of(options: Options, network: Network) -> Source:
    """Return where states come from.

    Raises:
        ConfigError: if options do not go together, a flow or file is not there, or its channels or units are others.
        ShapeMismatch: if files have other grids.
    """
    if options.analyses is None:
        return _of_flow(options, network)
    if options.truth is not None and not Path(options.truth).expanduser().exists():
        raise ConfigError(f"--truth {options.truth}: there is no such file; with --analyses it is a file as well")
    channels = _channels(options, network)
    units = described(network.step, "units", dict)
    analyses = read_states(options.analyses, "--analyses", channels, units)
    units = (units or {}) | analyses.data.units
    truth = None if options.truth is None else _alike(Path(options.truth).expanduser(), "--truth", analyses, units)
    climate = None if options.climate is None else _alike(options.climate, "--climate", analyses, units)
    hours = options.hours if options.hours is not None else network.hours if network.hours is not None else 6.0
    return Source(None, analyses, truth, climate, hours)


def _channels(options: Options, network: Network) -> Sequence[str] | None:
    from dtheta.cli.ensemble_simulated import fields_of

    if options.channels is not None:
        named = [one.strip() for one in options.channels.split(",") if one.strip()]
        if not named:
            raise ConfigError(f"--channels {options.channels!r} names none; give them as z500,t850, or leave it out")
        return named
    known = described(network.step, "channels", tuple)
    fields = fields_of(network.flow) if network.flow is not None else None
    return known or (None if fields is None else [field.name for field in fields])


def _alike(path: Path, option: str, analyses: States, units: dict[str, str]) -> States:
    """Return the states of a file that must have the channels, units and cells of the analyses.

    Raises:
        ConfigError, ShapeMismatch: if it has not.
    """
    from dtheta.ensemble.labeled import require_same_coordinates

    found = read_states(path, option, analyses.channels, units)
    if found.shape != analyses.shape:
        raise ShapeMismatch(
            f"{option} {path}: states are {found.shape}, and in --analyses {analyses.path} {analyses.shape}; "
            "interpolate one of them first"
        )
    if found.coordinates is not None and analyses.coordinates is not None:
        require_same_coordinates(analyses.coordinates, found.coordinates, f"{option} {path}")
    return found


def _of_flow(options: Options, network: Network) -> Source:
    fields = {"--climate": options.climate, "--channels": options.channels, "--start": options.start or None}
    for name, value in fields.items():
        if value is not None:
            raise ConfigError(f"{name} goes with --analyses FILE; without it the starts are simulated")
    if options.truth is None and network.flow is None:
        raise ConfigError(
            f"--step {network.name} needs states: give --analyses FILE, or --truth FLOW for simulated ones, one of "
            f"{', '.join(flows())}"
        )
    flow = network.flow if options.truth is None else flow_of(options.truth, "--truth")
    hours, given = hours_of(flow), options.hours
    for name, other in (("--hours", given), ("the step", network.hours)):
        if other is not None and abs(other - hours) > 1e-6:
            raise ConfigError(f"a step of the truth is {hours:g} hours, and {name} says {other:g}; they must agree")
    if options.analysis_error <= 0:
        raise ConfigError(f"--analysis-error is {options.analysis_error:g}; expected a share above 0, such as 0.06")
    return Source(flow, None, None, None, hours)


def leads_of(days: float, every: int, hours: float) -> range:
    """Return the leads to be stored, in steps; they may be too many for a list.

    Raises:
        ConfigError: unless the days are whole steps that can be counted, and ``every`` is 1 or more.
    """
    if hours <= 0:
        raise ConfigError(f"--hours is {hours:g}; expected the length of a step, above 0")
    steps = days * 24 / hours
    if steps > _COUNTABLE:
        raise ConfigError(f"--days {days:g} are {steps:g} steps of {hours:g} hours, too many to be counted")
    if steps < 1 or abs(steps - round(steps)) > 1e-6:
        raise ConfigError(f"--days {days:g} are {steps:g} steps of {hours:g} hours; expected whole steps, 1 or more")
    if every < 1 or round(steps) % every:
        raise ConfigError(f"--every {every}: expected a whole number that divides the {round(steps)} steps")
    return range(0, round(steps) + 1, every)


@dataclass(frozen=True, eq=False)
class Scene:
    """What a run begins with.

    Attributes:
        begin: starts, truth and climate.
        trial: analyses (N, ...) that are not scored, and what was true ``horizon`` steps later; None where there are
            none.
    """

    begin: Beginnings
    trial: tuple[Tensor, Tensor] | None


def scene_of(options: Options, source: Source, part: Part | None, leads: Sequence[int]) -> Scene:
    """Return what a run begins with.

    Raises:
        ConfigError: if files lack times.
        NonFinite: if states have gaps.
    """
    past = 0 if part is None else part.past
    states = part is not None and part.needs_climate
    if source.analyses is None:
        return _simulated(options, source, past, leads, states)
    return _from_files(options, source, past, leads, states)


def simulated_starts(options: Options) -> int:
    """Return how many starts are simulated.

    Raises:
        ConfigError: for fewer than one.
    """
    count = 4 if options.starts is None else options.starts
    if count < 1:
        raise ConfigError(f"--starts is {count}; expected 1 or more")
    return count


def _simulated(options: Options, source: Source, past: int, leads: Sequence[int], states: bool) -> Scene:
    from dtheta.ensemble.hindcast import Beginnings

    count = simulated_starts(options)
    usual = simulated.climate_states(source.flow)
    error = options.analysis_error * simulated.deviation(source.flow, usual)
    world = simulated.simulate(source.flow, count, past, leads[-1], source.horizon, error, options.seed)
    truth = world.truth[:, list(leads)]
    begin = Beginnings(
        [str(i) for i in range(count)], world.analyses, truth, climate_of(usual),
        usual[_spaced(len(usual), PAST_STATES)] if states else None,
    )  # fmt: skip
    return Scene(begin, world.trial)


def _spaced(count: int, wanted: int) -> list[int]:
    """Return so many indices below ``count``, evenly spaced, the last among them."""
    wanted = min(wanted, count)
    return [round((i + 1) * count / wanted) - 1 for i in range(wanted)]


def _from_files(options: Options, source: Source, past: int, leads: Sequence[int], states: bool) -> Scene:
    from dtheta.ensemble.hindcast import Beginnings

    analyses = source.analyses
    assert analyses is not None
    step = np.timedelta64(round(3600 * source.hours), "s")
    starts = starts_of(options, source, past, leads)
    before = [
        analyses.at([start - k * step for k in range(past, -1, -1)], f"which the start {start} needs")
        for start in starts
    ]
    truth = None
    if source.truth is not None:
        at = [
            source.truth.at([start + lead * step for lead in leads], f"a lead of the start {start}") for start in starts
        ]
        truth = torch.stack(at)
    usual = source.climate
    climate = None if usual is None else climate_of_file(usual)
    kept = None
    if states and usual is not None:
        kept = usual.at(list(usual.times[_spaced(len(usual.times), PAST_STATES)]), "which it has")
    begin = Beginnings([str(start) for start in starts], torch.stack(before), truth, climate, kept)
    return Scene(begin, _trial(analyses, starts[0], source.horizon * step))


def starts_of(options: Options, source: Source, past: int, leads: Sequence[int]) -> list[np.datetime64]:
    """Return the starts: those that were given, or some that are spaced evenly over all that can be.

    Raises:
        ConfigError: for dates that are none, or if too few can be.
    """
    from dtheta.ensemble.times import start_time

    assert source.analyses is not None
    step = np.timedelta64(round(3600 * source.hours), "s")
    if options.start:
        if options.starts is not None:
            raise ConfigError("--starts says how many, and --start which; give one of the two")
        found = [start_time(one) for one in options.start]
        dates = [one for one in found if isinstance(one, np.datetime64)]
        if len(set(dates)) != len(found):
            raise ConfigError("--start: expected dates, such as 2020-01-31T06:00, each once")
        return sorted(dates)
    known = set(source.analyses.times.tolist())
    happened = None if source.truth is None else set(source.truth.times.tolist())
    possible = [
        time for time in source.analyses.times
        if all((time - k * step).item() in known for k in range(past + 1))
        and (happened is None or all((time + lead * step).item() in happened for lead in leads))
    ]  # fmt: skip
    wanted = 4 if options.starts is None else options.starts
    if wanted < 1 or len(possible) < wanted:
        there = f"the first {possible[0]}, the last {possible[-1]}" if possible else "none"
        raise ConfigError(
            f"--starts {wanted}: {plural(len(possible), 'start has', 'starts have')} {past} analyses before, "
            f"{source.hours:g} hours apart"
            + ("" if happened is None else f", and the truth of all leads to {leads[-1] * source.hours / 24:g} days")
            + f"; {there}"
        )
    return [possible[i] for i in _spaced(len(possible), wanted)]


def _trial(analyses: States, first: np.datetime64, horizon: np.timedelta64) -> tuple[Tensor, Tensor] | None:
    """Return analyses before the first start, and those that tell how forecasts from them went; None without."""
    known = set(analyses.times.tolist())
    pairs = [t for t in analyses.times if t + horizon <= first and (t + horizon).item() in known]
    if not pairs:
        return None
    chosen = [pairs[i] for i in _spaced(len(pairs), _TRIALS)]
    why = "which measures the network"
    return analyses.at(chosen, why), analyses.at([t + horizon for t in chosen], why)
