"""Negation: make a model forget a task while it keeps the others, by learned coefficients.

    min over c of  -L_target + L_control,      one batch of each a step

The rule (rules.py): after each epoch the control's score must be at least ``keep`` times that of the base; the first
epoch that fails ends the run, and of the others the one with the lowest target score is kept. The paper (aTLAS, arXiv
2407.02880) uses one task vector, whose negative the signs of the coefficients then find by themselves, rates from 2e-3
to 1e-2 and 2 to 20 epochs, by data set.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from dtheta.compose.atlas import problem_of
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.objectives import Task
from dtheta.compose.recipe import Recipe, recipe_of
from dtheta.compose.rules import Forget, Metric
from dtheta.core.delta import Delta
from dtheta.errors import DthetaWarning
from dtheta.fit.trainable import Loss


def learn_negation(
    model: nn.Module,
    deltas: Delta | Sequence[Delta],
    target: Any,
    control: Any,
    loss: Loss,
    *,
    target_metric: Metric,
    control_metric: Metric,
    control_loss: Loss | None = None,
    keep: float = 0.95,
    recipe: str | Recipe = "addition",
    isotropic: bool = False,
    parts: int = 1,
    linearized: bool = False,
    seed: int = 0,
    strict: bool = True,
    **changes: Any,
) -> Coefficients:
    """Learn coefficients with which the model is worst at a target task and keeps a control task.

    Args:
        model: The base of the deltas; as before afterwards, to the bit.
        deltas: Usually one, of fine-tuning on the target.
        target: Batches of the task to forget.
        control: Batches of the task to keep.
        loss: (model, batch) -> scalar mean loss, to be called with the model it is given.
        target_metric: model -> score on the target, which is to become low.
        control_metric: model -> score on the control, higher is better, not negative: a share of it is to remain.
        control_loss: The loss of the control, if it is another one.
        keep: Share of the base's control score that has to remain.
        recipe: How long and how fast; see ``learn_coefficients``.
        isotropic: One number a delta for all blocks.
        parts: K coefficients a delta and block, as in ``learn_coefficients``.
        linearized: Learn for the model's expansion around its base.
        seed: Key of the order of data and the partition.
        strict: Whether the touched tensors must be, bit for bit, those the deltas were made on.
        changes: Fields of the recipe to change, such as ``lr=5e-3, epochs=5``.

    Returns:
        The coefficients; zeros, with ``report.feasible`` False and a warning, if the first epoch broke the control.

    Raises:
        DthetaError: As ``learn_coefficients``.
    """
    made = recipe_of(recipe, changes)
    rule = Forget(target_metric, control_metric, keep)
    problem = problem_of(model, deltas, isotropic, parts, linearized, seed, strict)
    found = [Task("target", target, loss, -1.0), Task("control", control, control_loss or loss)]
    learned = problem.solve(found, rule, made)
    if learned.report is not None and not learned.report.feasible:
        warnings.warn(
            f"negation was not feasible: {learned.report.reason}; the coefficients are zeros. Try a lower lr, or "
            "shorter epochs",
            DthetaWarning,
            stacklevel=2,
        )
    return learned
