"""A small atmosphere with its emulators: what stands in for reanalyses and for networks that were trained on them.

truth      trajectories of the two-layer flow that no emulator has seen; upper height in m, a step is 6 h
analyses   synthetic: the truth plus an error of 9 m that the flow has shaped
networks   the eight SFNO emulators that ship with dtheta, trained from different seeds
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dtheta.core.sphere import SphericalTransform
from dtheta.data.flows.analyses import synthetic_analyses
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.data.flows.trajectories import trajectories
from dtheta.ensemble.bred import BredVectors
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.members import cross
from dtheta.ensemble.noise import SphericalNoise
from dtheta.ensemble.perturbation import Perturbation
from dtheta.ensemble.rescaling import HemisphericRescaling
from dtheta.models.load import load_model

ERROR, SHARE, HORIZON = 9.0, 0.35, 8  # m; amplitude over the error at 48 h; steps to there


@dataclass(frozen=True)
class Atmosphere:
    """The truth, its analyses and the emulators, made when first asked for.

    Attributes:
        count: Trajectories.
        steps: Of each.
        dates: Steps at which forecasts start; the first forecasts of all trajectories, then the next.
        before: Analyses before a start.
        networks: Emulators that are used.
        seed: Of the trajectories; 0 is what emulators were trained on.
    """

    count: int = 32
    steps: int = 240
    dates: tuple[int, ...] = (40, 160)
    before: int = 3
    networks: int = 8
    seed: int = 1

    @cached_property
    def flow(self) -> QuasiGeostrophic:
        """The flow."""
        return QuasiGeostrophic()

    @cached_property
    def transform(self) -> SphericalTransform:
        """Spherical harmonics up to the truncation of the flow."""
        return SphericalTransform(self.flow.grid, self.flow.truncation)

    @cached_property
    def emulators(self) -> list[Any]:
        """The emulators."""
        return [load_model(f"qg-sfno-{i}") for i in range(self.networks)]

    @cached_property
    def states(self) -> Tensor:
        """Trajectories (N, T, C, H, W)."""
        return trajectories(self.flow, self.count, self.steps, seed=self.seed)

    @cached_property
    def analyses(self) -> Tensor:
        """Analyses (S, before + 1, C, H, W): of the steps before each start, and at it."""
        spans = [range(date - self.before, date + 1) for date in self.dates]
        return torch.cat([synthetic_analyses(self.flow, self.states, span, ERROR) for span in spans])

    @property
    def starts(self) -> range:
        """Forecasts."""
        return range(self.count * len(self.dates))

    def truth(self, start: int, lead: int) -> Tensor:
        """Return the state (C, H, W) so many steps after a start."""
        date, trajectory = divmod(start, self.count)
        return self.states[trajectory, self.dates[date] + lead]

    @cached_property
    def amplitude(self) -> Tensor:
        """0.35 times the root mean square error of the first emulator at 48 h, by channel (C,)."""
        x = self.analyses[::4, -1]
        with torch.no_grad():
            for _ in range(HORIZON):
                x = self.emulators[0](x)
        truth = torch.stack([self.truth(start, HORIZON) for start in self.starts[::4]])
        return SHARE * self.flow.grid.mean((x - truth).square()).mean(0).sqrt()

    @cached_property
    def extreme(self) -> Tensor:
        """95th percentile (H, 1) of the upper height by latitude; the climate is the same at every longitude."""
        values = self.states[:, ::4, 0].movedim(2, 0).flatten(1).double()
        return torch.quantile(values[:, :: max(1, values.shape[1] >> 18)], 0.95, dim=1, keepdim=True).float()

    def noise(self, length_km: float = 500.0, both: bool = False) -> SphericalNoise:
        """Return correlated noise, of the upper height alone or of both."""
        amplitude = self.amplitude if both else self.amplitude * torch.tensor([1.0, 0.0])
        return SphericalNoise(amplitude, self.flow.grid, length_km, degree=self.flow.truncation)

    def bred(self, cycles: int = 3) -> BredVectors:
        """Return bred vectors as in the paper."""
        return BredVectors(self.amplitude, self.noise(), cycles, HemisphericRescaling(self.flow.grid))

    def ensemble(self, networks: int, perturbation: Perturbation | None, members: int) -> Ensemble:
        """Return an ensemble of so many members, dealt over the networks, all signs alike."""
        draws = members // networks
        chosen = cross(networks, draws, signs=(1,) if perturbation is not None else (0,))
        return Ensemble(
            self.emulators[0], chosen, parameters=self.emulators[:networks], perturbation=perturbation,
            rows=min(16, draws), hours=6.0,
        )  # fmt: skip

    def run(self, ensemble: Ensemble, start: int, leads: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield leads with the members' states (M, C, H, W)."""
        past = self.analyses[start, -1 - ensemble.past : -1] if ensemble.past else None
        with torch.no_grad():
            yield from ensemble.run(self.analyses[start, -1], list(leads), past=past, time=start)

    def outside(self, members: Tensor, truth: Tensor) -> float:
        """Return the share of the sphere where the truth (H, W) lies outside of all members (M, H, W)."""
        found = (truth < members.amin(0)) | (truth > members.amax(0))
        return float(self.flow.grid.mean(found.double()))
