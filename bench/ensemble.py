"""Ensembles of a two-layer flow by the shipped emulators: what checkpoints, bred vectors and noises are worth.

64 starts, of 32 trajectories that no emulator has seen, two dates each, from synthetic analyses with an error of 9 m;
members of every set are equally many and their perturbations of independent sign, since pairs flatter fair CRPS and
spread. Scores of the upper height over the sphere; intervals from a bootstrap over blocks of the two starts that share
a trajectory.

sets      8 members: checkpoints alone, checkpoints + bred vectors, bred vectors of one checkpoint, and noises of one
          checkpoint (500 km, 2000 km, white, differences of past states), and 1, 3 or 8 cycles of breeding
extremes  64 members (8 checkpoints x 8 bred vectors), 16 starts: reliability, AUC, EFI for the local 95th percentile;
          power by degree of members and of the mean
outliers  the truth outside of the ensemble, 10 to ``--members`` members, 4 starts, at 5 days: 2 / (M + 1) if calibrated

    python bench/ensemble.py [--json] [--parts sets extremes outliers] [--runs ensemble_runs.jsonl] [--members 1000]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from _measure import Row, compare, main
from torch import Tensor

import dtheta as dt
from dtheta.core.sphere import SphericalTransform
from dtheta.data.flows.analyses import synthetic_analyses
from dtheta.data.flows.quasi_geostrophic import QuasiGeostrophic
from dtheta.data.flows.trajectories import trajectories
from dtheta.ensemble import (
    BredVectors,
    Ensemble,
    HemisphericRescaling,
    Perturbation,
    RandomFields,
    SphericalNoise,
    WhiteNoise,
    cross,
)
from dtheta.reproduce.runs import Runs
from dtheta.score.ensemble import (
    AUC,
    CRPS,
    RMSE,
    EFITable,
    Event,
    EventTable,
    Outliers,
    Reliability,
    SpectrumRatio,
    SpreadError,
    Verification,
)

PARTS = ("sets", "extremes", "outliers")
NETWORKS, TRAJECTORIES, DATES, BEFORE = 8, 32, (40, 160), 8  # analyses before a start
LEADS = (1, 4, 8, 12, 20, 28, 40)  # of 6 h
ERROR, SHARE, HORIZON = 9.0, 0.35, 8  # m; amplitude over the error at 48 h
SEED = 1  # of the trajectories that no emulator was trained on
EVENT = Event(above="p95")


class Flow:
    """The truth, its analyses and climate, and the emulators, made when first asked for."""

    flow = QuasiGeostrophic()

    @cached_property
    def networks(self) -> list[Any]:
        """The shipped emulators."""
        return [dt.load_model(f"qg-sfno-{i}") for i in range(NETWORKS)]

    @cached_property
    def states(self) -> Tensor:
        """Trajectories (N, T, C, H, W)."""
        return trajectories(self.flow, TRAJECTORIES, 240, seed=SEED)

    @cached_property
    def climate(self) -> Tensor:
        """States (N, C, H, W) of the trajectories that emulators are trained on, a day apart."""
        return trajectories(self.flow, 96, 320, seed=0)[::4, ::4].flatten(0, 1)

    @cached_property
    def analyses(self) -> Tensor:
        """Analyses (S, 9, C, H, W): of the 8 steps before each start, and at it; starts of a trajectory together."""
        found = [synthetic_analyses(self.flow, self.states, range(d - BEFORE, d + 1), ERROR) for d in DATES]
        return torch.stack(found, 1).flatten(0, 1)

    def truth(self, start: int, lead: int) -> Tensor:
        """Return the state (C, H, W) so many steps after a start."""
        trajectory, date = divmod(start, len(DATES))
        return self.states[trajectory, DATES[date] + lead]

    @cached_property
    def amplitude(self) -> Tensor:
        """0.35 times the root mean square error of the first emulator at 48 h, by channel (C,)."""
        x = self.analyses[::4, -1]
        with torch.no_grad():
            for _ in range(HORIZON):
                x = self.networks[0](x)
        truth = torch.stack([self.truth(start, HORIZON) for start in range(0, len(self.analyses), 4)])
        return SHARE * self.flow.grid.mean((x - truth).square()).mean(0).sqrt()

    def noise(self, length_km: float, both: bool = False) -> SphericalNoise:
        """Return correlated noise, of the upper height alone or of both."""
        amplitude = self.amplitude if both else self.amplitude * torch.tensor([1.0, 0.0])
        return SphericalNoise(amplitude, self.flow.grid, length_km, degree=self.flow.truncation)

    def bred(self, cycles: int = 3) -> BredVectors:
        """Return bred vectors as in the paper."""
        return BredVectors(self.amplitude, self.noise(500.0), cycles, HemisphericRescaling(self.flow.grid))

    def sets(self) -> dict[str, tuple[int, Perturbation | None]]:
        """Return how many networks, and which perturbation, by the name of the set."""
        one = {f"bred vectors, {cycles} cycles": (1, self.bred(cycles)) for cycles in (1, 3, BEFORE)}
        return {
            "checkpoints": (NETWORKS, None),
            "checkpoints + bred vectors": (NETWORKS, self.bred()),
            "checkpoints + noise 500 km": (NETWORKS, self.noise(500.0)),
            **one,
            "noise 500 km": (1, self.noise(500.0)),
            "noise 2000 km": (1, self.noise(2000.0, both=True)),
            "white noise": (1, WhiteNoise(self.amplitude)),
            "random fields": (1, RandomFields(self.climate, self.amplitude)),
        }

    def ensemble(self, networks: int, perturbation: Perturbation | None, members: int) -> Ensemble:
        """Return an ensemble of so many members, dealt over the networks, all signs alike."""
        draws = members // networks
        chosen = cross(networks, draws, signs=(1,) if perturbation is not None else (0,))
        return Ensemble(
            self.networks[0], chosen, parameters=self.networks[:networks], perturbation=perturbation,
            rows=min(16, draws), hours=6.0,
        )  # fmt: skip

    def run(self, ensemble: Ensemble, start: int, leads: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield leads with the members' states."""
        past = self.analyses[start, -1 - ensemble.past : -1] if ensemble.past else None
        with torch.no_grad():
            yield from ensemble.run(self.analyses[start, -1], list(leads), past=past, time=start)


def compared(flow: Flow, name: str) -> dict[str, Any]:
    """Return scores of a set by lead."""
    networks, perturbation = flow.sets()[name]
    scores = Verification([RMSE(), CRPS(), SpreadError()], grid=flow.flow.grid, channels=["z1", "z2"])
    ensemble = flow.ensemble(networks, perturbation, NETWORKS)
    for start in range(len(flow.analyses)):
        for lead, x in flow.run(ensemble, start, LEADS):
            scores.update(start, lead, x, flow.truth(start, lead))
    return {"scores": numbers(scores, block=len(DATES))}


def numbers(scores: Verification, block: int = 1) -> list[dict[str, Any]]:
    """Return the scores of the upper height that are numbers."""
    found = scores.result(block=block).select(channel="z1")
    return [s.to_dict() for s in found if s.value.ndim == 0]


def extremes(flow: Flow) -> dict[str, Any]:
    """Return reliability, AUC, EFI and spectra of 64 members."""
    shares = torch.linspace(0, 1, 101, dtype=torch.float64)
    quantiles = torch.quantile(flow.climate.flatten(1).double(), shares, 0).float().unflatten(1, flow.climate.shape[1:])
    references = {
        "p95": quantiles[95],
        "mean": flow.climate.double().mean(0).float(),
        "climate": quantiles.transpose(0, 1),  # by channel, then quantiles
    }
    metrics = [
        SpectrumRatio("members", "mean"), SpectrumRatio("mean", "mean"), Reliability(EVENT), AUC(EventTable(EVENT)),
        AUC(EFITable(EVENT, "climate")), Outliers(), CRPS(), SpreadError(),
    ]  # fmt: skip
    transform = SphericalTransform(flow.flow.grid, flow.flow.truncation)
    scores = Verification(
        metrics, grid=flow.flow.grid, channels=["z1", "z2"], references=references, transform=transform
    )
    ensemble = flow.ensemble(NETWORKS, flow.bred(), 64)
    for start in range(0, 64, 4):
        for lead, x in flow.run(ensemble, start, LEADS):
            scores.update(start, lead, x, flow.truth(start, lead))
    return {"scores": [s.to_dict() for s in scores.result().select(channel="z1")]}


def outliers(flow: Flow, members: int) -> dict[str, Any]:
    """Return the share of cells whose truth lies outside of the first M members, at 5 days."""
    sizes = [size for size in (10, 30, 100, 300, 1000, 3000, 7424) if size <= members]
    shares = {size: 0.0 for size in sizes}
    ensemble = flow.ensemble(NETWORKS, flow.bred(), members)
    order = torch.arange(len(ensemble)).view(NETWORKS, -1).T.flatten()  # the networks in turn
    for start in range(0, 64, 16):
        ((lead, x),) = flow.run(ensemble, start, [20])
        truth, weights = flow.truth(start, lead)[0], flow.flow.grid
        for size in sizes:
            chosen = x[order[:size], 0]
            outside = ((truth < chosen.amin(0)) | (truth > chosen.amax(0))).double()
            shares[size] += float(weights.mean(outside)) / 4
    return {"shares": shares}


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Yield the rows of the parts asked for."""
    flow, runs = Flow(), Runs(arguments.runs, ("part", "name"))
    if "sets" in arguments.parts:
        for name in flow.sets():
            found = runs.get(("sets", name), lambda name=name: compared(flow, name))
            yield from rows(name, found["scores"])
    if "extremes" in arguments.parts:
        found = runs.get(("extremes", "64 members"), lambda: extremes(flow))
        yield from rows("64 members", [score for score in found["scores"] if not isinstance(score["value"], list)])
        yield from spectra(found["scores"])
    if "outliers" in arguments.parts:
        found = runs.get(("outliers", f"{arguments.members} members"), lambda: outliers(flow, arguments.members))
        for size, share in found["shares"].items():
            yield compare(f"outliers of {size} members, 5 d", 100 * share, None, "%", limit=200 / (int(size) + 1))


def rows(name: str, scores: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Yield a row for each score."""
    for score in scores:
        bounds = f"[{score['low']:.3g}, {score['high']:.3g}] of {score['starts']} starts"
        goal = 1.0 if score["aim"] == "one" else None
        title = f"{name}: {score['metric']} at {score['lead'] / 4:g} d"
        yield compare(title, score["value"], None, score["unit"], limit=goal, note=bounds)


def spectra(scores: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """Yield power over that of the truth, in bands of degrees."""
    for score in (score for score in scores if score["metric"].startswith("spectrum")):
        value = torch.tensor(score["value"], dtype=torch.float64).flatten()
        bands = [value[low : high + 1].mean() for low, high in ((1, 4), (5, 8), (9, 12), (13, 16), (17, 21))]
        note = "degrees 1-4, 5-8, 9-12, 13-16, 17-21: " + " ".join(f"{float(band):.2f}" for band in bands)
        yield compare(f"{score['metric']} at {score['lead'] / 4:g} d", float(bands[-1]), None, "ratio", note=note)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--members", type=int, default=1000, help="of the outlier statistic; a multiple of 8")
    parser.add_argument("--runs", type=Path, default=Path("ensemble_runs.jsonl"), help="file of finished runs")


if __name__ == "__main__":
    main("Ensembles of a two-layer flow", measure, options=options)
