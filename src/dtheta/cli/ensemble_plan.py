"""What ``dtheta ensemble run --dry-run`` says: bytes, memory and time, from one call of the network."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dtheta.cli.ensemble_assembly import rows_of
from dtheta.cli.ensemble_climate import QUANTILES, climate_memory
from dtheta.cli.ensemble_networks import called, stepping
from dtheta.cli.ensemble_scene import PAST_STATES, simulated_starts, starts_of
from dtheta.cli.ensemble_simulated import CYCLES, TRIALS
from dtheta.cli.plan import PROGRAM, Plan, size_of, size_within

if TYPE_CHECKING:
    from dtheta.cli.ensemble_networks import Network
    from dtheta.cli.ensemble_parts import Part
    from dtheta.cli.ensemble_run import Options
    from dtheta.cli.ensemble_source import Source
    from dtheta.ensemble.members import Member


def plan(
    options: Options, network: Network, source: Source, part: Part | None, members: Sequence[Member],
    leads: Sequence[int],
) -> Plan:  # fmt: skip
    """Return what a run would read and write, its memory and its time.

    Raises:
        ConfigError: for starts that there cannot be, as the run itself.
    """
    starts, past = starts_in(options, source, part, leads), 0 if part is None else part.past
    state = 4 * math.prod(source.shape)
    reads: dict[str, int | None] = {f"network {network.name}": None}
    reads |= {str(path): size_of(path) for path in options.parameters}
    notes = []
    for states in (source.analyses, source.truth, source.climate):
        if states is not None:
            reads[str(states.path)] = size_within(states.path)
    if source.analyses is None:
        notes.append(
            "the truth is simulated first, once for a seed where it is a flow on the sphere; that comes on top"
        )
    rows = rows_of(options.rows, members)
    counts = Counter(member.parameters for member in members).values()
    with stepping(network):
        seconds = _call(source, network, rows)
    calls = sum(-(-count // rows) for count in counts)
    steps = leads[-1] + 2 * past
    held = len(members) if options.hold is None else min(options.hold, len(members))
    return Plan(
        reads,
        {str(options.out): stored(source, part, members, leads, starts)},
        PROGRAM + max(3 * held * state, _beginning(source, part, leads, starts)),
        calls * steps * starts * seconds,
        options.resolved(),
        notes,
    )


def stored(source: Source, part: Part | None, members: Sequence[Member], leads: Sequence[int], starts: int) -> int:
    """Return the bytes that a run will write."""
    states = starts * len(members) * len(leads) + _given(source, part, leads, starts)
    return 4 * math.prod(source.shape) * states


def _given(source: Source, part: Part | None, leads: Sequence[int], starts: int) -> int:
    """Return how many states a run keeps beside forecasts: analyses, truth, and what is usual."""
    past = 0 if part is None else part.past
    happened = len(leads) if source.analyses is None or source.truth is not None else 0
    return starts * (past + 1 + happened) + _usual(source, part)


def _beginning(source: Source, part: Part | None, leads: Sequence[int], starts: int) -> int:
    """Return about how many bytes it takes to bring together what forecasts begin from."""
    state = 4 * math.prod(source.shape)
    kept = 2 * state * _given(source, part, leads, starts)  # once in parts, and once together
    if source.climate is not None:
        kept += climate_memory(source.climate)
    if source.analyses is None:  # trajectories of flows on the sphere stay on the disk, but for what is taken of them
        steps = CYCLES + (0 if part is None else part.past) + max(leads[-1], source.horizon) + 1
        kept += state * (starts * steps if source.grid is not None else 2 * (starts + TRIALS) * steps)
    return kept


def starts_in(options: Options, source: Source, part: Part | None, leads: Sequence[int]) -> int:
    """Return how many starts there are, all of which have the analyses and the truth that they need."""
    analyses, truth = source.analyses, source.truth
    if analyses is None:
        return simulated_starts(options)
    step, past = np.timedelta64(round(3600 * source.hours), "s"), 0 if part is None else part.past
    found = starts_of(options, source, past, leads)
    for start in found:
        for k in range(past + 1):
            analyses.index(start - k * step, f"which the start {start} needs")
        if truth is not None:
            for lead in leads:
                truth.index(start + lead * step, f"a lead of the start {start}")
    return len(found)


def _usual(source: Source, part: Part | None) -> int:
    """Return how many states tell what is usual: the mean, quantiles, and those that a perturbation is made of."""
    if source.analyses is not None and source.climate is None:
        return 0
    return 1 + QUANTILES + (PAST_STATES if part is not None and part.needs_climate else 0)


def _call(source: Source, network: Network, rows: int) -> float:
    """Return the seconds that one call takes, on a state of the source."""
    import torch

    if source.analyses is None:
        state = torch.zeros(source.shape)
    else:
        state = source.analyses.at([source.analyses.times[0]], "the first")[0]
    with torch.no_grad():
        called(network.step, state.repeat(rows, *[1] * state.ndim))
        begin = time.perf_counter()
        called(network.step, state.repeat(rows, *[1] * state.ndim))
    return time.perf_counter() - begin
