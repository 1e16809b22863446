"""What ``dtheta ensemble run --dry-run`` says: bytes, memory and time, from one call of the network."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtheta.cli.ensemble_assembly import rows_of
from dtheta.cli.plan import PROGRAM, Plan, size_of

if TYPE_CHECKING:
    from dtheta.cli.ensemble_networks import Network
    from dtheta.cli.ensemble_parts import Part
    from dtheta.cli.ensemble_run import Options
    from dtheta.cli.ensemble_scene import Source
    from dtheta.ensemble.members import Member


def plan(
    options: Options, network: Network, source: Source, part: Part | None, members: Sequence[Member],
    leads: Sequence[int],
) -> Plan:  # fmt: skip
    """Return what a run would read and write, its memory and its time."""
    starts = len(options.start) or (4 if options.starts is None else options.starts)
    state = 4 * math.prod(source.shape)
    reads: dict[str, int | None] = {f"network {network.name}": None}
    reads |= {str(path): size_of(path) for path in options.parameters}
    notes = []
    for states in (source.analyses, source.truth, source.climate):
        if states is not None:
            reads[str(states.path)] = size_of(states.path)
    if source.analyses is None:
        notes.append(
            "the truth is simulated first, once for a seed where it is a flow on the sphere; that comes on top"
        )
    rows = rows_of(options.rows, members)
    counts = Counter(member.parameters for member in members).values()
    calls, seconds = sum(-(-count // rows) for count in counts), _call(source, network, rows)
    steps = leads[-1] + (2 * part.past if part is not None else 0)
    held = len(members) if options.hold is None else min(options.hold, len(members))
    return Plan(
        reads,
        {str(options.out): state * starts * (len(members) * len(leads) + len(leads) + 1)},
        PROGRAM + 3 * held * state,
        calls * steps * starts * seconds,
        options.resolved(),
        notes,
    )


def _call(source: Source, network: Network, rows: int) -> float:
    """Return the seconds that one call takes, on a state of the source."""
    import torch

    if source.analyses is None:
        state = torch.zeros(source.shape)
    else:
        state = source.analyses.at([source.analyses.times[0]], "the first")[0]
    with torch.no_grad():
        network.step(state.repeat(rows, *[1] * state.ndim))
        begin = time.perf_counter()
        network.step(state.repeat(rows, *[1] * state.ndim))
    return time.perf_counter() - begin
