"""Experts of several tasks on one encoder: coefficients for what they do to it are learned, each keeps its own head.

    min over c of  sum_t CE_t( head_t( encoder(theta0 + sum_i c_i^(j) tau_i^(j)) ) ),      tau_i = encoder part of i

An expert is a classifier's delta. Its head belongs to its task and to none of the others, so what is composed is
``encoder.*`` alone; a head is taken from its own delta wherever its task is looked at (aTLAS, arXiv 2407.02880, where
the heads are the frozen text side of CLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dtheta.cli.judge import max_length
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from dtheta.compose.coefficients import Coefficients
    from dtheta.core.delta import Delta
    from dtheta.data.text import Texts
    from dtheta.models.classifier import Classifier


@dataclass(frozen=True)
class Expert:
    """A classifier's delta with texts of its task.

    Attributes:
        name: For messages and tables; different for every expert.
        net: The classifier on the shared, unmoved encoder, with the delta's own head.
        delta: The whole delta.
        learn: Texts whose loss counts.
        validate: Texts by whose accuracy the epoch is chosen; may be none.
        test: Texts that neither the delta nor the coefficients were made from.
    """

    name: str
    net: Classifier
    delta: Delta
    learn: Texts
    validate: Texts
    test: Texts


@dataclass(frozen=True)
class Descent:
    """How coefficients are learned; see ``compose/recipe.py``."""

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 16
    isotropic: bool = False
    seed: int = 0


def own_head(delta: Delta, model: nn.Module) -> Classifier:
    """Return the classifier that a delta describes, with its head and without what it does to the encoder.

    Raises:
        ConfigError: If the delta has no head.
        BaseMismatch, ShapeMismatch: If the head does not fit the model.
    """
    from dtheta.adapt.tasks import task_model
    from dtheta.core.apply import bind
    from dtheta.models.classifier import Classifier

    net = task_model(delta, model)
    if not isinstance(net, Classifier) or "head.weight" not in delta:
        raise ConfigError("the delta brings no classifier's head, so it has no task of its own to learn for")
    import torch

    with torch.no_grad():
        for name, change in bind(delta.restrict("head.*"), net).changes.items():
            net.get_parameter(name).add_(change.dense())
    return net


def learned(experts: Sequence[Expert], parts: Sequence[Delta], tokenizer: Any, how: Descent) -> Coefficients:
    """Learn coefficients of several parts for the sum of the experts' losses; every expert counts alike.

    Args:
        experts: On one encoder.
        parts: What is composed, under names of the classifier: ``encoder.*``.
        tokenizer: Of the encoder.
        how: Epochs, rate, texts a step.

    Raises:
        ConfigError, BaseMismatch, NonFinite: As ``learn_coefficients``.
    """
    from dtheta.compose.atlas import learn_coefficients
    from dtheta.data.batches import loader
    from dtheta.models.multitask import MultiTask

    sources = {
        e.name: loader(e.learn, tokenizer, how.batch_size, max_length(e.delta.provenance.task), how.seed)
        for e in experts
    }
    losses = {e.name: _loss_of(t) for t, e in enumerate(experts)}
    return learn_coefficients(
        MultiTask([e.net for e in experts]), parts, sources, losses,
        metric=_mean_accuracy(experts, tokenizer) if all(len(e.validate) for e in experts) else None,
        recipe="few-shot", epochs=how.epochs, lr=how.lr, shortest=1, isotropic=how.isotropic, seed=how.seed,
    )  # fmt: skip


def _loss_of(task: int) -> Any:
    return lambda net, batch: net(task, **batch).loss


def _mean_accuracy(experts: Sequence[Expert], tokenizer: Any) -> Any:
    """Return the mean over the tasks of the accuracy on their validation texts, of whatever the encoder shows."""
    from dtheta.cli.judge import encoded, right

    texts = [encoded(e.validate, tokenizer, e.delta.provenance.task) for e in experts]

    def score(net: Any) -> float:
        found = [float(right(net.classifiers[t], t_texts).mean()) for t, t_texts in enumerate(texts)]
        return sum(found) / len(found)

    return score


@dataclass(frozen=True)
class Judged:
    """What test texts say of one expert's task: 1 where a text is classified right, each (N,)."""

    name: str
    base: Any
    own: Any
    composed: Any


def judged(expert: Expert, composed: Delta, tokenizer: Any) -> Judged:
    """Judge a task by its own head on the unmoved encoder, on that of its own delta, and on the composed one."""
    from dtheta.cli.judge import encoded, right

    texts = encoded(expert.test, tokenizer, expert.delta.provenance.task)
    own = expert.delta.restrict("encoder.*")
    return Judged(
        expert.name, right(expert.net, texts), right(expert.net, texts, own), right(expert.net, texts, composed)
    )
