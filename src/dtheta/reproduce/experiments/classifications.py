"""Methods as text classifiers: a problem and its frozen baseline made once for all of them, and one training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dtheta.adapt.classify import Adapted, adapt_classifier
from dtheta.adapt.method import Method
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.text_problem import Frozen, Problem, frozen_baseline, problem
from dtheta.data.tasks import load_task
from dtheta.errors import NonFinite
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab

Measure = Callable[[Problem, Adapted], Mapping[str, Any]]


@dataclass(frozen=True)
class Size:
    """How many texts a task has, how many tokens of each are kept, and how long is trained."""

    train: int = 256
    test: int = 400
    length: int = 32
    steps: int = 60
    batch: int = 8

    def __str__(self) -> str:
        tokens = f"at most {self.length} tokens"
        return f"{self.train} training texts of {tokens}, {self.steps} steps of {self.batch}, {self.test} test texts"


@cache
def posed(base: Base, task: str, size: Size, seed: int) -> Problem:
    """Return a task with one draw of its texts, encoded for a model under a head of zeros."""
    return problem(*base.pretrained(), load_task(task, size.train, size.test, seed), size.length)


@cache
def frozen(base: Base, task: str, size: Size, seed: int) -> Frozen:
    """Return what a regression on the frozen model reaches on it, where every training begins."""
    return frozen_baseline(posed(base, task, size, seed))


def classified(found: Problem, base: Frozen, recipe: Recipe) -> tuple[dict[str, Any], Adapted | None]:
    """Train once; return the figures, and what was made unless the training diverged.

    The figures are the accuracy and that of the frozen model, the mean loss of the last quarter of the steps, and the
    weights that trained, without the head.
    """
    scores: dict[str, Any] = {"frozen": base.accuracy.estimate}
    try:
        adapted = adapt_classifier(found, recipe, base, quiet=True)
    except NonFinite:
        return scores | {"accuracy": 0.0, "train_loss": math.inf, "parameters": 0}, None
    losses = [loss for _, loss in adapted.record.losses[-recipe.steps // 4 :]]
    head = sum(p.numel() for p in found.net.head.parameters())
    scores |= {"accuracy": adapted.score.estimate, "train_loss": sum(losses) / len(losses)}
    return scores | {"parameters": adapted.parameters - head}, adapted


def accuracies(
    lab: Lab, name: str, method: Method, rate: float, draws: Sequence[tuple[str, int]], size: Size,
    select: str | None = None, base: Base | None = None, also: Measure | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return the figures of a method on every draw, a task and a seed; accuracies in percent.

    Args:
        lab: Where the runs are kept.
        name: What tells the method from others.
        method: What trains, beside the head.
        rate: Its learning rate.
        draws: Task and seed of each training.
        size: Of the tasks and trainings.
        select: Where the method trains; its own default if None.
        base: The model; MiniLM if None.
        also: Returns further figures of what was made, on the problem as it is without an adapter.
    """
    base = base or Base()

    def make(task: str, seed: int) -> dict[str, Any]:
        recipe = Recipe(method, select, size.steps, size.batch, rate, max_length=size.length, seed=seed)
        one = posed(base, task, size, seed)
        found, adapted = classified(one, frozen(base, task, size, seed), recipe)
        found |= {key: 100 * found[key] for key in ("accuracy", "frozen")}
        return found if also is None or adapted is None else found | dict(also(one, adapted))

    return [
        lab.run("classification", f"{task} {name} lr {rate:g}", seed, lambda t=task, s=seed: make(t, s))
        for task, seed in draws
    ]
