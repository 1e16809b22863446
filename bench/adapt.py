"""Do the claims of PiSSA and SORSA hold here? Equal rank, steps and batches, a tuned rate for each method.

    PiSSA    training loss below LoRA's (arXiv 2404.02948, figures 2 to 4: faster convergence, lower final loss)
    SORSA    its singular vectors stay orthonormal, against the same method without the regularizer (arXiv 2409.00055)

The settings are those of `dtheta.reproduce.experiments.adaptations`. Two losses are claimed to be lower: the mean over
all steps (how fast) and that over the last quarter (how far). For each a method's rate is the one at which that loss
is lowest on seeds that are not used again, among half-decades; all methods of a setting start from the same part of the
ladder, and where the best lies at an end the search goes on outwards until it does not. SORSA without its regularizer
takes SORSA's rates. Then every test seed runs all methods on the same batches, and differences are paired by seed. A
run that diverges counts as infinite loss.

    python bench/adapt.py [--json] [--seeds 5] [--settings toy-fashion-8 ...]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from _rates import best_rate

from dtheta.reproduce.experiments.adaptations import LADDER, SETTINGS, Run, train
from dtheta.reproduce.runs import Runs
from dtheta.score.interval import paired_interval


class Trainings:
    """All trainings, kept in a file as they end."""

    def __init__(self, path: Path) -> None:
        self.runs = Runs(path, ("setting", "method", "rate", "seed"))

    def get(self, setting: str, method: str, rate: float, seed: int) -> Run:
        """Return a training, from the file or by training now."""
        key = (setting, method, rate, seed)
        return Run(**self.runs.get(key, lambda: vars(train(*key))))

    def many(self, setting: str, method: str, rate: float, seeds: Iterable[int]) -> list[Run]:
        """Return the trainings of several seeds."""
        return [self.get(setting, method, rate, seed) for seed in seeds]


def tuned_rate(runs: Trainings, name: str, method: str, field: str) -> float:
    """Return the rate of lowest loss on the tuning seeds; its two neighbors on the ladder are worse."""
    setting = SETTINGS[name]
    tuned = "SORSA" if method.startswith("SORSA") else method

    def loss(rate: float) -> float:
        return _mean([getattr(r, field) for r in runs.many(name, tuned, rate, setting.tuning_seeds)])

    return best_rate(LADDER, setting.first, loss)


def claims(runs: Trainings, name: str, seeds: range) -> list[dict[str, Any]]:
    """Return the rows of one setting."""
    rows: list[dict[str, Any]] = []
    for tuned_by in ("mean_loss", "final_loss"):
        rate = {m: tuned_rate(runs, name, m, tuned_by) for m in SETTINGS[name].methods}
        of = {m: runs.many(name, m, rate[m], seeds) for m in rate}
        fields = [tuned_by] + ["accuracy"] * (of["LoRA"][0].accuracy is not None)
        for system in ("PiSSA", "SORSA"):
            pairs = [(baseline, field) for baseline in _baselines(rate) for field in fields]
            rows += [_against(name, system, baseline, field, of, rate) for baseline, field in pairs]
            if SETTINGS[name].one_rate:
                lora = runs.many(name, "LoRA", rate[system], seeds)
                rows.append(_at_one_rate(name, system, tuned_by, of[system], lora, rate[system]))
        rows.append(_orthonormal(name, of, rate["SORSA"]))
    return list({(row["claim"], row["note"], row["system"]): row for row in rows}.values())  # once where rates agree


def _baselines(methods: Iterable[str]) -> list[str]:
    return [m for m in methods if m.startswith("LoRA")]


def _against(
    name: str, system: str, baseline: str, field: str, of: dict[str, list[Run]], rate: dict[str, float]
) -> dict[str, Any]:
    """Return the row that compares a method with LoRA, each at its own rate."""
    ours, theirs = ([getattr(run, field) for run in of[m]] for m in (system, baseline))
    order = "above" if field == "accuracy" else "below"
    note = f"rates {rate[system]:g} and {rate[baseline]:g}"
    if not all(LADDER[0] < rate[m] < LADDER[-1] for m in (system, baseline)):
        note += ", an end of the ladder"
    claim = f"{name}: {field.replace('_', ' ')} {order} that of {baseline}"
    return _row(system, claim, "direction only; other models and tasks", ours, theirs, note, field == "accuracy")


def _at_one_rate(name: str, system: str, field: str, ours: list[Run], lora: list[Run], rate: float) -> dict[str, Any]:
    """Return the row at one rate for both, as the papers compare them: that which is best for the method."""
    losses, theirs = ([getattr(run, field) for run in runs] for runs in (ours, lora))
    claim = f"{name}: {field.replace('_', ' ')} below that of LoRA at one rate for both"
    note = f"rate {rate:g}, {system}'s best"
    return _row(system, claim, "equal or nearly equal rates for all methods", losses, theirs, note)


def _orthonormal(name: str, of: dict[str, list[Run]], rate: float) -> dict[str, Any]:
    """Return the row on SORSA's regularizer: mean over factors of ||G - I||_F, G the Gram matrix after training."""
    kept, free = ([run.orthonormality or 0.0 for run in of[m]] for m in ("SORSA", "SORSA, gamma 0"))
    claim = f"{name}: factors nearer to orthonormal than without the regularizer"
    note = f"||G - I||_F, mean over factors, rate {rate:g}"
    return _row("SORSA", claim, "the regularizer keeps them orthonormal", kept, free, note)


def _row(
    system: str, claim: str, paper: str, ours: list[float], theirs: list[float], note: str, larger: bool = False
) -> dict[str, Any]:
    gain = paired_interval(ours, theirs)
    return {
        "system": system,
        "claim": claim,
        "paper": paper,
        "ours": f"{_mean(ours):.4g} against {_mean(theirs):.4g}",
        "interval": [float(f"{x:.3g}") for x in (gain.estimate, gain.low, gain.high)],
        "seeds": len(ours),
        "holds": gain.low > 0 if larger else gain.high < 0,
        "note": f"{SETTINGS[claim.split(':')[0]].what}; {note}",
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="all by default")
    parser.add_argument("--runs", type=Path, default=Path("adapt_runs.jsonl"), help="where finished runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = Trainings(options.runs)
    rows = [row for name in options.settings for row in claims(runs, name, range(options.seeds))]
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        verdict = "holds" if row["holds"] else "FAILS"
        print(f"{verdict:6} {row['system']:6} {row['claim']}: {row['ours']} {row['interval']} ({row['note']})")


if __name__ == "__main__":
    main()
