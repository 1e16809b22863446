"""Do the claims of aTLAS hold here, and is a merge of compressed deltas as good? Experts on five text tasks.

    addition    one encoder for all tasks: one factor searched on 11 points of [0, 1] (task arithmetic), one learned
                coefficient a delta, one a delta and tensor (aTLAS); and the same factor searched for deltas and for
                TIES of deltas that were compressed (ComPEFT, density 0.1) or not
    negation    forget a task, keep a control at 95 %: the factor searched downwards from 0, or learned by tensor
    compressed  the sum by a searched factor of deltas compressed to a tenth and a fifth, against that of the deltas
    few-shot    a task that no delta was trained on, from k texts a class, by the deltas of the other four

Heads are frozen (see reproduce/experiments/experts.py). Coefficients are learned on 128 texts a task, the epoch and
every searched factor are chosen on 128 others, and what is shown is accuracy on 400 test texts that chose nothing.
Recipes are those of the paper with fewer and so larger steps, set once on seed 100, which is not reported. Differences
are paired by task and seed, in points, with 95 % t intervals over seeds and tasks ("addition": over seeds, of means
over tasks).

Experts are of MiniLM, or of SmolLM2 where asked for, at a third of the cost with its first ten layers. Runs, and the
experts they need, are kept in the current folder, so that an interrupted benchmark goes on.

    python bench/composition.py [--json] [--seeds 3] [--kinds Full LoRA] [--only addition negation few-shot compressed]
        [--model minilm|smollm2] [--layers N] [--runs FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dtheta.reproduce.experiments.experts import Base, Expert
from dtheta.reproduce.runs import Runs
from dtheta.reproduce.systems.atlas import KEEP, Size, addition, compressed_sums, experts, few_shot, negation
from dtheta.score import mean_interval

SIZE = Size(shots=(1, 16))
DENSITIES = (0.1, 0.2)


@functools.cache
def trained(base: Base, kind: str, seed: int) -> dict[str, Expert]:
    """Return the experts of all tasks, trained once."""
    folder = Path("composition_experts" + ("" if base == Base() else f"_{base}"))
    return experts(replace(SIZE, base=base), kind, seed, folder)


def row(claim: str, gaps: Sequence[float], least: float, paper: str, note: str) -> dict[str, Any]:
    """Return the row of a claim: it holds where the interval of the gaps, in points, lies above ``least``."""
    points = [100 * gap for gap in gaps]
    found = mean_interval(points) if len(set(points)) > 1 else None
    low, high = (found.low, found.high) if found else (points[0], points[0])
    mean = sum(points) / len(points)
    return {
        "claim": claim, "paper": paper, "ours": f"{mean:+.2f} points", "n": len(points),
        "interval": [round(x, 2) for x in (mean, low, high)], "holds": low > least, "note": note,
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def addition_rows(kind: str, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims on addition."""

    def gaps(a: str, b: str) -> list[float]:
        return [_mean(run["test"][a]) - _mean(run["test"][b]) for run in runs]

    names = ("base", "own", "searched", "learned, isotropic", "aTLAS", "TIES", "searched, compressed")
    shown = "; ".join(f"{name} {100 * _mean([_mean(run['test'][name]) for run in runs]):.1f} %" for name in names)
    return [
        row(f"{kind}: aTLAS above the learned isotropic sum", gaps("aTLAS", "learned, isotropic"), 0.0, "+9.1", shown),
        row(f"{kind}: aTLAS above the searched sum", gaps("aTLAS", "searched"), 0.0, "+9.5", ""),
        row(
            f"{kind}: the learned isotropic sum within a point of the searched one",
            [0.01 - abs(gap) for gap in gaps("learned, isotropic", "searched")], 0.0, "+0.4", "1 - |difference|",
        ),
        row(f"{kind}: a sum of compressed no worse", gaps("searched, compressed", "searched"), -0.5, "better", ""),
        row(f"{kind}: TIES of compressed no worse", gaps("TIES, compressed", "TIES"), -0.5, "better", ""),
    ]  # fmt: skip


def negation_rows(kind: str, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims on negation."""

    def drop(name: str) -> list[float]:
        return [run["test"]["base"][0] - run["test"][name][0] for run in runs]

    kept = {name: [run["test"][name][1] / run["test"]["base"][1] for run in runs] for name in ("searched", "learned")}
    share = "; ".join(f"{name} keeps {100 * _mean(v):.1f} % (least {100 * min(v):.1f} %)" for name, v in kept.items())
    searched = f"searched: {_points(drop('searched'))}"
    more = [a - b for a, b in zip(drop("learned"), drop("searched"), strict=True)]
    return [
        row(f"{kind}: learned negation drops the target", drop("learned"), 0.0, "-27 to -47", searched),
        row(f"{kind}: it drops it further than the searched one", more, 0.0, "+1 to +3", ""),
        row(f"{kind}: the control keeps 95 % on test texts", [k - KEEP for k in kept["learned"]], 0.0, "95 %", share),
    ]  # fmt: skip


def few_shot_rows(kind: str, shots: int, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims on few shots."""
    gaps = [run["test"]["aTLAS"] - run["test"]["zero-shot"] for run in runs]
    kept = [run["validation"][1] - run["validation"][0] for run in runs]
    below = sum(gap < 0 for gap in gaps)
    note = f"below on test in {below} of {len(gaps)} runs, least {100 * min(gaps):+.1f}; epoch 0 kept in "
    note += f"{sum(run['chosen']['epoch'] == 0 for run in runs)}"
    return [
        row(f"{kind}, {shots} a class: aTLAS above zero-shot", gaps, 0.0, "+6 to +10", note),
        row(f"{kind}, {shots} a class: never below on the texts that chose", [min(kept)], -1e-9, "by rule", ""),
    ]  # fmt: skip


def compressed_rows(kind: str, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the claims on sums of compressed deltas."""
    found = []
    for density in DENSITIES:
        gaps = [_mean(run["test"][f"{density:g}"]) - _mean(run["test"]["searched"]) for run in runs]
        found.append(row(f"{kind}: a sum of deltas compressed to {density:.0%} no worse", gaps, -0.5, "better", ""))
    return found


def _points(gaps: Sequence[float]) -> str:
    return f"{100 * _mean(gaps):+.2f}"


def _added(seed: int, found: dict[str, Expert]) -> dict[str, Any]:
    return addition(SIZE, found, seed, merges=True)


def _compressed(found: dict[str, Expert]) -> dict[str, Any]:
    return compressed_sums(SIZE, found, DENSITIES)


def _negated(seed: int, target: str, found: dict[str, Expert]) -> dict[str, Any]:
    return negation(SIZE, found, seed, target)


def _few(seed: int, target: str, shots: int, found: dict[str, Expert]) -> dict[str, Any]:
    return few_shot(SIZE, found, seed, target, shots)


def rows(runs: Runs, base: Base, kind: str, only: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Run what is missing, and return all rows of one kind of delta."""

    def get(what: str, seed: int, make: Callable[..., dict[str, Any]], target: str = "", *shots: int) -> None:
        key = (what, kind, seed, target, *(shots or (0,)))
        run = runs.get(key, lambda: make(trained(base, kind, seed)))
        made.setdefault(" ".join([what, *map(str, shots)]), []).append(run)

    made: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:  # all parts of a seed first, so that a stopped run still tells something
        if "addition" in only:
            get("addition", seed, functools.partial(_added, seed))
        if "compressed" in only:
            get("compressed", seed, _compressed)
        for task in SIZE.tasks:
            if "negation" in only:
                get("negation", seed, functools.partial(_negated, seed, task), task)
            for shots in SIZE.shots if "few-shot" in only else ():
                get("few-shot", seed, functools.partial(_few, seed, task, shots), task, shots)
        trained.cache_clear()
    found = addition_rows(kind, made["addition"]) if "addition" in only else []
    found += compressed_rows(kind, made["compressed"]) if "compressed" in only else []
    found += negation_rows(kind, made["negation"]) if "negation" in only else []
    for shots in SIZE.shots if "few-shot" in only else ():
        found += few_shot_rows(kind, shots, made[f"few-shot {shots}"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="100 is the one that recipes were set on")
    parser.add_argument("--kinds", nargs="+", choices=("Full", "LoRA"), default=["Full", "LoRA"])
    parts = ["addition", "negation", "few-shot", "compressed"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--model", default="minilm", help="of the zoo")
    parser.add_argument("--layers", type=int, help="keep the first so many layers of the model")
    parser.add_argument("--runs", type=Path, help="where runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = Base(options.model, options.layers)
    path = options.runs or Path("composition_runs.jsonl" if base == Base() else f"composition_runs_{base}.jsonl")
    runs = Runs(path, ("what", "kind", "seed", "target", "shots"))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found = [{"model": str(base)} | r for kind in options.kinds for r in rows(runs, base, kind, options.only, seeds)]
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for each in found:
        verdict = "holds" if each["holds"] else "FAILS"
        print(f"{verdict:6} {each['claim']}: {each['ours']} {each['interval']} ({each['note']})")


if __name__ == "__main__":
    main()
