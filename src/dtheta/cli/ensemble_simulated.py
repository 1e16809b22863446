"""Simulated starts of ``dtheta ensemble run``: a flow as the truth, and synthetic analyses of it.

Every start is a trajectory of its own, so starts are independent. A few more trajectories measure the error of the
network after two days, which sets the amplitude of perturbations; none of them is scored. All are drawn from keys of
their own, so none is one that the shipped networks were trained on.

Shape legend: S starts, N trajectories, T times, K analyses before a start, ... the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dtheta.core.seeds import key

if TYPE_CHECKING:
    from dtheta.ensemble.layout import Field

CYCLES = 20  # steps in which the error of a synthetic analysis takes its shape
TRIALS = 4  # trajectories beside the starts
_CLIMATE = (12, 240)  # trajectories, and steps of each
_SPIN_UP = 240  # steps, 60 days
_EVERY = 4  # steps between states of the climate


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated world.

    Attributes:
        analyses: (S, K + 1, ...), the last being that of the start.
        truth: (S, T, ...), from the start on, a step apart.
        trial: analyses (N, ...) of other trajectories, and the truth (N, ...) some steps later.
    """

    analyses: Tensor
    truth: Tensor
    trial: tuple[Tensor, Tensor]


def simulate(flow: Any, starts: int, past: int, steps: int, horizon: int, error: float, seed: int) -> Simulated:
    """Return a simulated world.

    Args:
        flow: the truth.
        starts: S.
        past: K.
        steps: of the truth after a start.
        horizon: steps after which the network is measured.
        error: of analyses, in the unit of the first channel.
        seed: of all draws.
    """
    from dtheta.data.flows.analyses import synthetic_analyses

    begin = CYCLES + past
    states = _trajectories(flow, starts + TRIALS, begin + max(steps, horizon), key(seed, "ensemble/truth") % 2**31)
    times = range(CYCLES, begin + 1)
    analyses = synthetic_analyses(flow, states, times, error, CYCLES, key(seed, "ensemble/analyses") % 2**31)
    trial = analyses[starts:, -1], states[starts:, begin + horizon].clone()
    return Simulated(analyses[:starts], states[:starts, begin : begin + steps + 1].clone(), trial)


@cache
def climate_states(flow: Any) -> Tensor:
    """Return states (N, ...) of the climate of a flow, a day or so apart; the same for every run."""
    states = _trajectories(flow, *_CLIMATE, key(0, "ensemble/climate") % 2**31)
    return states[:, ::_EVERY].flatten(0, 1)


def deviation(flow: Any, states: Tensor) -> float:
    """Return the standard deviation of states (N, ...) of a flow about their mean, in the first channel."""
    variance = states.double().var(0)
    grid = getattr(flow, "grid", None)
    return float(variance.mean() if grid is None else grid.mean(variance[0])) ** 0.5


def fields_of(flow: Any) -> list[Field] | None:
    """Return the channels of the states of a flow; None where they have no axis of channels."""
    from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
    from dtheta.data.flows.shallow_water import ShallowWater
    from dtheta.ensemble.layout import Field

    if isinstance(flow, QuasiGeostrophic):
        return [Field(f"z{i}", "m", "geopotential_height", f"height of the {what} layer")
                for i, what in ((1, "upper"), (2, "lower"))]  # fmt: skip
    if isinstance(flow, ShallowWater):
        return [Field("height", "m"), Field("vorticity", "s-1"), Field("divergence", "s-1")]
    return None


def _trajectories(flow: Any, members: int, steps: int, seed: int) -> Tensor:
    """Return states (N, T, ...) a step apart; those of flows on the sphere, which take long, from the cache."""
    from dtheta.data.flows.trajectories import trajectories

    if hasattr(flow, "grid"):
        return trajectories(flow, members, steps, seed)
    states = [flow.spin_up(members, seed)]
    for _ in range(steps):
        states.append(flow.step(states[-1]))
    return torch.stack(states, 1)
