"""The scene of ``dtheta ensemble run``: its starts, and what happened, simulated or from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dtheta.cli import ensemble_simulated as simulated
from dtheta.cli.ensemble_climate import climate_of, climate_of_file
from dtheta.cli.ensemble_files import States
from dtheta.cli.ensemble_parts import Part
from dtheta.cli.ensemble_source import Source
from dtheta.cli.units import plural
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.cli.ensemble_run import Options
    from dtheta.ensemble.hindcast import Beginnings

PAST_STATES = 64  # of the climate, of which a perturbation is made, at most
_TRIALS = 8  # forecasts that measure the network, at most


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
