"""CLIP-SVD on image-text models: K images a class against CoOp, LoRA, a linear probe, zero-shot and raw pixels.

    few-shot      K = 1, 2, 4, 8, 16 images a class, by task, five draws of the support images
    base-to-new   trained on the first half of the classes; accuracy on their test images among them, and on those of
                  the other half among the others, of which the model is told the names; their harmonic mean
    shift         trained on one vendor's emoji, tested on another's drawings of the same held-out concepts

On `dual` the methods train the text tower, and images are encoded once; CLIP-SVD trains also both towers, on one task
at one K, since a step then costs ten times as much. On a CLIPModel all train both towers. Every method's rate (a
probe's C) is the best of three, by task, on 8 images a class held out of the support set of a draw that is not used
otherwise. Test images decide nothing.

Fewer than in the paper: steps (30 in place of 200 K), no augmentation, at most 400 test images a task. Intervals are
95 %, Student's t over the draws; of each draw the mean over tasks is taken. Parameters and CPU seconds are of one
adaptation, without the images' encoding where they are encoded once.

    python bench/clip_svd.py [--model dual|FOLDER] [--json] [--fast] [--cost] [--tasks fashion mnist ...] [--draws 5]
        [--steps 30] [--shots 1 2 4 8 16] [--runs FILE] [--results FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _few_shot_results import few_shot_results

import dtheta as dt
from dtheta.adapt.few_shot import AdaptedImages, FewShot, adapt_images, judge_delta
from dtheta.adapt.image_problem import ImageProblem, linear_probe, pixel_probe, raw_pixels, zero_shot
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.coop import CoOp
from dtheta.reproduce.experiments.few_shot_problems import TUNE_SHOTS, TUNING, FewShotProblems
from dtheta.reproduce.runs import Runs
from dtheta.score import Interval, mean_interval, paired_interval

TASKS = ("fashion", "mnist", "digits", "textiles", "emoji-google")
SHOTS = (1, 2, 4, 8, 16)
BATCH, BATCH_BOTH = 32, 16
BOTH = "CLIPSVD, both towers"
BOTH_TASKS, BOTH_SHOTS, BOTH_DRAWS = ("fashion",), (16,), 3
NEW_TASKS = ("fashion", "mnist", "emoji-google")
SHIFT = ("emoji-google", "emoji-twitter")

METHODS: dict[str, Method] = {
    "CLIPSVD": dt.CLIPSVD(), "CoOp": CoOp(length=4), "LoRA": dt.LoRA(rank=4), BOTH: dt.CLIPSVD(),
}  # fmt: skip
PROBES: dict[str, Callable[[ImageProblem, float], Any]] = {"linear probe": linear_probe, "pixel probe": pixel_probe}
GRID: dict[str, tuple[float, ...]] = {
    "CLIPSVD": (1e-2, 3e-2, 1e-1),
    BOTH: (1e-2, 3e-2, 1e-1),
    "CoOp": (1e-2, 3e-2, 1e-1),
    "LoRA": (1e-3, 3e-3, 1e-2),
    "linear probe": (1.0, 10.0, 100.0),
    "pixel probe": (0.01, 0.1, 1.0),
}
ZERO = "zero-shot"
FIELDS = ("model", "part", "task", "method", "shots", "draw", "steps")


@dataclass(frozen=True)
class Bench:
    """What is run: a model by name or folder, and how much."""

    model: str
    runs: Runs
    steps: int

    @property
    def problems(self) -> FewShotProblems:
        """The tasks on the model, of at most 400 test images."""
        return FewShotProblems(self.model)

    def recipe(self, method: str, rate: float, draw: int) -> FewShot:
        """Return how a method is trained."""
        select = None
        if self.model == "dual" and method in ("CLIPSVD", "LoRA"):
            select = "@blocks"
        elif method == BOTH:
            select = "@blocks|@conv"
        size = BATCH_BOTH if method == BOTH else BATCH
        return FewShot(METHODS[method], select, self.steps, size, rate, seed=draw)

    def get(self, part: str, task: str, method: str, shots: int, draw: int, make: Callable[[], dict[str, Any]]) -> Any:
        """Return a record, from the file or made now."""
        return self.runs.get((self.model, part, task, method, shots, draw, self.steps), make)

    def rate(self, task: str, method: str) -> float:
        """Return the best of the method's rates on held-out support images; of equals the first."""

        def make() -> dict[str, Any]:
            found = []
            for rate in GRID[method]:
                posed = self.problems.tuning(task)
                found.append(run(self, posed, method, rate, TUNING)[0]["accuracy"])
            return {"rate": GRID[method][found.index(max(found))], "table": found}

        return self.get("tune", task, method, TUNE_SHOTS, TUNING, make)["rate"]

    def few_shot(self, task: str, method: str, shots: int, draw: int) -> dict[str, Any]:
        """Return one run of the few-shot table; zero-shot is the same for all shots and draws."""
        if method == ZERO:
            return self.get("few-shot", task, ZERO, 0, 0, lambda: scored(zero_shot(self.problems.posed(task, 1, 0))))
        rate = self.rate(task, method)
        return self.get(
            "few-shot", task, method, shots, draw,
            lambda: run(self, self.problems.posed(task, shots, draw), method, rate, draw)[0],
        )  # fmt: skip

    def base_to_new(self, task: str, method: str, shots: int, draw: int) -> dict[str, Any]:
        """Return the accuracies on the classes that were trained and on the others."""

        def make() -> dict[str, Any]:
            base, new = (self.problems.half(task, second, shots, draw) for second in (False, True))
            if method == ZERO:
                return {"base": score(zero_shot(base)), "new": score(zero_shot(new))}
            found, made = run(self, base, method, self.rate(task, method), draw)
            return {"base": found["accuracy"], "new": score(judge_delta(new, made.delta))}  # type: ignore[union-attr]

        return self.get("base-to-new", task, method, shots, draw, make)

    def shift(self, method: str, shots: int, draw: int) -> dict[str, Any]:
        """Return the accuracies on the vendor that was trained and on the other."""
        here = SHIFT[0]

        def make() -> dict[str, Any]:
            posed, other = (self.problems.posed(name, shots, draw) for name in SHIFT)
            if method == ZERO:
                return {"here": score(zero_shot(posed)), "there": score(zero_shot(other))}
            found, made = run(self, posed, method, self.rate(here, method), draw)
            if made is None:
                probed = PROBES[method](ImageProblem(posed.net, posed.support, other.test), self.rate(here, method))
                return {"here": found["accuracy"], "there": score(probed)}
            return {"here": found["accuracy"], "there": score(judge_delta(other, made.delta))}

        return self.get("shift", here, method, shots, draw, make)


def run(
    bench: Bench, posed: ImageProblem, method: str, rate: float, draw: int
) -> tuple[dict[str, Any], AdaptedImages | None]:
    """Adapt once, and say how good it is and what it cost; a probe leaves no delta."""
    start, made = time.process_time(), None
    if method in PROBES:
        judged, parameters = PROBES[method](posed, rate), probe_weights(posed, method)
    else:
        made = adapt_images(posed, bench.recipe(method, rate, draw), model_name=bench.model, quiet=True)
        judged, parameters = made.judged, made.parameters
    found = scored(judged) | {"parameters": parameters, "seconds": time.process_time() - start, "rate": rate}
    return found, made


def probe_weights(posed: ImageProblem, method: str) -> int:
    """Return how many numbers a probe fits: a weight vector and a bias a class."""
    seen = posed.support.features if method == "linear probe" else raw_pixels(posed.support.images)
    return len(posed.net.classes) * (seen.shape[1] + 1)


def score(judged: Any) -> float:
    return judged.accuracy.estimate


def scored(judged: Any) -> dict[str, Any]:
    return {"accuracy": score(judged)}


def size_of(name: str) -> tuple[int, int]:
    """Return how many classes and test images a task has."""
    task = FewShotProblems().task(name)
    return len(task.classes), len(task.test)


def table(bench: Bench, tasks: Sequence[str], shots: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Return the rows of the few-shot table."""
    rows = []
    for k in shots:
        accuracies = {}
        for method in (ZERO, *PROBES, *(m for m in METHODS if m != BOTH)):
            runs = [[bench.few_shot(task, method, k, draw) for task in tasks] for draw in range(draws)]
            accuracies[method] = [100 * statistics.mean(r["accuracy"] for r in row) for row in runs]
            rows.append(_row("few-shot", "all", k, method, accuracies[method], runs))
            for i, task in enumerate(tasks):
                own = [[row[i]] for row in runs]
                rows.append(_row("few-shot", task, k, method, [100 * r[0]["accuracy"] for r in own], own))
        rows += [
            _gap(f"CLIPSVD above {m}", k, accuracies["CLIPSVD"], a) for m, a in accuracies.items() if m != "CLIPSVD"
        ]
    return rows


def both_towers(bench: Bench, tasks: Sequence[str], shots: Sequence[int], draws: int) -> list[dict[str, Any]]:
    """Return the rows of CLIP-SVD on both towers of `dual`, beside the text tower's on the same draws."""
    rows = []
    for task in [t for t in BOTH_TASKS if t in tasks]:
        for k in [k for k in BOTH_SHOTS if k in shots]:
            runs = {m: [[bench.few_shot(task, m, k, d)] for d in range(draws)] for m in (BOTH, "CLIPSVD")}
            values = {m: [100 * r[0]["accuracy"] for r in found] for m, found in runs.items()}
            rows.append(_row("few-shot", task, k, BOTH, values[BOTH], runs[BOTH]))
            rows.append(_gap(f"{task}: both towers above the text tower", k, values[BOTH], values["CLIPSVD"]))
    return rows


def transfers(bench: Bench, tasks: Sequence[str], k: int, draws: int) -> list[dict[str, Any]]:
    """Return the rows of base-to-new and of the domain shift."""
    rows, trained = [], [m for m in METHODS if m != BOTH]
    for task in [t for t in NEW_TASKS if t in tasks]:
        for method in (ZERO, *trained):
            runs = [bench.base_to_new(task, method, k, draw) for draw in range(draws)]
            for name in ("base", "new"):
                rows.append(_row(name, task, k, method, [100 * r[name] for r in runs]))
            rows.append(_row("harmonic", task, k, method, [100 * _harmonic(r["base"], r["new"]) for r in runs]))
    if SHIFT[0] in tasks:
        for method in (ZERO, *PROBES, *trained):
            runs = [bench.shift(method, k, draw) for draw in range(draws)]
            rows += [
                _row(f"shift {name}", SHIFT[0], k, method, [100 * r[name] for r in runs]) for name in ("here", "there")
            ]
    return rows


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _row(
    part: str,
    task: str,
    shots: int,
    method: str,
    values: Sequence[float],
    runs: Iterable[Iterable[dict[str, Any]]] = (),
) -> dict[str, Any]:
    flat = [r for row in runs for r in row]
    costs = {
        name: round(statistics.mean(r.get(name, 0) for r in flat), 2) for name in ("parameters", "seconds") if flat
    }
    draws = [round(value, 4) for value in values]
    return {"part": part, "task": task, "shots": shots, "method": method, **_interval(values), "draws": draws, **costs}


def _gap(claim: str, shots: int, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    found = _interval(gaps, lambda: paired_interval(ours, theirs))
    return {"part": "claim", "claim": claim, "shots": shots, **found, "holds": found["low"] > 0}


def _interval(values: Sequence[float], make: Callable[[], Interval] | None = None) -> dict[str, float]:
    mean = statistics.mean(values)
    if len(set(values)) < 2:
        return {"points": round(mean, 2), "low": round(mean, 2), "high": round(mean, 2)}
    found = make() if make else mean_interval(values)
    return {"points": round(mean, 2), "low": round(found.low, 2), "high": round(found.high, 2)}


def one_of_each(bench: Bench, task: str, shots: int) -> None:
    """Print what one run of each method costs, for planning; nothing is kept."""
    posed = bench.problems.posed(task, shots, 0)
    for method in (*PROBES, *METHODS):
        if method == BOTH and bench.model != "dual":
            continue
        found = run(bench, posed, method, GRID[method][1], 0)[0]
        print(f"{method:24} {found['seconds']:6.1f} s  {found['parameters']:8} parameters  {found['accuracy']:.3f}")


def show(rows: Iterable[dict[str, Any]]) -> None:
    for row in rows:
        span = f"{row['points']:6.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        if row["part"] == "claim":
            print(f"{'holds' if row['holds'] else 'FAILS':6} K={row['shots']:<3} {row['claim']}: {span}")
            continue
        cost = f"  {row['parameters']:.0f} parameters, {row['seconds']:.1f} s" if "seconds" in row else ""
        print(f"{row['part']:12} {row['task']:13} K={row['shots']:<3} {row['method']:21} {span}{cost}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--model", default="dual", help="a name, or the folder of a CLIPModel")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--fast", action="store_true", help="two tasks, K = 1 and 4, two draws, 10 steps: it works")
    parser.add_argument("--cost", action="store_true", help="print what one run of each method costs, and stop")
    parser.add_argument("--runs", type=Path, help="where finished runs are kept")
    parser.add_argument("--results", type=Path, help="also write what 'dtheta report FILE' draws as curves")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.fast:
        options.tasks, options.shots, options.draws, options.steps = ["digits", "emoji-google"], [1, 4], 2, 10
    bench = Bench(options.model, Runs(options.runs or Path("clip_svd_runs.jsonl"), FIELDS), options.steps)
    if options.cost:
        return one_of_each(bench, options.tasks[0], max(options.shots))
    start = time.process_time()
    rows = table(bench, options.tasks, options.shots, options.draws)
    rows += transfers(bench, options.tasks, max(options.shots), options.draws)
    if options.model == "dual":
        rows += both_towers(bench, options.tasks, options.shots, min(BOTH_DRAWS, options.draws))
    if options.results:
        said = {"draws": f"{options.draws} of the support images", "steps": str(options.steps), "intervals": "95 %, t"}
        few_shot_results(options.model, rows, size_of, said, ZERO).save(options.results)
    rows = [{"model": options.model, "steps": options.steps, **row} for row in rows]
    print(f"{time.process_time() - start:.0f} CPU seconds", file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        show(rows)


if __name__ == "__main__":
    main()
