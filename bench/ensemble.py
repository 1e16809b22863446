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

from dtheta.data.flows.trajectories import trajectories
from dtheta.ensemble import (
    Perturbation,
    RandomFields,
    WhiteNoise,
)
from dtheta.reproduce.experiments.atmosphere import Atmosphere
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
NETWORKS, BEFORE = 8, 8  # networks; analyses before a start
LEADS = (1, 4, 8, 12, 20, 28, 40)  # of 6 h
EVENT = Event(above="p95")


class Flow(Atmosphere):
    """The atmosphere with the starts of a trajectory together, its climate, and sets of members."""

    @cached_property
    def climate(self) -> Tensor:
        """States (N, C, H, W) of the trajectories that emulators are trained on, a day apart."""
        return trajectories(self.flow, 96, 320, seed=0)[::4, ::4].flatten(0, 1)

    @cached_property
    def analyses(self) -> Tensor:
        """Analyses (S, 9, C, H, W): of the 8 steps before each start, and at it; starts of a trajectory together."""
        return super().analyses.unflatten(0, (len(self.dates), self.count)).transpose(0, 1).flatten(0, 1)

    def truth(self, start: int, lead: int) -> Tensor:
        """Return the state (C, H, W) so many steps after a start."""
        trajectory, date = divmod(start, len(self.dates))
        return super().truth(date * self.count + trajectory, lead)

    def sets(self) -> dict[str, tuple[int, Perturbation | None]]:
        """Return how many networks, and which perturbation, by the name of the set."""
        one = {f"bred vectors, {cycles} cycles": (1, self.bred(cycles)) for cycles in (1, 3, BEFORE)}
        return {
            "checkpoints": (NETWORKS, None),
            "checkpoints + bred vectors": (NETWORKS, self.bred()),
            "checkpoints + noise 500 km": (NETWORKS, self.noise()),
            **one,
            "noise 500 km": (1, self.noise()),
            "noise 2000 km": (1, self.noise(2000.0, both=True)),
            "white noise": (1, WhiteNoise(self.amplitude)),
            "random fields": (1, RandomFields(self.climate, self.amplitude)),
        }


def compared(flow: Flow, name: str) -> dict[str, Any]:
    """Return scores of a set by lead."""
    networks, perturbation = flow.sets()[name]
    scores = Verification([RMSE(), CRPS(), SpreadError()], grid=flow.flow.grid, channels=["z1", "z2"])
    ensemble = flow.ensemble(networks, perturbation, NETWORKS)
    for start in range(len(flow.analyses)):
        for lead, x in flow.run(ensemble, start, LEADS):
            scores.update(start, lead, x, flow.truth(start, lead))
    return {"scores": numbers(scores, block=len(flow.dates))}


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
    scores = Verification(
        metrics, grid=flow.flow.grid, channels=["z1", "z2"], references=references, transform=flow.transform
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
        for size in sizes:
            shares[size] += flow.outside(x[order[:size], 0], flow.truth(start, lead)[0]) / 4
    return {"shares": shares}


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Yield the rows of the parts asked for."""
    flow, runs = Flow(before=BEFORE), Runs(arguments.runs, ("part", "name"))
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
