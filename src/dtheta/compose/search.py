"""Search: one coefficient a delta, found from values of the loss alone: the setting of LoraHub.

    min over c in [-b, b]^n of   L(theta0 + sum_i c_i tau_i) + a sum_i |c_i|,      c = 0 at the start

Huang et al. 2023 (arXiv 2307.13269) compose adapters of other tasks for a new one from a few examples: a = 0.05,
b = 1.5, 40 evaluations. ComPEFT (arXiv 2311.13171) does so with compressed ones. No backward pass runs, so memory is
that of inference. Deviations: the sum is that of the displacements, not the product of summed factors with its cross
terms; the search is CMA-ES (evolution.py) rather than an optimizer of the nevergrad package.

With one coefficient a block gradients are needed; aTLAS finds that search falls behind there (atlas.py).

Shape legend: n deltas, m blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from dtheta.compose.atlas import problem_of
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.evolution import Found, Vector, minimize
from dtheta.compose.gradient import Composition, composed
from dtheta.compose.objectives import Task, tasks
from dtheta.compose.report import Epoch, Report
from dtheta.core.arguments import is_number, whole
from dtheta.core.delta import Delta
from dtheta.core.modes import kept_modes
from dtheta.core.seeds import key
from dtheta.errors import ConfigError, NonFinite
from dtheta.fit.checks import check_unwritten, versions
from dtheta.fit.randomness import kept_generators, seed_all
from dtheta.fit.stream import as_batches
from dtheta.fit.trainable import Loss


def search_coefficients(
    model: nn.Module,
    deltas: Delta | Sequence[Delta],
    batches: Any,
    loss: Loss | Mapping[str, Loss],
    *,
    evaluations: int = 200,
    penalty: float = 0.05,
    bound: float = 1.5,
    spread: float = 0.3,
    seed: int = 0,
    strict: bool = True,
) -> Coefficients:
    """Search the coefficients of a composition; the model is as before afterwards, to the bit.

    The result is never worse than the base on what is minimized. ``coefficients.report`` tells how it went: its epochs
    are the generations of the search, with the least penalized loss until then.

    Args:
        model: The base of the deltas: any module. It runs in eval mode, without gradients.
        deltas: n deltas of any kind, or one.
        batches: A few batches: a list, a DataLoader or a Dataset, read once and kept; or a mapping of task names to
            such, whose losses are added.
        loss: (model, batch) -> scalar mean loss, to be called with the model it is given; or a mapping by task.
        evaluations: How many compositions are tried, the base included; each on all batches.
        penalty: Of the sum of magnitudes of the coefficients.
        bound: Largest magnitude of a coefficient.
        spread: Standard deviation of the first coefficients tried.
        seed: Key of the draws.
        strict: Whether the touched tensors must be, bit for bit, those the deltas were made on.

    Raises:
        ConfigError: An argument that cannot be meant, no deltas, no batches, or a loss that is no number.
        NonFinite: The loss is NaN or infinite.
        DthetaError: Otherwise as ``learn_coefficients``.
    """
    _check(evaluations, penalty, bound, spread)
    problem = problem_of(model, deltas, True, strict=strict)
    found = tasks(batches, loss)
    n, selected = len(problem.given), problem.selected
    before = versions(model)
    try:
        with kept_generators(next(model.parameters()).device), kept_modes(model):
            held = [(task, _held(task, seed)) for task in found]
            with composed(model, problem.deltas, problem.names, selected) as composition:

                def value(c_n: Vector) -> float:
                    composition.show((torch.from_numpy(c_n)[:, None] * selected)[..., None])
                    return _mean_loss(composition, held, seed) + penalty * float(np.abs(c_n).sum())

                best = minimize(value, np.zeros(n), spread, evaluations, seed, bound)
    finally:
        check_unwritten(model, before)
    values = (torch.from_numpy(best.point)[:, None] * selected)[..., None]
    return Coefficients(tuple(d.digest for d in problem.given), problem.names, values, None, _report(best))


def _check(evaluations: int, penalty: float, bound: float, spread: float) -> None:
    whole(evaluations, "evaluations", 1)
    for name, value, least in (("penalty", penalty, 0.0), ("bound", bound, 1e-300), ("spread", spread, 1e-300)):
        if not (is_number(value) and math.isfinite(value) and value >= least):
            raise ConfigError(
                f"{name} is {value!r}; expected a finite number, {'0 or more' if not least else 'above 0'}"
            )


def _held(task: Task, seed: int) -> list[Any]:
    """Return the batches of a task: every composition must see the same ones."""
    seed_all(key(seed, "search/data"))
    batches = list(as_batches(task.batches, "train", None, None, None))
    if not batches:
        raise ConfigError("there is no batch to search on: the data is empty")
    return batches


@torch.no_grad()
def _mean_loss(composition: Composition, held: Sequence[tuple[Task, list[Any]]], seed: int) -> float:
    total = 0.0
    for task, batches in held:
        for i, batch in enumerate(batches):
            seed_all(key(seed, "search/loss", i))  # a loss that draws must draw the same for every composition
            total += task.weight * _scalar(task.loss(composition.model, batch)) / len(batches)
    if not math.isfinite(total):
        raise NonFinite(
            f"the loss is {total} for one of the compositions; lower bound or spread, or look at the batches"
        )
    return total


def _scalar(loss: Any) -> float:
    if not is_number(loss):
        found = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
        raise ConfigError(f"the loss must be one number, got {found}; return its mean")
    return float(loss)


def _report(found: Found) -> Report:
    epochs = tuple(Epoch(i, value if i else None, {"objective": value}) for i, value in enumerate(found.generations))
    return Report(epochs, found.best, reason=f"{found.evaluations} compositions were tried")
