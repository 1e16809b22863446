"""Prompts: is DePT faster than prompt tuning at equal parameters, and no worse (arXiv 2309.05173)?

time       CPU seconds of a training step (forward, backward, AdamW) over texts of n columns, all texts full: peft's
           prompt tuning with l = 100 virtual tokens, ours, and DePT with m = 40 and the rank that keeps its
           parameters at most l d. Goal: at least 20 % less than peft's at n = 16 and 64. Beside it the model
           (l - m) / (l + n), as the limit of the ratio, (l + n) / (m + n). SmolLM2 is cut to --layers.
memory     most resident bytes of one such step above those before it, in a fork that has run nothing else
accuracy   on texts and their classes, mean over test seeds, DePT against our own prompt tuning with l = 100: no
           worse where the interval of the paired differences lies above -2 points. Rates of every
           method come from as many candidates, judged on held-out training texts of a seed that is not used again;
           no test text takes part. Every run is kept in a file, and an interrupted benchmark goes on.

python bench/prompts.py [--json] [--parts time memory] [--models minilm smollm2] [--columns 16 64 256]
python bench/prompts.py --parts accuracy --models minilm [--tasks bbc r8 sentiment] [--seeds 3]
python bench/prompts.py --parts accuracy --models smollm2 --tasks bbc sentiment --layers 6 --steps 30
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from _measure import Row, compare, interleaved, main, resident
from torch import nn

import dtheta as dt
from dtheta.adapt.classify import adapt_classifier
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.text_problem import frozen_baseline, problem
from dtheta.data.text import Texts, TextTask
from dtheta.reproduce.experiments.prompt_steps import SHORT, TOKENS, batch_of, methods, step
from dtheta.reproduce.runs import Runs
from dtheta.score.interval import paired_interval

WIDTH = {"minilm": 384, "smollm2": 576}
TUNING_SEED = 100
TOLERANCE = 0.02  # of accuracy
LABELS = {"minilm": "MiniLM", "smollm2": "SmolLM2"}


def load(name: str, layers: int) -> nn.Module:
    """Return a pretrained model in eval mode, without dropout; only SmolLM2 is cut."""
    return dt.load_model(name, layers=layers if name == "smollm2" else None).eval()


@cache
def loaded(name: str, layers: int) -> tuple[nn.Module, Any]:
    """Return a model and its tokenizer, which all trainings share."""
    return load(name, layers), dt.load_tokenizer(name)


# ---- time and memory


def contestants(name: str, columns: int, size: int, layers: int) -> dict[str, Callable[[], None]]:
    """Return a step of each contestant."""
    import peft

    batch = batch_of(columns, size, labels=name == "smollm2")
    task = "CAUSAL_LM" if name == "smollm2" else "FEATURE_EXTRACTION"
    config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=TOKENS)
    theirs = peft.get_peft_model(load(name, layers), config)
    theirs.eval()  # without dropout, as ours
    found: dict[str, Callable[[], None]] = {
        "peft": step(theirs, [p for p in theirs.parameters() if p.requires_grad], batch)
    }
    for label, method in methods(WIDTH[name], positions=columns).items():
        adapter = dt.attach(load(name, layers), method)
        found[label] = step(adapter, adapter.trainable().values(), batch)
    return found


def peak(run: Callable[[], None]) -> float:
    """Return the most resident bytes of a call above those before it, in a fork of this process."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_peak, args=(run, send))
    child.start()
    found = receive.recv()
    child.join()
    return found


def _peak(run: Callable[[], None], send: Any) -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    before = resident("VmRSS")
    run()
    send.send(float(resident() - before))
    send.close()
    os._exit(0)


def costs(name: str, columns: int, arguments: argparse.Namespace) -> Iterable[Row]:
    """Return the rows of time and memory at one length."""
    size = arguments.batch or (16 if name == "minilm" else 4)
    layers = None if name == "minilm" else arguments.layers
    done = Runs(Path(arguments.costs), ("part", "model", "layers", "columns", "texts", "repeat"))
    runs: dict[str, Callable[[], None]] = {}

    def found(part: str) -> dict[str, float]:
        def make() -> dict[str, float]:
            runs.update(runs or contestants(name, columns, size, arguments.layers))
            if part == "memory":
                for run in runs.values():
                    run()  # what only the first step allocates is not its peak
                return {label: peak(run) for label, run in runs.items()}
            return interleaved(runs, arguments.repeat)

        return done.get((part, name, layers, columns, size, arguments.repeat), make)

    where = f"{LABELS[name]}{'' if layers is None else f' ({layers} layers)'}, n={columns}, {size} texts"
    limit = (TOKENS + columns) / (SHORT + columns)
    if "memory" in arguments.parts:
        yield _row(f"{where}: memory of a step", found("memory"), "MB", 1e6, columns, limit, None)
    if "time" in arguments.parts:
        goal = 1.25 if columns <= 64 else None
        yield _row(f"{where}: time of a step", found("time"), "s", 1.0, columns, limit, goal)


def _row(
    name: str, found: Mapping[str, float], unit: str, per: float, columns: int, limit: float, goal: float | None
) -> Row:
    model = (TOKENS - SHORT) / (TOKENS + columns)
    saved = {label: 1 - found["DePT"] / found[label] for label in ("peft", "PromptTuning")}
    note = (
        f"saved {saved['peft']:.1%} of peft's, {saved['PromptTuning']:.1%} of our prompt tuning's, (l-m)/(l+n) = "
        f"{model:.1%}; our prompt tuning {found['PromptTuning'] / per:.3g}, ADePT {found['ADePT'] / per:.3g}"
    )
    return compare(name, found["DePT"] / per, found["peft"] / per, unit, goal=goal, limit=limit, note=note)


# ---- accuracy

#: As many candidates for every method: of lr, or of lr and offset_lr.
CANDIDATES: Mapping[str, tuple[tuple[float, float | None], ...]] = {
    "PromptTuning": tuple((lr, None) for lr in (3e-3, 1e-2, 3e-2, 1e-1)),
    "DePT": tuple((lr, offset) for lr in (1e-2, 3e-2) for offset in (5e-4, 5e-3)),
    "ADePT": tuple((lr, offset) for lr in (1e-2, 3e-2) for offset in (5e-4, 5e-3)),
}


class Trainings:
    """Accuracies of trainings, kept in a file as they end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        fields = ("model", "layers", "steps", "task", "method", "lr", "offset_lr", "seed", "part")
        self.runs = Runs(Path(arguments.runs), fields)

    def accuracy(self, model: str, task: str, method: str, rates: tuple[float, float | None], seed: int) -> float:
        """Return the accuracy on test texts; of the tuning seed on held-out training texts."""
        part = "held-out" if seed == TUNING_SEED else "test"
        layers = self.arguments.layers if model == "smollm2" else None
        key = (model, layers, self.arguments.steps, task, method, *rates, seed, part)
        return self.runs.get(key, lambda: {"accuracy": train(model, task, method, rates, seed, self.arguments)})[
            "accuracy"
        ]

    def tuned(self, model: str, task: str, method: str) -> tuple[float, float | None]:
        """Return the candidate that is best on held-out training texts, the first of equal ones."""
        found = {rates: self.accuracy(model, task, method, rates, TUNING_SEED) for rates in CANDIDATES[method]}
        return max(found, key=lambda rates: found[rates])


def train(
    model: str, task: str, name: str, rates: tuple[float, float | None], seed: int, arguments: argparse.Namespace
) -> float:
    """Train one prompt and a head, and return its accuracy."""
    texts = dt.load_task(task, n_train=arguments.train, n_test=arguments.test, seed=seed)
    if seed == TUNING_SEED:
        texts = held_out(texts)
    method = methods(WIDTH[model], arguments.max_length)[name]
    if rates[1] is not None:
        method = replace(method, offset_lr=rates[1])  # type: ignore[call-arg]
    posed = problem(*loaded(model, arguments.layers), texts, arguments.max_length)
    recipe = Recipe(
        method, steps=arguments.steps, batch_size=8, lr=rates[0], max_length=arguments.max_length, seed=seed
    )
    return adapt_classifier(posed, recipe, frozen_baseline(posed), quiet=True).score.estimate


def held_out(task: TextTask) -> TextTask:
    """Return a task whose test texts are a third of its training texts."""
    cut = 2 * len(task.train) // 3
    first, second = (Texts(task.train.texts[part], task.train.labels[part]) for part in (slice(cut), slice(cut, None)))
    return replace(task, train=first, test=second)


def accuracies(name: str, arguments: argparse.Namespace) -> Iterable[Row]:
    """Return a row for each task, and one over all of them."""
    runs, seeds = Trainings(arguments), range(arguments.seeds)
    challengers = ["DePT", "ADePT"] if arguments.adept else ["DePT"]
    everything: dict[str, tuple[list[float], list[float]]] = {label: ([], []) for label in challengers}
    for task in arguments.tasks:
        plain_rates = runs.tuned(name, task, "PromptTuning")
        plain = [runs.accuracy(name, task, "PromptTuning", plain_rates, seed) for seed in seeds]
        for label in challengers:
            rates = runs.tuned(name, task, label)
            found = [runs.accuracy(name, task, label, rates, seed) for seed in seeds]
            everything[label][0].extend(found)
            everything[label][1].extend(plain)
            yield accuracy_row(
                f"{LABELS[name]}, {task}: accuracy of {label}", found, plain, f"rates {rates}, {plain_rates}"
            )
    for label, (found, plain) in everything.items():
        yield accuracy_row(f"{LABELS[name]}, all tasks: accuracy of {label}", found, plain, f"{len(found)} pairs")


def accuracy_row(name: str, found: list[float], plain: list[float], note: str) -> Row:
    """Return the row of paired accuracies."""
    gain = paired_interval(found, plain) if len(found) > 1 else None
    means = sum(found) / len(found), sum(plain) / len(plain)
    row = compare(name, *means, "share right", larger_is_better=True, note=f"difference {gain}; {note}")
    return replace(row, holds=None if gain is None else gain.low > -TOLERANCE)


def measure(arguments: argparse.Namespace) -> Iterable[Row]:
    """Measure what was asked for."""
    for name in arguments.models:
        if {"time", "memory"} & {*arguments.parts}:
            for columns in arguments.columns:
                yield from costs(name, columns, arguments)
        if "accuracy" in arguments.parts:
            yield from accuracies(name, arguments)


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--parts", nargs="+", choices=("time", "memory", "accuracy"), default=["time", "memory"])
    parser.add_argument("--models", nargs="+", choices=tuple(WIDTH), default=list(WIDTH))
    parser.add_argument("--columns", nargs="+", type=int, default=[16, 64, 256])
    parser.add_argument("--layers", type=int, default=6, help="layers of SmolLM2, of 30")
    parser.add_argument("--batch", type=int, default=0, help="texts of a timed step; 16 for MiniLM, 4 for SmolLM2")
    parser.add_argument("--tasks", nargs="+", default=["bbc", "r8", "sentiment"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--train", type=int, default=240, help="training texts; a third is held out while rates are tuned"
    )
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--max-length", type=int, default=32)
    parser.add_argument("--adept", action="store_true", help="measure the accuracy of ADePT too")
    parser.add_argument("--runs", default="prompts_runs.jsonl", help="file of finished trainings")
    parser.add_argument("--costs", default="prompts_costs.jsonl", help="file of measured times and memories")


if __name__ == "__main__":
    main("prompts", measure, repeat=3, packages=("torch", "transformers", "peft"), options=options)
