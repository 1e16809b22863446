"""SNNK adapters against Houlsby's bottlenecks, LoRA and full fine-tuning: accuracy, and what trains for it.

    claim    competitive accuracy with up to 5 times fewer trained parameters (arXiv 2310.13225, abstract)

MiniLM on five text tasks: 256 texts to train on, 300 to test on, 32 tokens of each, 60 steps of 8 texts; the head
starts at the regression on frozen features and trains along in every run, and is not counted. The rate of a method is
the one of lowest cross-entropy on 200 held-out training texts of 20news, in a draw that is not used again; where the
best lies at an end of the ladder the search goes on outwards. Methods that differ in size alone share a rate. Then
every draw of texts trains all methods, and differences in accuracy are paired by task and draw. "Competitive" is judged
as: the 95 % interval of the mean difference lies above -1 point.

    python bench/adapters.py [--json] [--seeds 2] [--tasks bbc ...]
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from _rates import best_rate
from torch import nn

import dtheta as dt
from dtheta.adapt.attach import attach
from dtheta.adapt.frozen import predicted_logits
from dtheta.adapt.method import Method
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.text_problem import Frozen, Problem, frozen_baseline, problem
from dtheta.data.tasks import load_task
from dtheta.data.text import Texts
from dtheta.reproduce.experiments.classifications import classified
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.runs import Runs
from dtheta.score.interval import paired_interval

TRAIN, TEST, HELD_OUT = 256, 300, 200
LENGTH, BATCH, STEPS = 32, 8, 60
TASKS = ("20news", "sentiment", "tweets", "bbc", "r8")
TUNED_ON = ("20news",)  # where the frozen encoder leaves most to gain
MARGIN = 0.01  # of accuracy: how much less still counts as competitive

METHODS: dict[str, Method] = {
    "SNNK m=8": dt.SNNK(features=8),
    "SNNK m=16": dt.SNNK(features=16),
    "SNNK m=64, r=8": dt.SNNK(features=64, size=8),
    "Houlsby r=8": dt.Houlsby(size=8),  # as many parameters as SNNK m=16
    "Houlsby r=16": dt.Houlsby(size=16),
    "Houlsby r=48": dt.Houlsby(size=48),
    "LoRA r=8": dt.LoRA(rank=8),
    "Full": dt.Full(),
}
# whose rate a method takes
SHARED = {"SNNK m=8": "SNNK m=16", "Houlsby r=8": "Houlsby r=48", "Houlsby r=16": "Houlsby r=48"}
LADDER = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
FIRST = {
    "SNNK m=16": (3e-3, 3e-2),
    "SNNK m=64, r=8": (3e-3, 3e-2),
    "Houlsby r=48": (1e-3, 1e-2),
    "LoRA r=8": (1e-3, 1e-2),
    "Full": (3e-5, 3e-4),
}


@cache
def posed(task_name: str, seed: int, tuning: bool) -> Problem:
    """Return a task; of tuning with training texts held out in place of the test texts."""
    task = load_task(task_name, TRAIN + HELD_OUT * tuning, TEST, seed)
    if tuning:
        task = replace(task, train=_part(task.train, 0, TRAIN), test=_part(task.train, TRAIN, TRAIN + HELD_OUT))
    return problem(*Base().pretrained(), task, LENGTH)


@cache
def frozen(task_name: str, seed: int, tuning: bool) -> Frozen:
    """Return what the frozen encoder reaches on a task."""
    return frozen_baseline(posed(task_name, seed, tuning))


def _part(texts: Texts, start: int, stop: int) -> Texts:
    return Texts(texts.texts[start:stop], texts.labels[start:stop])


def train(task: str, method: str, rate: float, seed: int, tuning: bool) -> dict[str, Any]:
    """Train one adapter and score it: accuracy and cross-entropy, on test texts or on those held out."""
    found, base = posed(task, seed, tuning), frozen(task, seed, tuning)
    recipe = Recipe(METHODS[method], _everywhere(method), STEPS, BATCH, rate, max_length=LENGTH, seed=seed)
    scores, adapted = classified(found, base, recipe)
    if not tuning:
        return scores
    return scores | {"loss": math.inf if adapted is None else _cross_entropy(found, adapted.delta)}


def _everywhere(method: str) -> str | None:
    """Return where a method trains; full fine-tuning means all of the encoder that the task uses."""
    return "encoder.*|!encoder.pooler.*" if method == "Full" else None


def _cross_entropy(found: Problem, delta: dt.Delta) -> float:
    adapter = attach(found.net, delta)
    try:
        logits = predicted_logits(found.net, found.test)
    finally:
        adapter.detach()
    return float(nn.functional.cross_entropy(logits, torch.tensor(found.test.labels)))


class Trainings:
    """All trainings, kept in a file as they end."""

    def __init__(self, path: Path) -> None:
        self.runs = Runs(path, ("task", "method", "rate", "seed", "tuning"))

    def get(self, task: str, method: str, rate: float, seed: int, tuning: bool = False) -> dict[str, Any]:
        """Return a training, from the file or by training now."""
        key = (task, method, rate, seed, tuning)
        return self.runs.get(key, lambda: train(*key))

    def rate(self, method: str) -> float:
        """Return the rate of lowest cross-entropy on held-out texts; its two neighbors on the ladder are worse."""

        def loss(rate: float) -> float:
            return mean(self.get(task, method, rate, 100, True)["loss"] for task in TUNED_ON)

        return best_rate(LADDER, FIRST[method], loss)


def claims(runs: Trainings, tasks: Iterable[str], seeds: range) -> list[dict[str, Any]]:
    """Return the rows: each SNNK against each other method, and all of them against the frozen encoder."""
    rates = {name: runs.rate(SHARED.get(name, name)) for name in METHODS}
    draws = [(task, seed) for seed in seeds for task in tasks]
    of: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for task, seed in draws:  # all methods on one draw before the next one, so that what is done is comparable
        for name in METHODS:
            of[name].append(runs.get(task, name, rates[name], seed))
    rows = [_against(ours, theirs, of, rates) for ours in METHODS if "SNNK" in ours for theirs in METHODS
            if "SNNK" not in theirs]  # fmt: skip
    return rows + [_gain(name, of[name], rates[name]) for name in METHODS]


def _against(ours: str, theirs: str, of: dict[str, list[dict[str, Any]]], rates: dict[str, float]) -> dict[str, Any]:
    """Return the row that compares an SNNK with another method."""
    mine, other = of[ours], of[theirs]
    ratio = other[0]["parameters"] / mine[0]["parameters"]
    return _row(
        f"{ours} is within {100 * MARGIN:g} point of {theirs}",
        "up to 5 times fewer trained parameters at competitive accuracy",
        [run["accuracy"] for run in mine],
        [run["accuracy"] for run in other],
        f"{mine[0]['parameters']:,} against {other[0]['parameters']:,} trained ({ratio:.2f} times as many); rates "
        f"{rates[ours]:g} and {rates[theirs]:g}",
        -MARGIN,
    )


def _gain(name: str, runs: list[dict[str, Any]], rate: float) -> dict[str, Any]:
    """Return the row that compares a method with the frozen encoder."""
    accuracy, base = [run["accuracy"] for run in runs], [run["frozen"] for run in runs]
    by_task = {run["task"]: mean(r["accuracy"] for r in runs if r["task"] == run["task"]) for run in runs}
    each = ", ".join(f"{task} {100 * value:.1f}" for task, value in by_task.items())
    note = f"{runs[0]['parameters']:,} trained; rate {rate:g}; {each}"
    return _row(f"{name} is above the frozen encoder", "", accuracy, base, note, 0.0)


def _row(claim: str, paper: str, ours: list[float], theirs: list[float], note: str, least: float) -> dict[str, Any]:
    gain = paired_interval(ours, theirs)
    return {
        "system": "SNNK",
        "claim": claim,
        "paper": paper,
        "ours": f"{100 * mean(ours):.1f} % against {100 * mean(theirs):.1f} %",
        "interval": [float(f"{100 * x:.3g}") for x in (gain.estimate, gain.low, gain.high)],
        "seeds": len(ours),
        "holds": gain.low > least,
        "note": f"MiniLM, {TRAIN} texts, {STEPS} steps; {note}",
    }


def mean(values: Iterable[float]) -> float:
    """Return the mean."""
    found = list(values)
    return sum(found) / len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--seeds", type=int, default=2, help="draws of texts a task")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="all by default")
    parser.add_argument("--runs", type=Path, default=Path("adapters_runs.jsonl"), help="where finished runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = claims(Trainings(options.runs), options.tasks, range(options.seeds))
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"{'holds' if row['holds'] else 'FAILS':6} {row['claim']}: {row['ours']} {row['interval']} ({row['note']})"
        )


if __name__ == "__main__":
    main()
