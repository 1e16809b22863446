"""aTLAS: learn with how much of each delta to move each parameter (Zhang et al. 2024, arXiv 2407.02880).

    min over c of  sum_t L_t( f( x; theta0 + sum_i c_i^(j) tau_i^(j) ) ),      c = 0 at the start

n m numbers for n deltas and m named tensors. What the paper finds to matter is that each block of each delta has its
own: one number a delta (``isotropic``), learned or searched, is far behind.

Here the model is never rebuilt inside the graph: one backward pass to the weights and inner products give all
gradients (gradient.py), whatever the form of the deltas: dense, low-rank, ternary, spectral, rows, sums; prompts
likewise (prompts.py). The model runs in eval mode, so that no statistics of the base move. Deviations: weights are
composed in float32 instead of float16 products under autocast; epochs are judged by the metric of the caller rather
than by accuracy relative to fine-tuning.

Shape legend: n deltas, m blocks, K parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.compose.coefficients import Coefficients, blocks, changed
from dtheta.compose.descent import Descent, Unknowns
from dtheta.compose.gradient import composed
from dtheta.compose.linearized import linearly_composed
from dtheta.compose.objectives import Supply, Task, tasks
from dtheta.compose.prompts import check_prompts, shown
from dtheta.compose.recipe import Recipe, recipe_of
from dtheta.compose.rules import Metric, Rule, best_or_last
from dtheta.compose.select import Strategy, check_budget, pick, pick_randomly
from dtheta.core.apply import bind
from dtheta.core.arguments import listed, number
from dtheta.core.delta import Delta, total
from dtheta.core.modes import kept_modes
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.fit.checks import check_unwritten, versions
from dtheta.fit.randomness import kept_generators
from dtheta.fit.trainable import Loss


def learn_coefficients(
    model: nn.Module,
    deltas: Delta | Sequence[Delta],
    batches: Any,
    loss: Loss | Mapping[str, Loss],
    *,
    metric: Metric | None = None,
    better: Literal["higher", "lower"] = "higher",
    recipe: str | Recipe = "addition",
    isotropic: bool = False,
    parts: int = 1,
    budget: int | None = None,
    selection: Strategy = "blockwise",
    linearized: bool = False,
    start: float | None = None,
    seed: int = 0,
    strict: bool = True,
    **changes: Any,
) -> Coefficients:
    """Learn the coefficients of a composition; the model is as before afterwards, to the bit.

    ``compose(deltas, coefficients)`` makes the delta that was scored; ``coefficients.report`` tells how it went.

    Args:
        model: The base of the deltas: any module. It runs in eval mode. For prompts an adapter of the same names and
            shapes, ``dt.attach(model, deltas[0])``, which is as before afterwards too.
        deltas: n deltas of any kind, or one. Prompts have the same names and shapes, and move no weights.
        batches: A list of batches, a DataLoader or a Dataset; or a mapping of task names to such, whose losses are
            added, one batch of each a step.
        loss: (model, batch) -> scalar mean loss, to be called with the model it is given; or a mapping by task.
        metric: model -> number, on validation data; the epoch with the best one is kept, the start included, so the
            result is never below it. None keeps the last epoch.
        better: Which direction of the metric is better.
        recipe: "addition" (20 epochs at 1e-3), "few-shot" (10 epochs at 1e-1, cosine), or a ``Recipe``.
        isotropic: One number a delta for all blocks.
        parts: K coefficients a delta and block, each for a random part of its elements, given by the seed.
        budget: Number of deltas that may have a coefficient in a block; None for all.
        selection: How these are chosen: "blockwise" or "whole" by the gradient at the base over one epoch, or "random".
        linearized: Learn for ``f(x; theta0) + J(x) v`` instead of ``f(x; theta0 + v)``.
        start: All coefficients at the start, to which weight decay pulls them. None is 0 for weights, which is the
            base, and 1/n for prompts, which is their mean: a prompt of zeros still takes its places.
        seed: Key of the order of data, the partition and the random selection.
        strict: Whether the touched tensors must be, bit for bit, those the deltas were made on.
        changes: Fields of the recipe to change: epochs, lr, weight_decay, clip, schedule, accumulation, shortest,
            penalty, order.

    Raises:
        ConfigError: An argument that cannot be meant, no deltas, empty data, or a loss that is no scalar or does not
            depend on a parameter that a delta changes.
        BaseMismatch: The deltas are of different bases, or of another one than the model.
        UnknownParameter, ShapeMismatch: A delta does not fit the model.
        UnsupportedLayer: A delta brings new vectors and there is no adapter to show them, or it moves weights too; a
            delta changes buffers; or the model writes to its own tensors.
        NonFinite: A loss, a gradient or a metric is NaN or infinite.
    """
    made, rule = recipe_of(recipe, changes), best_or_last(metric, better)
    problem = problem_of(model, deltas, isotropic, parts, linearized, seed, strict, prompts=True)
    problem = problem.starting(start, budget)
    check_budget(budget, selection, len(problem.deltas))
    found = tasks(batches, loss)
    if budget is not None:
        problem = replace(problem, selected=problem.choose(found, budget, selection))
    return problem.solve(found, rule, made)


@dataclass(frozen=True, eq=False)
class Problem:
    """A model, deltas that fit it, and which of their pairs with blocks have coefficients.

    Attributes:
        model: The base, or for prompts an adapter on it.
        given: The deltas as they were given; their digests name the coefficients.
        deltas: The same, with the basis of spectral changes.
        names: The m blocks.
        selected: Bool (n, m).
        isotropic, parts, linearized, seed, start: As in ``learn_coefficients``.
        prompts: Whether the deltas are new vectors.
    """

    model: nn.Module
    given: Sequence[Delta]
    deltas: Sequence[Delta]
    names: tuple[str, ...]
    selected: Tensor
    isotropic: bool
    parts: int
    linearized: bool
    seed: int
    start: float = 0.0
    prompts: bool = False

    def starting(self, start: float | None, budget: int | None) -> Problem:
        """Return the problem with this start; None for that of its kind.

        Raises:
            ConfigError: If prompts are to start at zero, or to be selected there.
        """
        if not self.prompts:
            return self if start is None else replace(self, start=number(start, "start"))
        start = 1 / len(self.deltas) if start is None else number(start, "start")
        if start == 0.0 or budget is not None:
            raise ConfigError(
                f"{self.names[0]}: zero coefficients are a prompt of zeros and not the base, so prompts neither start "
                f"there nor are selected by the gradient there; found start={start:g}, budget={budget}"
            )
        return replace(self, start=start)

    def solve(self, found: Sequence[Task], rule: Rule, made: Recipe) -> Coefficients:
        """Learn, and return what the rule keeps."""
        with ExitStack() as stack:
            composition, supply = self._enter(stack, found)
            unknowns = Unknowns(self.selected, self.parts, self.isotropic, self.start)
            values, report = Descent(composition, supply, rule, unknowns, made, self.seed).run()
        digests = tuple(delta.digest for delta in self.given)
        return Coefficients(digests, self.names, values, self.seed if self.parts > 1 else None, report)

    def choose(self, found: Sequence[Task], budget: int, strategy: Strategy) -> Tensor:
        """Return the bool (n, m) pairs that fit a budget; see select.py."""
        if strategy == "random":
            return pick_randomly(self.selected, budget, self.seed)
        with ExitStack() as stack:
            composition, supply = self._enter(stack, found)
            for _ in range(supply.steps(1, 1)):
                for task, batch in supply.next():
                    composition.backward(task.loss(composition.model, batch), task.weight)
            if not bool(torch.isfinite(composition.gradient).all()):
                raise NonFinite("the gradient at the base is not finite, so it selects nothing; look at the batches")
            return pick(composition.gradient.sum(2), self.selected, budget, strategy)

    def _enter(self, stack: ExitStack, found: Sequence[Task]) -> tuple[Any, Supply]:
        """Show the base as a composition, and open the data; everything is given back when the stack ends."""
        before = versions(self.model)
        stack.callback(check_unwritten, self.model, before)
        stack.enter_context(kept_generators(next(self.model.parameters()).device))
        stack.enter_context(kept_modes(self.model))
        enter = shown if self.prompts else linearly_composed if self.linearized else composed
        around = enter(self.model, self.deltas, self.names, self.selected, self.parts, self.seed)
        composition = stack.enter_context(around)
        for task in found:
            if task.begin is not None:
                task.begin(composition.model)
        supply = Supply(found, self.seed)
        stack.callback(supply.close)
        return composition, supply


def problem_of(
    model: nn.Module,
    deltas: Delta | Sequence[Delta],
    isotropic: bool = False,
    parts: int = 1,
    linearized: bool = False,
    seed: int = 0,
    strict: bool = True,
    prompts: bool = False,
) -> Problem:
    """Check that deltas fit a model, and bind them to it; with ``prompts`` they may be new vectors of an adapter.

    Raises:
        As ``learn_coefficients``.
    """
    deltas = listed(deltas)
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts < 1 << 31:
        raise ConfigError(f"parts is {parts!r}; expected a whole number, 1 or more")
    if isotropic and parts > 1:
        raise ConfigError("isotropic coefficients have one number a delta, so blocks are not split: parts must be 1")
    joint, names = total(deltas), blocks(deltas)
    if joint.new:
        if not prompts:
            raise UnsupportedLayer(
                f"{next(iter(joint.new))}: a delta brings a vector that the model does not have, so it has no "
                "coefficient here; restrict the delta to the parameters of the model"
            )
        check_prompts(model, deltas, joint, strict)
        if parts > 1 or linearized:
            raise ConfigError("new vectors have one coefficient a delta and name: parts is 1, and linearized False")
        return Problem(model, deltas, deltas, names, changed(deltas, names), isotropic, 1, False, seed, prompts=True)
    if not len(joint):
        raise ConfigError("the deltas change nothing, so there is nothing to learn")
    bind(joint, model, strict=strict)
    bound = [bind(delta, model, strict=False) for delta in deltas]
    return Problem(model, deltas, bound, names, changed(deltas, names), isotropic, parts, linearized, seed)
