"""Do the claims of aTLAS hold here, and is a merge of compressed deltas as good? Experts on five text tasks.

    addition    one encoder for all tasks: one factor searched on 11 points of [0, 1] (task arithmetic), one learned
                coefficient a delta, one a delta and tensor (aTLAS); and the same factor searched for deltas and for
                TIES of deltas that were compressed (ComPEFT, density 0.1) or not
    negation    forget a task, keep a control at 95 %: the factor searched downwards from 0, or learned by tensor
    few-shot    a task that no delta was trained on, from k texts a class, by the deltas of the other four

Heads are frozen (see _experts.py). Coefficients are learned on 128 texts a task, the epoch and every searched factor
are chosen on 128 others, and what is shown is accuracy on 400 test texts that chose nothing. Recipes are those of the
paper with fewer and so larger steps, set once on seed 100, which is not reported. Differences are paired by task and
seed, in points, with 95 % t intervals over seeds and tasks ("addition": over seeds, of means over tasks).

Experts are of MiniLM, or of SmolLM2 where asked for, at a third of the cost with its first ten layers. Runs, and the
experts they need, are kept in the current folder, so that an interrupted benchmark goes on.

    python bench/composition.py [--json] [--seeds 3] [--kinds Full LoRA] [--only addition negation few-shot]
        [--model minilm|smollm2] [--layers N] [--runs FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _experts import Base, Expert, accuracy, expert
from _runs import Runs

import dtheta as dt
from dtheta.compose.report import Report
from dtheta.compose.ties import ties
from dtheta.core.delta import Delta
from dtheta.models.multitask import MultiTask
from dtheta.score import mean_interval

TASKS = ("bbc", "r8", "sentiment", "tweets", "20news")
GRID = tuple(i / 10 for i in range(11))
DENSITY = 0.1  # of what is compressed, and of what TIES keeps of what is not
KEEP = 0.95
ADDITION = {"recipe": "addition", "epochs": 6, "lr": 1e-1, "schedule": "cosine"}
NEGATION = {"recipe": "addition", "epochs": 8, "lr": 2e-2}
SHOTS = (1, 16)


@functools.cache
def experts(base: Base, kind: str, seed: int) -> dict[str, Expert]:
    """Return the experts of all tasks, trained once."""
    folder = Path("composition_experts" + ("" if base == Base() else f"_{base}"))
    folder.mkdir(exist_ok=True)
    return {task: expert(base, task, kind, seed, folder) for task in TASKS}


def scores(found: Sequence[Expert], delta: Delta | None, on: str = "test") -> list[float]:
    """Return the accuracy on each task with a delta on the encoder that they share."""
    if delta is None:
        return [accuracy(e.net, getattr(e, on)) for e in found]
    with dt.applied(MultiTask([e.net for e in found]), delta):
        return scores(found, None, on)


def relative(values: Sequence[float], best: Sequence[float]) -> float:
    """Return the mean over tasks of accuracy as a share of the expert's, which aTLAS judges epochs by."""
    return sum(v / b for v, b in zip(values, best, strict=True)) / len(best)


def addition(base: Base, kind: str, seed: int) -> dict[str, Any]:
    """Compose one encoder for all tasks in every way, and test it."""
    found = list(experts(base, kind, seed).values())
    net, deltas = MultiTask([e.net for e in found]), [e.delta for e in found]
    best = [scores([e], e.delta, "validate")[0] for e in found]
    judge = lambda delta: relative(scores(found, delta, "validate"), best)  # noqa: E731
    packed = [dt.compress(delta, DENSITY, of="balanced") for delta in deltas]
    forms: dict[str, Delta | None] = {"base": None}
    chosen: dict[str, Any] = {}
    sums = {
        "searched": lambda factor: dt.compose(deltas, factor),
        "searched, compressed": lambda factor: dt.compose(packed, factor),
        "TIES": lambda factor: ties(deltas, DENSITY, factor=factor),
        "TIES, compressed": lambda factor: ties(packed, 1.0, factor=factor),
    }
    for name, make in sums.items():
        forms[name], chosen[name] = _searched(make, judge)
    losses = {e.task: _loss_of(t) for t, e in enumerate(found)}
    for name, isotropic in (("learned, isotropic", True), ("aTLAS", False)):
        batches = {e.task: e.batches(seed) for e in found}
        learned = dt.learn_coefficients(
            net, deltas, batches, losses, metric=lambda shown: relative(scores(found, None, "validate"), best),
            isotropic=isotropic, seed=seed, **ADDITION,
        )  # fmt: skip
        forms[name], chosen[name] = dt.compose(deltas, learned), _report(learned).best
    tested = {name: scores(found, delta) for name, delta in forms.items()}
    tested["own"] = [scores([e], e.delta)[0] for e in found]
    return {"test": tested, "chosen": chosen}


def _loss_of(task: int) -> Callable[..., Any]:
    return lambda net, batch: net(task, **batch).loss


def _loss(net: Any, batch: Any) -> Any:
    return net(**batch).loss


def _searched(make: Callable[[float], Delta], judge: Callable[[Delta], float]) -> tuple[Delta, float]:
    """Return the best of the grid by the judge, and its factor; ties go to the smaller one."""
    found = max(GRID, key=lambda factor: (judge(make(factor)), -factor))
    return make(found), found


def negation(base: Base, kind: str, seed: int, target: str) -> dict[str, Any]:
    """Forget a task with its own delta, and test it and the control."""
    found = experts(base, kind, seed)
    control = found["r8" if target == "20news" else "20news"]
    aim = found[target]
    floor = KEEP * scores([control], None, "validate")[0]
    best, lowest = 0.0, scores([aim], None, "validate")[0]
    for factor in GRID[1:]:  # as long as the control holds, like the rule of the learned one
        moved = dt.compose([aim.delta], -factor)
        if scores([control], moved, "validate")[0] < floor:
            break
        if (now := scores([aim], moved, "validate")[0]) < lowest:
            best, lowest = factor, now
    net = MultiTask([aim.net, control.net])
    learned = dt.learn_negation(
        net, [aim.delta], _tagged(aim, 0, seed), _tagged(control, 1, seed), lambda n, b: n(b[0], **b[1]).loss,
        target_metric=lambda n: accuracy(n.classifiers[0], aim.validate),
        control_metric=lambda n: accuracy(n.classifiers[1], control.validate), keep=KEEP, seed=seed, **NEGATION,
    )  # fmt: skip
    forms = {"base": None, "searched": dt.compose([aim.delta], -best), "learned": dt.compose([aim.delta], learned)}
    tested = {name: [scores([e], delta)[0] for e in (aim, control)] for name, delta in forms.items()}
    return {"test": tested, "chosen": {"searched": -best, "learned": _report(learned).best}}


def _tagged(one: Expert, task: int, seed: int) -> list[Any]:
    return [(task, batch) for batch in one.batches(seed)]


def few_shot(base: Base, kind: str, seed: int, target: str, shots: int) -> dict[str, Any]:
    """Compose for a task from a few of its texts and the deltas of the other tasks."""
    found = experts(base, kind, seed)
    aim, deltas = found[target], [e.delta for e in found.values() if e.task != target]
    learned = dt.learn_coefficients(
        aim.net, deltas, aim.few(shots, seed), _loss, recipe="few-shot", seed=seed,
        metric=lambda net: accuracy(net, aim.validate),
    )  # fmt: skip
    forms = {"zero-shot": None, "aTLAS": dt.compose(deltas, learned), "own": aim.delta}
    tested = {name: scores([aim], delta)[0] for name, delta in forms.items()}
    report = _report(learned)
    kept = [report.epochs[0].scores["score"], report.epochs[report.best].scores["score"]]
    return {"test": tested, "chosen": {"epoch": report.best}, "validation": kept}


def _report(learned: dt.Coefficients) -> Report:
    assert learned.report is not None, "learned coefficients tell how it went"
    return learned.report


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


def _points(gaps: Sequence[float]) -> str:
    return f"{100 * _mean(gaps):+.2f}"


def rows(runs: Runs, base: Base, kind: str, only: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Run what is missing, and return all rows of one kind of delta."""

    def get(what: str, seed: int, make: Callable[..., dict[str, Any]], target: str = "", *shots: int) -> None:
        key = (what, kind, seed, target, *(shots or (0,)))
        rest = (target, *shots) if target else ()
        made.setdefault(" ".join([what, *map(str, shots)]), []).append(
            runs.get(key, lambda: make(base, kind, seed, *rest))
        )

    made: dict[str, list[dict[str, Any]]] = {}
    for seed in seeds:  # all parts of a seed first, so that a stopped run still tells something
        if "addition" in only:
            get("addition", seed, addition)
        for task in TASKS:
            if "negation" in only:
                get("negation", seed, negation, task)
            for shots in SHOTS if "few-shot" in only else ():
                get("few-shot", seed, few_shot, task, shots)
        experts.cache_clear()
    found = addition_rows(kind, made["addition"]) if "addition" in only else []
    found += negation_rows(kind, made["negation"]) if "negation" in only else []
    for shots in SHOTS if "few-shot" in only else ():
        found += few_shot_rows(kind, shots, made[f"few-shot {shots}"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="100 is the one that recipes were set on")
    parser.add_argument("--kinds", nargs="+", choices=("Full", "LoRA"), default=["Full", "LoRA"])
    parts = ["addition", "negation", "few-shot"]
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
