"""What `scout.py` predicts: the accuracies of real trainings, by task, method, rate and seed.

Every training is the recipe of `dtheta adapt`: MiniLM, 256 texts of at most 32 tokens, 60 steps of 16 texts, the head
from its regression. The right and wrong answers on 800 test texts are kept, so a rate is chosen on one half of them
and scored on the other, both ways round: the accuracy of a method is that of its tuned rate, without selection bias.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dtheta as dt
from dtheta.adapt.classify import adapt_classifier
from dtheta.adapt.frozen import predicted_logits
from dtheta.adapt.method import Method
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.text_problem import Frozen, Problem, frozen_baseline, problem
from dtheta.reproduce.runs import Runs

TASKS = ("20news", "sentiment", "tweets", "r8", "bbc")
TRAIN, TEST, LENGTH, STEPS = 256, 800, 32, 60
FACTORS = (1.0, 1 / 3, 3.0)  # of a method's middle rate


@dataclass(frozen=True)
class Candidate:
    """A method, where it trains, and the middle of the three rates that are tried."""

    method: Method
    select: str | None
    rate: float


CANDIDATES = {
    "LoRA r=2": Candidate(dt.LoRA(rank=2), None, 2e-3),
    "LoRA r=16": Candidate(dt.LoRA(rank=16), None, 2e-3),
    "PiSSA r=16": Candidate(dt.PiSSA(rank=16), None, 5e-4),
    "SORSA r=16": Candidate(dt.SORSA(rank=16), None, 2e-4),
    "CLIPSVD": Candidate(dt.CLIPSVD(), None, 9e-3),
    "BitFit": Candidate(dt.BitFit(), None, 3e-3),
    "Full": Candidate(dt.Full(), None, 1e-4),
    "LoRA r=16, layers 4-5": Candidate(dt.LoRA(rank=16), "@blocks#4-5|!encoder.pooler.*", 2e-3),
    "LoRA r=16, layers 0-1": Candidate(dt.LoRA(rank=16), "@blocks#0-1|!encoder.pooler.*", 2e-3),
    "PromptTuning": Candidate(dt.PromptTuning(), None, 3e-2),
}


@cache
def _pretrained() -> tuple[Any, Any]:
    return dt.load_model("minilm"), dt.load_tokenizer("minilm")


@cache
def posed(task: str, seed: int) -> Problem:
    """Return a task, its texts drawn by the seed."""
    return problem(*_pretrained(), dt.load_task(task, TRAIN, TEST, seed), LENGTH)


@cache
def frozen(task: str, seed: int) -> Frozen:
    """Return what the frozen encoder reaches."""
    return frozen_baseline(posed(task, seed))


def train(task: str, name: str, factor: float, seed: int) -> dict[str, Any]:
    """Train one candidate and return which test texts it classifies right, as a string of 0 and 1."""
    problem_, candidate = posed(task, seed), CANDIDATES[name]
    before = frozen(task, seed)
    rate = factor * candidate.rate
    recipe = Recipe(candidate.method, candidate.select, STEPS, lr=rate, max_length=LENGTH, seed=seed)
    start = time.process_time()
    # scored on the training texts first: the test texts are for the second, timed apart
    few = replace(problem_, test=problem_.train)
    found = adapt_classifier(few, recipe, _few(before, problem_), quiet=True)
    seconds = time.process_time() - start
    adapter = dt.attach(problem_.net, found.delta)
    try:
        right = _right(predicted_logits(problem_.net, problem_.test), problem_.test.labels)
    finally:
        adapter.detach()
    losses = [loss for _, loss in found.record.losses]
    return {
        "rate": rate, "right": right, "seconds": seconds, "train_accuracy": found.score.estimate,
        "loss": sum(losses[-10:]) / 10, "parameters": found.parameters,
    }  # fmt: skip


def _few(before: Frozen, posed_: Problem) -> Frozen:
    return replace(before, correct=torch.ones(len(posed_.train)))


def _right(logits: Tensor, labels: Any) -> str:
    return "".join("1" if r else "0" for r in (logits.argmax(1) == torch.tensor(labels)).tolist())


def runs_of(path: Path) -> Runs:
    """Return the file of trainings."""
    return Runs(path, ("task", "name", "factor", "seed"))


def baseline(runs: Runs, task: str, seed: int) -> dict[str, Any]:
    """Return the frozen encoder's answers."""

    def make() -> dict[str, Any]:
        start = time.process_time()
        right = "".join("1" if r else "0" for r in frozen(task, seed).correct.tolist())
        return {"right": right, "seconds": time.process_time() - start}

    return runs.get((task, "Frozen", 1.0, seed), make)


def plan(seeds: int) -> Iterator[tuple[str, str, float, int]]:
    """Yield all trainings: the first seed at the middle rates, then its other rates, then the other seeds."""
    for seed in range(seeds):
        for factor in FACTORS:
            for task in TASKS:
                yield from ((task, name, factor, seed) for name in CANDIDATES)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("scout_runs.jsonl"))
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = runs_of(options.runs)
    for key in plan(options.seeds):
        task, _, _, seed = key
        baseline(runs, task, seed)
        runs.get(key, lambda key=key: train(*key))


if __name__ == "__main__":
    main()
