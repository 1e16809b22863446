"""Descent: AdamW on the coefficients of a composition, epoch by epoch, and the choice of what is kept.

    g_i^(j)  = sum over losses and batches of a step of dL/dc_i^(j)          gradient.py
    g        <- (g + penalty) min(1, clip / ||g + penalty||)
    c - s    <- AdamW(c - s, g, lr(t)),      c = s at the start; s = 0, the base, for weights
    penalty  = grad of  w mean over blocks of ||(c_1^(j) ... c_n^(j))||_p,   p = 1 or 2

Coefficients are float64. The isotropic variant has one number per delta, of which all blocks get copies; its gradient
is the sum of theirs. Scores are taken before the first step too: epoch 0 is the start.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.compose.gradient import Composition
from dtheta.compose.objectives import Supply, Task
from dtheta.compose.recipe import Recipe
from dtheta.compose.report import Epoch, Report
from dtheta.compose.rules import Rule
from dtheta.core.seeds import key
from dtheta.errors import NonFinite
from dtheta.fit.batch import rows
from dtheta.fit.randomness import seed_all
from dtheta.fit.schedule import factor
from dtheta.fit.trainable import Batch

_LOSS_SCALE = 2.0**12  # for float16, whose smallest number is 6e-8; halved whenever the gradient overflows


@dataclass(frozen=True, eq=False)
class Unknowns:
    """What is learned: how far the coefficients are from their start, and how these numbers fill (n, m, K).

    Attributes:
        selected: Bool (n, m): the pairs that have a coefficient.
        parts: K.
        isotropic: Whether all blocks of a delta share one number.
        origin: Coefficient of each pair at the start, s.
    """

    selected: Tensor
    parts: int = 1
    isotropic: bool = False
    origin: float = 0.0

    def start(self) -> Tensor:
        """Return the unknowns at zero."""
        n, m = self.selected.shape
        return torch.zeros((n, 1, 1) if self.isotropic else (n, m, self.parts), dtype=torch.float64)

    def fill(self, unknowns: Tensor) -> Tensor:
        """Return the coefficients (n, m, K)."""
        return (unknowns + self.origin) * self.selected[..., None].to(unknowns)

    def gather(self, gradient_nmK: Tensor) -> Tensor:
        """Return the gradient by the unknowns from that by the coefficients."""
        kept = gradient_nmK * self.selected[..., None].to(gradient_nmK)
        return kept.sum((1, 2), keepdim=True) if self.isotropic else kept


class Descent:
    """A run of learning; ``run`` does all of it."""

    def __init__(
        self, composition: Composition, supply: Supply, rule: Rule, unknowns: Unknowns, recipe: Recipe, seed: int
    ) -> None:
        self.composition, self.supply, self.rule, self.recipe, self.seed = composition, supply, rule, recipe, seed
        self.unknowns = unknowns
        self.free = torch.nn.Parameter(unknowns.start())
        self.optimizer = torch.optim.AdamW([self.free], lr=recipe.lr, weight_decay=recipe.weight_decay)
        self.scale = _LOSS_SCALE if composition.half else 1.0
        self.per_epoch = supply.steps(recipe.accumulation, recipe.shortest)

    def run(self) -> tuple[Tensor, Report]:
        """Learn; return the (n, m, K) values that were kept, and the report."""
        start = self._scored(Epoch(0))
        epochs, best, values = [start], start, self._values()
        reason, broken = "all epochs were run", False
        for number in range(1, self.recipe.epochs + 1):
            epoch = self._scored(Epoch(number, self._epoch(number)))
            epochs.append(epoch)
            if stop := self.rule.stop(epoch.scores, start.scores):
                reason, broken = f"stopped after epoch {number}: {stop}", True
                break
            if self.rule.better(epoch.scores, best.scores):
                best, values = epoch, self._values()
        feasible = not (broken and len(epochs) == 2)
        return values, Report(tuple(epochs), best.number, feasible, reason)

    def _values(self) -> Tensor:
        return self.unknowns.fill(self.free.detach()).clone()

    def _scored(self, epoch: Epoch) -> Epoch:
        """Measure the model as the coefficients are now."""
        self.composition.show(self._values(), exact=True)
        seed_all(key(self.seed, "atlas/scores", epoch.number))
        with torch.no_grad():
            return Epoch(epoch.number, epoch.loss, self.rule.scores(self.composition.model))

    def _epoch(self, number: int) -> float:
        """Take the steps of one epoch; return their mean loss."""
        first = (number - 1) * self.per_epoch
        losses = [self._step(first + i) for i in range(self.per_epoch)]
        return math.fsum(losses) / len(losses)

    def _step(self, t: int) -> float:
        """Take one step; return the loss before it, without the penalty."""
        self.composition.show(self._values())
        parts = [self.supply.next() for _ in range(self.recipe.accumulation)]
        loss = self._backward(t, parts)
        gradient = self.unknowns.gather(self.composition.gradient / self.scale)
        self.free.grad = gradient + self._penalty()
        if self.recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_([self.free], self.recipe.clip)
        rate = factor(t, self.recipe.epochs * self.per_epoch, 0, self.recipe.schedule)
        self.optimizer.param_groups[0]["lr"] = self.recipe.lr * rate
        self.optimizer.step()
        return loss

    def _backward(self, t: int, parts: Sequence[Sequence[tuple[Task, Batch]]]) -> float:
        """Fill the composition's gradient with that of the step's loss, times the scale; return the loss."""
        while True:
            self.composition.clear()
            seed_all(key(self.seed, "atlas/step", t))
            loss = math.fsum(self._losses(t, parts))
            if bool(torch.isfinite(self.composition.gradient).all()):
                return loss
            if self.scale == 1.0:
                raise NonFinite(f"step {t + 1}: the loss is {loss:g} and its gradient is not finite; look at the batch")
            self.scale /= 2.0

    def _losses(self, t: int, parts: Sequence[Sequence[tuple[Task, Batch]]]) -> list[float]:
        """Differentiate every loss of a step; batches of one task count by their rows."""
        totals = [sum(rows(part[k][1]) for part in parts) for k in range(len(self.supply.tasks))]
        found = []
        for part in parts:
            for (task, batch), total in zip(part, totals, strict=True):
                weight = task.weight * rows(batch) / total if len(parts) > 1 else task.weight
                value = task.loss(self.composition.model, batch)
                self._check(t, task, value)
                self.composition.backward(value, weight * self.scale)
                found.append(weight * float(value.detach()))
        return found

    def _check(self, t: int, task: Task, value: object) -> None:
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
            name = f" of {task.name}" if task.name else ""
            found = float(value.detach().float().mean())
            raise NonFinite(
                f"step {t + 1}: the loss{name} is {found:g}; lower lr (now {self.recipe.lr:g}), or look at the batch. "
                "The base is as it was"
            )

    def _penalty(self) -> Tensor | float:
        """Return the gradient of the penalty by the unknowns."""
        if self.recipe.penalty == 0.0:
            return 0.0
        free = self.free.detach().clone().requires_grad_()
        norms_mK = torch.linalg.vector_norm(self.unknowns.fill(free), self.recipe.order, dim=0)
        (gradient,) = torch.autograd.grad(self.recipe.penalty * norms_mK.mean(), free)
        return gradient
