"""The source of ``dtheta ensemble run``: where states come from, a flow or files that go with the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtheta.cli.ensemble_files import States, read_states
from dtheta.cli.ensemble_networks import Network, described, flow_of, flows, hours_of
from dtheta.cli.ensemble_simulated import fields_of
from dtheta.cli.idle import refuse_idle
from dtheta.core.paths import expanded
from dtheta.errors import ConfigError, ShapeMismatch

if TYPE_CHECKING:
    from dtheta.cli.ensemble_run import Options
    from dtheta.core.sphere import Grid
    from dtheta.ensemble.latlon import LatLon
    from dtheta.ensemble.layout import Field

_HORIZON = 48.0  # hours after which the network is measured, as Mahesh et al. 2025 do
_COUNTABLE = 2**53  # steps; beyond, a float is no whole number of them


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
        return fields_of(self.flow) if self.analyses is None else self.analyses.fields

    @property
    def grid(self) -> Grid | LatLon | None:
        """Of the last two axes of a state."""
        return getattr(self.flow, "grid", None) if self.analyses is None else self.analyses.grid

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of a state."""
        if self.analyses is not None:
            return self.analyses.shape
        fields = fields_of(self.flow)
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
    refuse_idle(options, ("analysis_error",), "is of simulated analyses, and --analyses has others; leave it out")
    if options.truth is not None and not expanded(options.truth).exists():
        raise ConfigError(f"--truth {options.truth}: there is no such file; with --analyses it is a file as well")
    channels = _channels(options, network)
    units = described(network.step, "units", dict)
    analyses = read_states(options.analyses, "--analyses", channels, units)
    units = (units or {}) | analyses.data.units
    truth = None if options.truth is None else _alike(expanded(options.truth), "--truth", analyses, units)
    climate = None if options.climate is None else _alike(options.climate, "--climate", analyses, units)
    hours = options.hours if options.hours is not None else network.hours if network.hours is not None else 6.0
    return Source(None, analyses, truth, climate, hours)


def _channels(options: Options, network: Network) -> Sequence[str] | None:
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
    from dtheta.ensemble.labeled import require_same_cells

    found = read_states(path, option, analyses.channels, units)
    if found.shape != analyses.shape:
        raise ShapeMismatch(
            f"{option} {path}: states are {found.shape}, and in --analyses {analyses.path} {analyses.shape}; "
            "interpolate one of them first"
        )
    require_same_cells(analyses.data, found.data, f"{option} {path}")
    return found


def _of_flow(options: Options, network: Network) -> Source:
    of_files = ("climate", "channels", "start")
    refuse_idle(options, of_files, "goes with --analyses FILE; without it the starts are simulated")
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
