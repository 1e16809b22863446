"""Is a prompt of many image tasks a better start than none? CoOp, VPT and UPT at 1, 5 and 20 images a class.

    zero-shot    the model as it is, with each task's own template
    pixels       logistic regression on 32 x 32 pixels of the support
    untuned      the multi-task prompt of all other tasks, not trained on the target
    single       a prompt trained on the support, from the method's own start
    multi        the same from the multi-task prompt: one softmax over the union of the classes of all source tasks but
                 the target, by plain shuffling, checkpoint by the mean of validation accuracies, three seeds averaged

Sources are fashion, mnist, digits, textiles, emoji-google; emoji-twitter is a target only, and the same concepts drawn
by emoji-google are among its sources. mnist and digits have the same classes. Rates are chosen on supports 100 and up
and validation images of the training split, by start and shots (1 shot: those of 5). Differences are paired by support;
intervals are 95 % t intervals over supports, of means over targets. Deviations from the paper: small models, AdamW, a
fixed number of steps, no augmentation (a mirrored digit is another one), contexts of 4.

With --matrix: gains over all pairs of tasks at 5 shots, groups, and what cheap predictors are worth.

Everything is kept in a folder, so that an interrupted benchmark goes on.

    python bench/mvlpt.py [--json] [--fast] [--models dual FOLDER] [--methods CoOp VPT UPT] [--draws 5] [--matrix]
        [--targets ...] [--shots 1 5 20] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import dtheta as dt
from dtheta.adapt.method import Method
from dtheta.adapt.mvlpt.predictors import centroid, cosines, judge_predictors, prompt_gradient, prompt_vector
from dtheta.adapt.mvlpt.transfer import Transfer, measure_transfer
from dtheta.adapt.prompts.coop import CoOp
from dtheta.core.delta import Delta
from dtheta.data.mixture import Mixture, mixture_loader
from dtheta.errors import UnsupportedLayer
from dtheta.reproduce.experiments.image_prompts import METHODS, ImagePrompts, Size
from dtheta.reproduce.experiments.prompt_study import TUNED_ON, Study, mean
from dtheta.reproduce.runs import Runs
from dtheta.score import Interval, mean_interval

SOURCES = ("fashion", "mnist", "digits", "textiles", "emoji-google")
TARGETS = (*SOURCES, "emoji-twitter")
MATRIX_SHOTS = 5
FIXED = ("zero-shot", "untuned")
FIELDS = ("what", "model", "method", "start", "target", "shots", "draw", "lr")
FAST = Size(learn=12, validate=4, test=100, steps=20, source_steps=40, source_seeds=1)


def _interval(values: Sequence[float]) -> Interval:
    if len(values) > 1:
        return mean_interval(list(values))
    return Interval(values[0], values[0], values[0])


def rows(study: Study, targets: Sequence[str], shots: int, draws: Sequence[int]) -> list[dict[str, Any]]:
    """Return the accuracies on each target and their mean, and the claim, at so many images a class."""
    found: dict[str, list[list[float]]] = {}
    for target in targets:
        each = {
            "zero-shot": [study.fixed("zero-shot", target)] * len(draws),
            "pixels": [study.raw(target, shots, draw) for draw in draws],
            "untuned": [study.fixed("untuned", target)] * len(draws),
            "single": study.tested("single", target, shots, draws),
            "multi": study.tested("multi", target, shots, draws),
        }
        for kind, values in each.items():
            found.setdefault(kind, []).append(values)
    where = {"model": study.prompts.name, "method": study.method, "shots": shots}
    table = []
    for kind, by_target in found.items():
        means = [mean(column) for column in zip(*by_target, strict=True)]
        for target, values in [*zip(targets, by_target, strict=True), ("mean", means)]:
            over = _interval([100 * value for value in values])
            bounds = (over.low, over.high) if kind not in FIXED else ()  # which no support changes
            shown = [round(x, 2) for x in (over.estimate, *bounds)]
            table.append({"row": "accuracy", **where, "start": kind, "target": target, "interval": shown})
    return [*table, claim(study, found, shots)]


def claim(study: Study, found: dict[str, list[list[float]]], shots: int) -> dict[str, Any]:
    """Return whether the multi-task start is better than none, in points."""
    single, multi = ([mean(column) for column in zip(*found[kind], strict=True)] for kind in ("single", "multi"))
    over = _interval([100 * (m - s) for m, s in zip(multi, single, strict=True)])
    shown = "; ".join(f"{kind} {100 * mean([mean(values) for values in v]):.1f} %" for kind, v in found.items())
    rates = ", ".join(f"{kind} {study.rate(kind, shots):g}" for kind in ("source", "single", "multi"))
    return {
        "row": "claim", "claim": f"{study.prompts.name}, {study.method}, {shots} a class: multi-task start above none",
        "paper": "+1.2 to +6.0 points (figure, 12 targets)", "ours": f"{over.estimate:+.2f} points", "n": len(single),
        "interval": [round(x, 2) for x in (over.estimate, over.low, over.high)], "holds": over.low > 0,
        "note": f"{shown}; rates {rates}",
    }  # fmt: skip


def matrix(study: Study, tasks: Sequence[str], draws: Sequence[int]) -> list[dict[str, Any]]:
    """Return the gains over all pairs, the groups, and the predictors' correlations with the gains."""
    lr = study.rate("single", MATRIX_SHOTS)  # one rate: everything but the start is the same

    def accuracy(source: str | None, target: str, draw: int) -> float:
        return study.score("test", source or "single", target, MATRIX_SHOTS, draw, lr)

    transfer = measure_transfer(tasks, draws, accuracy)
    where = f"{study.prompts.name}, {study.method}, {MATRIX_SHOTS} a class"
    print(where, transfer.table(), sep="\n", file=sys.stderr, flush=True)
    found = judge_predictors(transfer, similarities(study, tasks))
    print(found.table(), file=sys.stderr, flush=True)
    groups = {task: transfer.group(task) for task in tasks}
    gains = {"row": "matrix", "claim": f"{where}: gains", "tasks": list(tasks), "gain": transfer.gain.tolist()}
    gains |= {"groups": groups, "clusters": transfer.clusters(min(3, len(tasks))), "clear": clear(transfer)}
    return [gains | {"n": len(draws)}] + [
        {
            "row": "predictor", "claim": f"{where}: {one.name} ranks the gains", "ours": str(one.spearman),
            "kendall": str(one.kendall), "holds": one.spearman.estimate > 0 and one.spearman.p < 0.05,
        }
        for one in found.of
    ]  # fmt: skip


def clear(transfer: Transfer) -> dict[str, int]:
    """Return how many pairs help and how many harm with an interval that excludes zero."""
    pairs = [transfer.interval(i, j) for i in transfer.tasks for j in transfer.tasks if i != j]
    return {"help": sum(p.low > 0 for p in pairs), "harm": sum(p.high < 0 for p in pairs), "pairs": len(pairs)}


def similarities(study: Study, tasks: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return what each cheap predictor says of the pairs."""
    lab, method = study.prompts, study.method
    prompts, gradients, texts, images = [], [], [], []
    for name in tasks:
        prompts.append(prompt_vector(folded(lab, name, lab.averaged(method, (name,), study.rate("source", 0)))))
        data = Mixture([lab.inputs(name, "validate", method)], [len(lab.parts(name).task.classes)])
        gradients.append(prompt_gradient(lab.classifier(name), zero_shot_prompt(lab, method), mixture_loader(data)))
        with torch.no_grad():
            texts.append(centroid(lab.classifier(name, own_template=True).text_features()))
        images.append(centroid(lab.features(name, "learn")))
    found = {"prompts": prompts, "gradients": gradients, "class texts": texts, "images": images}
    return {name: cosines(vectors) for name, vectors in found.items()}


def folded(lab: ImagePrompts, name: str, prompt: Delta) -> Delta:
    """Return a prompt as the vectors that enter the model."""
    adapter = dt.attach(lab.classifier(name), prompt)
    try:
        return adapter.folded()
    finally:
        adapter.detach()


def zero_shot_prompt(lab: ImagePrompts, method: str) -> Method:
    """Return the method at the words of the plain template, where it has words, else at its own start."""
    if method != "CoOp":
        return METHODS[method]
    ids = tuple(lab.tokenizer("a photo of a", add_special_tokens=False)["input_ids"])
    return CoOp(length=len(ids), position="end", ids=ids)


def supported(lab: ImagePrompts, methods: Sequence[str]) -> list[str]:
    """Return the methods that have a place in the model; the others are named on stderr."""
    found = []
    for name in methods:
        try:
            METHODS[name].require(lab.model)
            found.append(name)
        except UnsupportedLayer as error:
            print(f"{lab.name}: no {name}: {error}", file=sys.stderr)
    return found


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    if row["row"] == "accuracy":
        place = f"{row['model']:10} {row['method']:5} {row['shots']:2} a class  {row['start']:10} {row['target']:14}"
        mean, *bounds = row["interval"]
        print(f"       {place} {mean:5.1f} {[round(x, 1) for x in bounds] or ''}")
    elif row["row"] == "matrix":
        print(f"       {row['claim']}: {row['clear']}, clusters {row['clusters']}, groups {row['groups']}")
    else:
        verdict = "holds" if row["holds"] else "FAILS"
        rest = f"{row['interval']} ({row['note']})" if row["row"] == "claim" else f"(Kendall {row['kendall']})"
        print(f"{verdict:6} {row['claim']}: {row['ours']} {rest}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--fast", action="store_true", help="dual and CoOp only, few images and steps, one rate")
    parser.add_argument("--models", nargs="+", default=["dual"], help="names of models, or folders of CLIPs")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--draws", type=int, default=5, help="supports a target")
    parser.add_argument("--matrix", action="store_true", help="also all pairs of targets, and predictors")
    parser.add_argument("--folder", type=Path, default=Path("mvlpt"), help="where runs, features and prompts are kept")
    options = parser.parse_args()
    if options.fast:
        options.models, options.methods, options.shots, options.draws = ["dual"], ["CoOp"], [5], 2
        options.targets = list(TUNED_ON)
    if options.matrix and options.draws < 2:
        parser.error("--matrix needs --draws 2 or more: gains are shown with their intervals over supports")
    torch.set_num_threads(1)
    size = FAST if options.fast else Size()
    sources = TUNED_ON if options.fast else SOURCES
    options.folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for model in options.models:
        lab = ImagePrompts(model, size, options.folder)
        runs = Runs(options.folder / f"{'fast-' if options.fast else ''}{lab.digest}.jsonl", FIELDS)
        for method in supported(lab, options.methods):
            study = Study(lab, method, runs, sources, tunes=not options.fast)
            for shots in options.shots:
                found += rows(study, options.targets, shots, range(options.draws))
            if options.matrix:
                found += matrix(study, options.targets, range(options.draws))
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for row in found:
        show(row)


if __name__ == "__main__":
    main()
