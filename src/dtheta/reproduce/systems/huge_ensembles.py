"""Huge Ensembles: are checkpoints with bred vectors a calibrated ensemble, and what do more members gain?

A member's network is one of eight emulators trained from different seeds, and its start an analysis with a bred vector;
the paper's are 29 networks on reanalyses of a quarter of a degree. Starts are of trajectories that no emulator has
seen, from analyses that are wrong by 9 m. Signs of perturbations are independent: pairs would flatter fair CRPS and
spread. Means over starts; the two starts of a trajectory count as one where intervals are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta.ensemble.ensemble import Ensemble
from dtheta.reproduce.claim import Claim, Row, exact, over_seeds, paired
from dtheta.reproduce.experiments.atmosphere import Atmosphere
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System
from dtheta.score.ensemble import AUC, Case, Event, EventTable, crps
from dtheta.score.ensemble.spectra import power
from dtheta.score.interval import Interval

SYSTEM = System("Huge Ensembles", "Mahesh et al. 2024, arXiv 2408.03100 and 2408.01581", "ensembles.md")
BAND = slice(17, 22)  # degrees of the smallest scales
EVENT = "p95"
FIVE_DAYS, ONE_DAY = 20, 4
BOTH, CHECKPOINTS, BRED = "checkpoints + bred vectors", "checkpoints", "bred vectors"

SPREAD = Claim(
    "calibrated spread",
    "With checkpoints and bred vectors the spread at 5 days is at least 0.9 of the error of the mean.",
    "29 SFNOs, ERA5 of 2018 and 2023: spread and error close; figures not at hand",
)
BETTER = {
    (other, lead): Claim(
        f"both, against {other} alone, {days}",
        f"Checkpoints with bred vectors have a lower fair CRPS at {days} than {other} alone.",
        "Both kinds of uncertainty are perturbed, ERA5; figures not at hand",
    )
    for other in (CHECKPOINTS, BRED)
    for lead, days in ((ONE_DAY, "1 day"), (FIVE_DAYS, "5 days"))
}
ROUGH = Claim(
    "members stay rough",
    "At 5 days members keep at least 0.9 of the truth's power at the smallest scales.",
    "Member spectra constant with lead time, 29 SFNOs, ERA5",
)
SMOOTH = Claim(
    "the mean becomes smooth",
    "The share of the truth's power that the ensemble mean has at the smallest scales falls from 1 to 5 days.",
    "Spectra of the mean fall at high degrees, 29 SFNOs, ERA5",
)
EXTREMES = Claim(
    "extremes",
    "At 5 days the ensemble tells local extremes (above the 95th percentile) better than one forecast, by AUC.",
    "Reliable and discriminating for 2 m temperature above its 95th percentile, summer 2023",
)
OUTLIERS = Claim(
    "fewer outliers",
    "With four times the members, or eight, the truth lies outside of the ensemble at 5 days less than half as often.",
    "7,424 members against 58, summer 2023",
)
ALONE = Claim(
    "any member again",
    "A member that is run by itself is the same to the last bit as in the ensemble.",
    "Seed and sign of each of 7,424 members are stored to run it again",
)
IFS = Claim(
    "as good as the operational ensemble",
    "The ensemble's scores are close to those of the operational ensemble of a weather service (IFS).",
    "CRPS and EFI beside IFS ENS, 2018 and summer 2023",
)


def atmosphere(lab: Lab, seed: int) -> Atmosphere:
    """Return the atmosphere of this size."""
    count, steps, dates = lab.sized((8, 64, (40,)), (32, 240, (40, 160)))
    return Atmosphere(count, steps, dates, seed=1 + seed)


def judged(world: Atmosphere, ensemble: Ensemble, starts: Sequence[int], leads: Sequence[int]) -> dict[str, Any]:
    """Return the scores of each forecast of an ensemble, by name of the score and lead."""
    found: dict[str, list[Any]] = {}
    order = sorted(range(len(ensemble)), key=lambda i: (ensemble.members[i].draw, ensemble.members[i].parameters))
    for start in starts:  # the networks in turn, so that the first few members are of several
        for lead, states in world.run(ensemble, start, leads):
            for name, value in scores(world, states[order, 0], world.truth(start, lead)[0]).items():
                found.setdefault(f"{name} {lead}", []).append(value)
    return found


def scores(world: Atmosphere, members: Tensor, truth: Tensor) -> dict[str, Any]:
    """Return the scores of members (M, H, W) of the upper height against the truth (H, W)."""
    mean = world.flow.grid.mean
    powers = (power(members, world.transform).mean(0), power(members.mean(0), world.transform))
    rough, smooth, true = (float(p[BAND].sum()) for p in (*powers, power(truth, world.transform)))
    return {
        "crps": float(mean(crps(members, truth).double())),
        "variance": float(mean(members.double().var(0))) * (1 + 1 / len(members)),
        "error": float(mean((members.double().mean(0) - truth).square())),
        "power": [rough, smooth, true],
        "auc": [discrimination(world, part, truth) for part in (members, members[:1])],
        "outside": {str(size): world.outside(members[:size], truth) for size in (2, 4, 8, 16, 32, 64)
                    if size <= len(members)},
    }  # fmt: skip


def discrimination(world: Atmosphere, members: Tensor, truth: Tensor) -> float:
    """Return the area below the ROC curve of the share of members above the local 95th percentile."""
    table = EventTable(Event(above=EVENT), bins=len(members))
    case = Case(truth, world.flow.grid.area_HW()[None], {EVENT: world.extreme.expand_as(truth)}, _none)
    return float(AUC(table).of_means(table.totals(members, case))[0])


def _none() -> Tensor:
    raise NotImplementedError  # events draw no random numbers


def differing(world: Atmosphere, ensemble: Ensemble, leads: Sequence[int]) -> int:
    """Return in how many numbers members that are run alone differ from those of the ensemble."""
    together = [states for _, states in world.run(ensemble, 0, leads)]
    wrong = 0
    for index in (0, len(ensemble) - 1):
        alone = [states[0] for _, states in world.run(ensemble.only([index]), 0, leads)]
        wrong += sum(int((a != b[index]).sum()) for a, b in zip(alone, together, strict=True))
    return wrong


def rows(lab: Lab) -> Iterator[Row]:
    """Run the experiments, and yield a row a claim."""
    worlds = [atmosphere(lab, seed) for seed in lab.seeds_or(1, 1)]
    leads = lab.sized((ONE_DAY, FIVE_DAYS), (ONE_DAY, 8, FIVE_DAYS, 40))
    found = {name: _sets(lab, worlds, name, leads) for name in (BOTH, CHECKPOINTS, BRED)}
    world = worlds[0]
    here = f"8 SFNO emulators of a two-layer flow, 8 members, {len(worlds) * len(world.starts)} starts"
    both = found[BOTH]
    variance, error = (_by_trajectory(both[f"{name} {FIVE_DAYS}"], world) for name in ("variance", "error"))
    ratio = _ratio(variance, error, math.sqrt)
    yield Row(SPREAD, here, ratio, "times", 0.9, note="1 is calibrated.")
    for (other, lead), claim in BETTER.items():
        gaps = [a - b for a, b in zip(both[f"crps {lead}"], found[other][f"crps {lead}"], strict=True)]
        yield Row(claim, here, over_seeds(_by_trajectory(gaps, world)), "m", side="below", note=_crps(found, lead))
    yield from _spectra(both, world, here)
    gaps = _by_trajectory([a - b for a, b in both[f"auc {FIVE_DAYS}"]], world, torch.nanmean)  # NaN: no extremes there
    better = over_seeds([gap for gap in gaps if not math.isnan(gap)])
    yield Row(EXTREMES, here, better, "AUC", note="Against the first member; percentiles by latitude.")
    yield _outliers(lab, world, both, here)
    wrong = lab.run("alone", BOTH, 0, lambda: {"wrong": differing(world, _ensemble(world, BOTH), [2])})
    alone = "8 emulators, 8 bred vectors; the first and the last member, one start, 12 h"
    yield Row(ALONE, alone, exact(float(wrong["wrong"])), "numbers that differ", 1.0, "below")
    yield Row(IFS, note="No package carries operational forecasts, nor reanalyses to judge them by.")


def _ensemble(world: Atmosphere, name: str, members: int = 8) -> Ensemble:
    networks = 1 if name == BRED else world.networks
    return world.ensemble(networks, None if name == CHECKPOINTS else world.bred(), members)


def _sets(lab: Lab, worlds: Sequence[Atmosphere], name: str, leads: Sequence[int]) -> dict[str, list[Any]]:
    """Return the scores of all forecasts of a set, of the atmospheres one after the other."""
    found: dict[str, list[Any]] = {}
    for seed, world in enumerate(worlds):
        run = lab.run("set", name, seed, lambda w=world: {"scores": judged(w, _ensemble(w, name), w.starts, leads)})
        for score, values in run["scores"].items():
            found.setdefault(score, []).extend(values)
    return found


def _outliers(lab: Lab, world: Atmosphere, both: Mapping[str, Any], here: str) -> Row:
    key, sizes = f"outside {FIVE_DAYS}", ("2", "8")
    shares = both[key]
    if not lab.fast:
        some = world.starts[: world.count : 2]
        many_members = _ensemble(world, BOTH, 64)
        run = lab.run("outliers", "64", 0, lambda: {"scores": judged(world, many_members, some, [FIVE_DAYS])})
        shares, sizes = run["scores"][key], ("8", "64")
        here = f"8 emulators with 1 and 8 bred vectors each, {len(shares)} starts"
    few, many = ([100 * share[size] for share in shares] for size in sizes)
    mean = [sum(values) / len(values) for values in (few, many)]
    calibrated = [200 / (int(size) + 1) for size in sizes]
    note = f"{mean[0]:.1f} and {mean[1]:.1f} % with {sizes[0]} and {sizes[1]} members; calibrated "
    note += f"{calibrated[0]:.1f} and {calibrated[1]:.1f} %, {calibrated[1] / calibrated[0]:.2f} times."
    return Row(OUTLIERS, here, _ratio(many, few), "times", 0.5, "below", note)


def _spectra(both: Mapping[str, Any], world: Atmosphere, here: str) -> Iterator[Row]:
    """Yield the rows about power at the smallest scales."""
    powers = {f"{who} {lead}": [p[i] for p in both[f"power {lead}"]]
              for lead in (ONE_DAY, FIVE_DAYS) for i, who in enumerate(("members", "mean", "truth"))}  # fmt: skip
    members, truth = (_by_trajectory(powers[f"{who} {FIVE_DAYS}"], world) for who in ("members", "truth"))
    kept = _ratio(members, truth)
    yield Row(ROUGH, here, kept, "times", 0.9, note="Degrees 17 to 21.")
    shares = {
        lead: [a / b for a, b in zip(powers[f"mean {lead}"], powers[f"truth {lead}"], strict=True)]
        for lead in (ONE_DAY, FIVE_DAYS)
    }
    means = [sum(values) / len(values) for values in shares.values()]
    note = f"Degrees 17 to 21; {means[0]:.2f} at 1 day, {means[1]:.2f} at 5."
    late, early = (_by_trajectory(shares[lead], world) for lead in (FIVE_DAYS, ONE_DAY))
    yield Row(SMOOTH, here, paired(late, early), "of the truth's", 0.0, "below", note)


def _by_trajectory(
    values: Sequence[float], world: Atmosphere, mean: Callable[[Tensor, int], Tensor] = torch.mean
) -> list[float]:
    """Return the mean over the starts of each trajectory; the starts of an atmosphere come date by date."""
    by_date = torch.tensor(values, dtype=torch.float64).view(-1, len(world.dates), world.count)
    return mean(by_date, 1).flatten().tolist()


def _ratio(top: Sequence[float], bottom: Sequence[float], of: Callable[[float], float] = float) -> Interval:
    """Return the ratio of two means over trajectories, with an interval by the delta method."""
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (top, bottom))
    ratio = float(a.mean() / b.mean())
    spread = over_seeds(((a - ratio * b) / b.mean()).tolist())
    low, high = (of(max(0.0, ratio + end - spread.estimate)) for end in (spread.low, spread.high))
    return Interval(of(ratio), low, high, spread.level, "t of a ratio")


def _crps(found: Mapping[str, Mapping[str, Any]], lead: int) -> str:
    means = {name: sum(scores[f"crps {lead}"]) / len(scores[f"crps {lead}"]) for name, scores in found.items()}
    return "CRPS in m: " + ", ".join(f"{name} {value:.2f}" for name, value in means.items()) + "."
