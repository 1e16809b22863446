"""The main job as a function: adapt a pretrained model to texts, and say what that gained over not adapting it.

    train      method's terms at lr; the head in full at head_lr, from the baseline's regression (head "probe") or zeros
    scores     accuracy of both on the same test texts, which nothing else has seen; gain = paired difference

The batches are a pure function of the seed and the data, so every method of one seed sees the same ones. Texts without
labels are for language.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.adapt.recipe import Recipe
from dtheta.adapt.requirements import require_sites
from dtheta.adapt.tasks import CLASSIFICATION
from dtheta.adapt.text_problem import Frozen, Problem, labels
from dtheta.adapt.training import dropout_as, orthogonality, traced, trained, watch
from dtheta.core.delta import Delta
from dtheta.core.logistic import logistic_regression
from dtheta.data.batches import loader
from dtheta.data.text import Texts, TextTask, keyed_order
from dtheta.errors import ConfigError
from dtheta.fit.record import Record
from dtheta.fit.run import Callback
from dtheta.models.classifier import Classifier
from dtheta.score import Correct, Interval, paired_shares, wilson


@dataclass(frozen=True)
class Adapted:
    """What an adaptation made.

    Attributes:
        delta: Relative to the classifier with a zero head; its provenance holds recipe, task and scores.
        record: History of the training.
        score: Accuracy on the test texts, with its Wilson interval.
        gain: Accuracy above the frozen encoder, paired over the test texts.
        parameters: Weights that trained, the head's among them.
        orthogonality: (step, mean distance of the factors from orthonormal); empty where there are no factors.
    """

    delta: Delta
    record: Record
    score: Interval
    gain: Interval
    parameters: int
    orthogonality: tuple[tuple[int, float], ...] = ()


def adapt_classifier(
    posed: Problem,
    recipe: Recipe,
    frozen: Frozen,
    *,
    model_name: str = "",
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Adapted:
    """Train a classifier's delta by a recipe and score it on the test texts.

    Args:
        posed: The model and its task; the model is as it was when this returns.
        recipe: How to train.
        frozen: What to compare with.
        model_name: How the delta shall call its base.
        checkpoint: Folder for checkpoints, as in ``fit``.
        resume: Go on from the checkpoint there.
        callbacks: Called after every step, as in ``fit``.
        quiet: No progress bar.

    Raises:
        ConfigError, NonFinite, UnsupportedLayer, OutputError, FormatError: As ``attach`` and ``fit``.
    """
    require_classifier(posed.net, posed.task, recipe)
    adapter = attach(posed.net, recipe.method, selection(posed.net, recipe), also="head.*", seed=recipe.seed)
    try:
        parameters = sum(p.numel() for p in adapter.trainable().values())
        distances = orthogonality(adapter)
        chosen, held_out = _split(posed.task, recipe)
        if recipe.head == "probe":
            _start_head(adapter, posed, frozen, chosen, recipe.head_C)
        with dropout_as(posed.net, recipe.dropout):
            record = trained(
                adapter,
                recipe,
                _loader(_part(posed.task.train, chosen), posed, recipe, shuffle=True),
                eval=_loader(_part(posed.task.train, held_out), posed, recipe, shuffle=False) if held_out else None,
                full_lr=recipe.full_rate,
                checkpoint=checkpoint,
                resume=resume,
                callbacks=[watch(distances, recipe.steps), *callbacks],
                quiet=quiet,
            )
        correct = Correct()(predicted_logits(posed.net, posed.test), labels(posed.test))
        delta = adapter.delta()
    finally:
        adapter.detach()
    accuracy = wilson(float(correct.sum()), len(correct))
    gain = paired_shares(correct, frozen.correct)
    task = _described(posed, model_name, frozen, accuracy, gain)
    delta = traced(delta, recipe, task)
    return Adapted(delta, record, accuracy, gain, parameters, tuple(distances))


def require_classifier(net: Classifier, task: TextTask, recipe: Recipe) -> None:
    """Raise what training a classifier by a recipe would raise, as far as shapes tell; weights are not looked at.

    Raises:
        ConfigError: If the selection takes nothing, the rank does not fit, or too many texts are held out.
        UnknownParameter: If the selection names a parameter that the model does not have.
    """
    require_sites(net, recipe.method, selection(net, recipe))
    _split(task, recipe)


def selection(net: Classifier, recipe: Recipe) -> str | None:
    """Return where the method trains: as asked; by default without BERT's own pooler, which our pooling goes past."""
    default = recipe.method.default_select
    if recipe.select is not None or default is None or getattr(net.encoder, "pooler", None) is None:
        return recipe.select
    return f"{default}|!encoder.pooler.*"


def _split(task: TextTask, recipe: Recipe) -> tuple[list[int], list[int]]:
    """Return the training texts to train on and those to validate on, drawn by the seed."""
    count, most = len(task.train), len(task.train) - len(task.classes)
    if recipe.validate == 0:
        return list(range(count)), []
    if not 0 < recipe.validate <= most:
        raise ConfigError(f"validate={recipe.validate} must lie between 0 and {most}: there are {count} training texts")
    order = keyed_order(count, recipe.seed, "validate")
    return sorted(order[recipe.validate :]), sorted(order[: recipe.validate])


def _part(texts: Texts, chosen: Sequence[int]) -> Texts:
    return Texts(tuple(texts.texts[i] for i in chosen), tuple(texts.labels[i] for i in chosen))


def _start_head(adapter: Adapter, posed: Problem, frozen: Frozen, chosen: Sequence[int], C: float) -> None:
    """Let the head start at the regression on the features of the texts that are trained on.

    A prompt changes the features as soon as it is there, so with one they are taken anew.
    """
    features = pooled_features(posed.net, posed.train) if adapter.grafts else frozen.features
    found = logistic_regression(features[chosen], labels(posed.train)[chosen], len(posed.task.classes), C)
    with torch.no_grad():
        for name, value in (("head.weight", found.weight), ("head.bias", found.bias)):
            (start,) = adapter.term(name).parameters()
            start.copy_(value.reshape(start.shape))


def _loader(texts: Texts, posed: Problem, recipe: Recipe, shuffle: bool) -> Any:
    return loader(texts, posed.tokenizer, recipe.batch_size, recipe.max_length, recipe.seed, shuffle)


def _described(posed: Problem, model_name: str, frozen: Frozen, accuracy: Interval, gain: Interval) -> dict[str, Any]:
    """Return what the delta is for, and what it reached."""
    return {
        "kind": CLASSIFICATION,
        "model": model_name,
        "data": posed.task.name,
        "classes": list(posed.task.classes),
        "pooling": posed.net.pooling,
        "max_length": posed.max_length,
        "train": len(posed.train),
        "test": len(posed.test),
        "accuracy": dataclasses.asdict(accuracy),
        "baseline": dataclasses.asdict(frozen.accuracy),
        "gain": dataclasses.asdict(gain),
        "majority": posed.task.majority,
    }
