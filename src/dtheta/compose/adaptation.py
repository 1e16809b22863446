"""Adaptation: learn the coefficients of a composition on examples without labels, before they are predicted.

    entropy   mean over the examples that count of H(p(x)),    all, or those with H < margin * ln C
    ufm       pseudo-labels of the surest examples, and consistency of the rest between two views (ufm.py)

Test-time adaptation in aTLAS (Zhang et al. 2024, arXiv 2407.02880), offline: all examples are there, for several
epochs. Of its three objectives UFM is the best; entropy is that of AdaMerging and, with a margin (0.4 there), the
filter of SAR, whose second step towards flat minima is left out. SimCLR needs augmentations of a projection head that
a delta does not carry.

Nothing can be measured without labels, so the coefficients are those of the last epoch, unless a metric is given.

Shape legend: n deltas, m blocks, K parts; B examples of a batch, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.compose.atlas import problem_of
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.objectives import Task
from dtheta.compose.pool import Pool, Predict, View, logits_of, pool_of
from dtheta.compose.recipe import Recipe, recipe_of
from dtheta.compose.rules import Metric, best_or_last
from dtheta.compose.ufm import Mixed, Mixture, ufm_loss
from dtheta.core.arguments import is_number, positive
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError

_EXPONENT = 0.5  # of the paper


def adapt_coefficients(
    model: nn.Module,
    deltas: Delta | Sequence[Delta],
    examples: Any,
    predict: Predict,
    *,
    objective: Literal["ufm", "entropy"] = "ufm",
    batch_size: int = 128,
    collate: Callable[[list[Any]], Any] | None = None,
    weak: View | None = None,
    strong: View | None = None,
    exponent: float = _EXPONENT,
    margin: float | None = None,
    metric: Metric | None = None,
    better: Literal["higher", "lower"] = "higher",
    recipe: str | Recipe = "adaptation",
    isotropic: bool = False,
    parts: int = 1,
    linearized: bool = False,
    seed: int = 0,
    strict: bool = True,
    **changes: Any,
) -> Coefficients:
    """Learn coefficients from unlabeled examples; the model is as before afterwards, to the bit.

    Args:
        model: The base of the deltas: any module. It runs in eval mode.
        deltas: n deltas of any kind, or one.
        examples: A tensor or mapping of tensors with N rows, or a sequence of N items.
        predict: (model, batch) -> logits (B, C), to be called with the model it is given.
        objective: "ufm" or "entropy".
        batch_size: Examples a batch; of UFM's a quarter are trusted ones.
        collate: From a list of items to a batch, for a sequence.
        weak: UFM's view of a batch for pseudo-labels; the batch itself by default.
        strong: UFM's view of a batch that is to agree with them; the batch itself by default.
        exponent: Of UFM's pseudo-labels: 0.5 flattens them, as the paper says; 2 sharpens them.
        margin: For "entropy": examples count whose entropy is below ``margin * ln C``; None for all.
        metric: model -> number, where labels exist after all; keeps the best epoch, the base included.
        better: Which direction of the metric is better.
        recipe: "adaptation" (10 epochs at 1e-3), or a ``Recipe``.
        isotropic: One number a delta for all blocks.
        parts: K coefficients a delta and block, as in ``learn_coefficients``.
        linearized: Learn for the model's expansion around its base.
        seed: Key of the order of data and the partition.
        strict: Whether the touched tensors must be, bit for bit, those the deltas were made on.
        changes: Fields of the recipe to change.

    Raises:
        ConfigError: An argument that cannot be meant, or that does nothing with this objective; or no examples.
        ShapeMismatch: ``predict`` returns something else than logits.
        DthetaError: Otherwise as ``learn_coefficients``.
    """
    made, rule = recipe_of(recipe, changes), best_or_last(metric, better)
    _require_used(objective, weak, strong, exponent, margin)
    pool = pool_of(examples, collate, batch_size)
    problem = problem_of(model, deltas, isotropic, parts, linearized, seed, strict)
    if objective == "ufm":
        task = _ufm(pool, predict, batch_size, weak or _same, strong or _same, exponent, made, seed)
    else:
        task = _entropy(pool, predict, batch_size, margin, seed)
    return problem.solve([task], rule, made)


def _require_used(
    objective: str, weak: View | None, strong: View | None, exponent: float, margin: float | None
) -> None:
    """Raise for an unknown objective, and for arguments of the other one: they would do nothing."""
    if objective not in ("ufm", "entropy"):
        raise ConfigError(f"unknown objective {objective!r}; expected ufm or entropy")
    given = {"weak": weak is not None, "strong": strong is not None, "exponent": exponent != _EXPONENT}
    idle = [name for name, there in given.items() if there] if objective == "entropy" else []
    idle += ["margin"] if objective == "ufm" and margin is not None else []
    if idle:
        other = "ufm" if objective == "entropy" else "entropy"
        raise ConfigError(f"{idle[0]} does nothing with objective={objective!r}; leave it out, or take {other!r}")


def _same(batch: Any) -> Any:
    return batch


def _ufm(
    pool: Pool, predict: Predict, size: int, weak: View, strong: View, exponent: float, made: Recipe, seed: int
) -> Task:
    positive(exponent, "exponent")
    if made.accumulation != 1 or made.shortest != 1:
        raise ConfigError("UFM has one batch a step and epochs as long as its pool: accumulation and shortest are 1")
    mixture = Mixture(pool, predict, size, seed, made.epochs)

    def loss(model: Any, mixed: Mixed) -> Tensor:
        return ufm_loss(predict, model, pool, mixed, weak, strong, exponent)

    return Task("ufm", mixture, loss, begin=lambda model: setattr(mixture, "model", model))


def _entropy(pool: Pool, predict: Predict, size: int, margin: float | None, seed: int) -> Task:
    if margin is not None and not (is_number(margin) and 0 < margin <= 1):
        raise ConfigError(f"margin is {margin!r}; expected a share of the largest entropy, above 0 and at most 1")

    def loss(model: Any, index: Tensor) -> Tensor:
        return entropy(logits_of(predict, model, pool[index]), margin)

    return Task("entropy", Shuffled(pool, size, seed), loss)


def entropy(logits_BC: Tensor, margin: float | None = None) -> Tensor:
    """Return the mean entropy, in nats, over the rows below ``margin * ln C``; 0 where there is none."""
    log_BC = logits_BC.log_softmax(1)
    entropy_B = -(log_BC.exp() * log_BC).sum(1)
    if margin is None:
        return entropy_B.mean()
    counts_B = (entropy_B.detach() < margin * math.log(logits_BC.shape[1])).to(entropy_B)
    return (entropy_B * counts_B).sum() / counts_B.sum().clamp(min=1.0)


class Shuffled:
    """The numbers of a pool's examples in batches, in another order each time."""

    def __init__(self, pool: Pool, size: int, seed: int) -> None:
        self.pool, self.size, self.seed, self.epoch = pool, size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.pool) // self.size)

    def __iter__(self) -> Any:
        order = self.pool.order(self.seed, self.epoch)
        self.epoch += 1
        return iter(torch.split(order, self.size))
