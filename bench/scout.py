"""Does scouting rank methods as training does, and what does it cost?

On five text tasks ten methods are trained (`_scout_runs.py`) and scouted on the same 256 training texts. Kendall's tau
and Spearman's rho are taken between the trained accuracies and what scouting predicts. Their intervals resample the
test texts; their limit is the tau between the trained accuracies on two halves of the test texts. Beside the loss
by which ``dt.scout`` orders stand other numbers of its rows, and the count of weights, which needs no scouting. How to
predict was chosen on 20news, sentiment and tweets; r8 and bbc were not looked at for it. Times are CPU seconds of one
thread.

    python bench/scout.py [--json] [--runs scout_runs.jsonl] [--scouted scout_scouted.jsonl] [--factors 3] [--seeds 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from _measure import Row, main
from _scout_runs import CANDIDATES, FACTORS, TASKS, TRAIN, posed, runs_of, train
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError
from dtheta.reproduce.runs import Runs
from dtheta.score.interval import mean_interval
from dtheta.score.rank import kendall, spearman
from dtheta.scout.scout import scout

GOAL_TAU, GOAL_COST = 0.6, 0.05
_RESAMPLES = 400
RANKED_BY = "loss at one budget"  # by which dt.scout orders
_KEPT = (
    "loss", "tuned_loss", "alignment", "effective_dimension", "slope", "parameters", "sign_rate", "strength",
)  # fmt: skip
#: What could rank the methods, and its sign.
PREDICTORS: dict[str, tuple[str, float]] = {
    "loss at one budget": ("loss", -1.0),
    "loss, each tuned": ("tuned_loss", -1.0),
    "leave-one-out accuracy": ("accuracy", 1.0),
    "alignment": ("alignment", 1.0),
    "effective dimension": ("effective_dimension", 1.0),
    "slope of Adam's first steps": ("slope", 1.0),
    "count of weights": ("parameters", 1.0),
}


def scouted(task: str, seed: int, outputs: int, examples: int) -> dict[str, Any]:
    """Scout all methods on a task; return the numbers of their rows, the check, and CPU seconds."""
    problem = posed(task, seed)
    start = time.process_time()
    found = scout(
        problem.net, problem.train, [(c.method, c.select) for c in CANDIDATES.values()], outputs=outputs,
        examples=examples, seed=seed,
    )  # fmt: skip
    seconds = time.process_time() - start
    names = {(c.method, c.select): name for name, c in CANDIDATES.items()}
    rows = {
        names[row.method, row.select]: {field: getattr(row, field) for field in _KEPT}
        | {"accuracy": row.accuracy.estimate}
        for row in found.rows
        if row.method is not None
    }
    refused = [one.name for one in found.refused]
    checks = [[c.name, c.nonlinearity, c.cka, c.inflation, c.believe] for c in found.checks]
    return {"rows": rows, "refused": refused, "checks": checks, "head": found.head.estimate, "seconds": seconds,
            "parts": dict(found.seconds)}  # fmt: skip


def answers(runs: Runs, task: str, factors: Sequence[float], seeds: range) -> dict[str, Tensor]:
    """Return for each method right and wrong answers (seeds, factors, texts), training what is not there yet."""

    def one(name: str, factor: float, seed: int) -> Tensor:
        run = runs.get((task, name, factor, seed), lambda: train(task, name, factor, seed))
        return torch.tensor([float(c) for c in run["right"]], dtype=torch.float64)

    return {
        name: torch.stack([torch.stack([one(name, factor, seed) for factor in factors]) for seed in seeds])
        for name in CANDIDATES
    }


def accuracies(right: Mapping[str, Tensor], texts: Tensor) -> Tensor:
    """Return the accuracy (methods,) on some texts; a rate is chosen on one half of them and scored on the other."""
    halves = texts[::2], texts[1::2]
    found = []
    for answer_SFT in right.values():
        scores = []
        for choose, score in (halves, halves[::-1]):
            best = answer_SFT[:, :, choose].mean((0, 2)).argmax()
            scores.append(answer_SFT[:, best, score].mean())
        found.append(torch.stack(scores).mean())
    return torch.stack(found)


def correlated(right: Mapping[str, Tensor], predicted: Tensor, task: str) -> dict[str, tuple[float, float, float]]:
    """Return tau and rho with their percentile intervals over resampled test texts."""
    count = next(iter(right.values())).shape[2]
    draws = [torch.arange(count)]
    draws += [torch.randint(count, (count,), generator=generator(0, f"scout/{task}", k)) for k in range(_RESAMPLES)]
    values = [accuracies(right, draw) for draw in draws]
    found = {}
    for name, measure in (("tau", kendall), ("rho", spearman)):
        whole = measure(predicted, values[0])
        drawn = torch.tensor(sorted(measure(predicted, value) for value in values[1:]))
        low, high = (float(drawn.quantile(q)) for q in (0.025, 0.975))
        found[name] = (whole, min(low, whole), max(high, whole))
    return found


def reliability(right: Mapping[str, Tensor], task: str) -> float:
    """Return the mean tau between the accuracies on two halves of the test texts; more is not to be expected."""
    count = next(iter(right.values())).shape[2]
    found = []
    for k in range(100):
        order = torch.randperm(count, generator=generator(0, f"scout/halves/{task}", k))
        found.append(kendall(accuracies(right, order[: count // 2]), accuracies(right, order[count // 2 :])))
    return statistics.mean(found)


def measure(options: argparse.Namespace) -> Iterable[Row]:
    """Yield the rows."""
    runs, scoutings = runs_of(options.runs), Runs(options.scouted, ("task", "seed", "outputs", "examples"))
    factors, seeds = [FACTORS[i] for i in range(options.factors)], range(options.seeds)
    taus: dict[str, list[float]] = {name: [] for name in PREDICTORS}
    costs: list[tuple[float, float, float]] = []
    for task in options.tasks:
        key = (task, 0, options.outputs, options.examples)
        found = scoutings.get(key, lambda key=key: scouted(*key))
        right = answers(runs, task, factors, seeds)
        limit = reliability(right, task)
        by_count = _predicted(found, "count of weights")
        for name in PREDICTORS:
            measured = correlated(right, _predicted(found, name), task)
            taus[name].append(measured["tau"][0])
            if name == RANKED_BY:
                peer = correlated(right, by_count, task)["tau"][0]
                yield _tau_row(f"{task}: tau of {name}", measured["tau"], peer, limit, _told(found, right, measured))
        costs.append(_costs(runs, task, factors, seeds, found["seconds"]))
    for name, values in taus.items():
        yield _mean_row(name, values, taus["count of weights"])
    yield _cost_row("scouting / one training", [s / one for s, one, _ in costs])
    yield _cost_row("scouting / training every method once", [s / every for s, _, every in costs])
    yield _cost_row("scouting / training every method at every rate", [s / (3 * every) for s, _, every in costs])


def _predicted(found: Mapping[str, Any], name: str) -> Tensor:
    field, sign = PREDICTORS[name]
    missing = [method for method in CANDIDATES if method not in found["rows"]]
    if missing:
        raise ConfigError(f"not scouted: {missing}")
    return torch.tensor([sign * found["rows"][method][field] for method in CANDIDATES], dtype=torch.float64)


def _told(found: Mapping[str, Any], right: Mapping[str, Tensor], measured: Mapping[str, tuple[float, ...]]) -> str:
    trained = accuracies(right, torch.arange(next(iter(right.values())).shape[2]))
    order = sorted(zip(CANDIDATES, trained.tolist(), strict=True), key=lambda pair: -pair[1])
    best = list(CANDIDATES)[int(_predicted(found, RANKED_BY).argmax())]
    place = [name for name, _ in order].index(best) + 1
    low, high = measured["tau"][1:]
    check = "".join(f"; {n} index {i:.2f}, CKA {c:.2f}, {'believed' if b else 'not believed'}"
                    for n, i, c, _, b in found["checks"])  # fmt: skip
    return (
        f"[{low:.2f}, {high:.2f}], rho {measured['rho'][0]:.2f}; trained {order[0][0]} {order[0][1]:.3f} to "
        f"{order[-1][0]} {order[-1][1]:.3f}; predicted best {best} is number {place}{check}"
    )


def _tau_row(name: str, tau: tuple[float, ...], peer: float, limit: float, note: str) -> Row:
    return Row(name, tau[0], peer, "tau (peer: by count of weights)", None, limit, GOAL_TAU, tau[0] >= GOAL_TAU, note)


def _mean_row(name: str, values: Sequence[float], peer: Sequence[float]) -> Row:
    mean, goal = statistics.mean(values), GOAL_TAU if name == RANKED_BY else None
    note = str(mean_interval(values)) if len(values) > 1 else ""
    holds = None if goal is None else mean >= goal
    return Row(f"mean tau of {name}", mean, statistics.mean(peer), "tau", None, None, goal, holds, note)


def _costs(runs: Runs, task: str, factors: Sequence[float], seeds: range, seconds: float) -> tuple[float, float, float]:
    """Return CPU seconds of scouting, of the median training, and of training every method once."""
    taken = {
        name: statistics.mean(runs.done[task, name, f, s]["seconds"] for f in factors for s in seeds)
        for name in CANDIDATES
    }
    return seconds, statistics.median(taken.values()), sum(taken.values())


def _cost_row(name: str, ratios: Sequence[float]) -> Row:
    ratio = statistics.median(ratios)
    wanted = name.endswith("once")
    goal, holds = (GOAL_COST, ratio <= GOAL_COST) if wanted else (None, None)
    return Row(
        name, ratio, None, "ratio of CPU seconds", None, None, goal, holds, ", ".join(f"{r:.3f}" for r in ratios)
    )


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--runs", type=Path, default=Path("scout_runs.jsonl"), help="trainings, kept as they end")
    parser.add_argument("--scouted", type=Path, default=Path("scout_scouted.jsonl"), help="scoutings, likewise")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--factors", type=int, default=3, choices=(1, 2, 3), help="rates a method is tuned among")
    parser.add_argument("--seeds", type=int, default=1, help="trainings a rate")
    parser.add_argument("--outputs", type=int, default=2, help="directions of the logits")
    parser.add_argument("--examples", type=int, default=TRAIN, help="texts to scout on")


if __name__ == "__main__":
    main("Scouting against training", measure, options=options)
