"""The main job as a function: adapt a pretrained model to texts, and say what that gained over not adapting it.

    base       classifier = pretrained encoder, pooling, a head of zeros
    baseline   logistic regression on the frozen encoder's pooled features (frozen.py), same training texts
    train      method's terms at lr; the head in full at head_lr, from that regression (head "probe") or from zeros
    scores     accuracy of both on the same test texts, which nothing else has seen; gain = paired difference

The batches are a pure function of the seed and the data, so every method of one seed sees the same ones. Texts without
labels are for language.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dtheta.adapt.adapter import Adapter
from dtheta.adapt.attach import attach
from dtheta.adapt.frozen import pooled_features, predicted_logits
from dtheta.adapt.full import Full
from dtheta.adapt.method import Method, check_rank
from dtheta.adapt.training import Training, dropout_as, orthogonality, traced, trained, watch
from dtheta.core.delta import Delta
from dtheta.core.logistic import logistic_regression
from dtheta.core.selection import Site
from dtheta.core.selection import select as select_sites
from dtheta.data.batches import EncodedTexts, loader
from dtheta.data.text import Texts, TextTask, keyed_order
from dtheta.errors import ConfigError
from dtheta.fit.record import Record
from dtheta.fit.run import Callback
from dtheta.models.classifier import Classifier, Pooling, classifier
from dtheta.score import Correct, Interval, paired_shares, wilson

#: Rates that did best on held-out training texts of the packaged tasks (never on test texts), at rank 16 and 60 steps.
#: Of networks on sentiment and 20news, of 0.001 to 0.1, with 256 texts (bench/adapters.py).
#: Of prompts on bbc and sentiment, of 0.003 to 0.1, with 160 texts for training and 80 held out (bench/prompts.py).
RATES: Mapping[str, float] = {
    "LoRA": 2e-3,
    "PiSSA": 5e-4,
    "SORSA": 2e-4,
    "PromptTuning": 3e-3,
    "DePT": 3e-2,
    "SNNK": 1e-2,
    "Houlsby": 3e-3,
}

CLASSIFICATION, LANGUAGE = "text-classification", "language-modeling"


@dataclass(frozen=True)
class Recipe(Training):
    """How a model is adapted; every field is in the provenance of the delta.

    Attributes:
        method: What trains.
        select: Where; the method's default selection if None.
        steps: Optimizer steps.
        batch_size: Texts a step.
        lr: Highest rate of the method's terms; the one in ``RATES``, or 1e-3, if None.
        head: Where the head starts: "probe", the regression on frozen features, so that training begins where the
            baseline ends (Kumar et al. 2022, arXiv 2202.10054), or "zero".
        head_C: Inverse penalty of that regression. Stronger than the baseline's own: a head that already fits the
            training texts leaves the encoder little gradient to learn from.
        head_lr: Highest rate of the classifier's head.
        warmup: Rising share of the schedule, which falls as a cosine to zero.
        weight_decay: AdamW's.
        dropout: Whether the model's own dropout acts while training; over few steps it slows and blurs the training.
        max_length: Tokens kept of a text.
        validate: Training texts to hold out; the best of ten evaluations on them is kept. 0 keeps the last step.
        seed: Key of the order of the texts, dropout and random starts.
    """

    rates: ClassVar[Mapping[str, float]] = RATES
    method: Method
    select: str | None = None
    steps: int = 60
    batch_size: int = 16
    lr: float | None = None
    head: Literal["probe", "zero"] = "probe"
    head_C: float = 0.1
    head_lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    dropout: bool = False
    max_length: int = 64
    validate: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError for a number that cannot be meant, before anything is computed from it."""
        if self.max_length < 1:
            raise ConfigError(f"max_length={self.max_length} must be a whole number of at least 1")
        self.check("head_lr", "head_C")

    @property
    def full_rate(self) -> float:
        """The highest rate of what trains in full; with a method that does, the head cannot have one of its own."""
        return self.rate if isinstance(self.method, Full) else self.head_lr


@dataclass(frozen=True)
class Problem:
    """A classification task, encoded once for one model."""

    net: Classifier
    tokenizer: Any
    task: TextTask
    max_length: int
    train: EncodedTexts
    test: EncodedTexts


def problem(
    model: nn.Module, tokenizer: Any, task: TextTask, max_length: int = 64, pooling: Pooling | None = None
) -> Problem:
    """Put a zero head on a model and encode a task's texts for it.

    Raises:
        ConfigError: If the model cannot take ``max_length`` tokens, or has no hidden size.
    """
    net = classifier(model, task.classes, pooling)
    train, test = (EncodedTexts(texts, tokenizer, max_length) for texts in (task.train, task.test))
    return Problem(net, tokenizer, task, max_length, train, test)


@dataclass(frozen=True)
class Frozen:
    """What the frozen encoder reaches.

    Attributes:
        accuracy: On the test texts, with its Wilson interval.
        correct: 1 where a test text was classified right (N,).
        features: What the encoder pools from the training texts (N_train, E).
        seconds: Wall time.
    """

    accuracy: Interval
    correct: Tensor
    features: Tensor
    seconds: float


def frozen_baseline(posed: Problem, C: float = 1.0) -> Frozen:
    """Return the accuracy of logistic regression on the frozen encoder's features; see frozen.py.

    Raises:
        NonFinite: If a feature is NaN or infinite.
        NotConverged: If the regression does not converge.
    """
    start = time.perf_counter()
    train, test = pooled_features(posed.net, posed.train), pooled_features(posed.net, posed.test)
    found = logistic_regression(train, _labels(posed.train), len(posed.task.classes), C)
    correct = Correct()(found.logits(test), _labels(posed.test))
    return Frozen(wilson(float(correct.sum()), len(correct)), correct, train, time.perf_counter() - start)


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
        correct = Correct()(predicted_logits(posed.net, posed.test), _labels(posed.test))
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
    require_sites(net, recipe, selection(net, recipe))
    _split(task, recipe)


def require_sites(model: nn.Module, recipe: Recipe, select: str | None) -> None:
    """Raise unless a selection takes parameters, and the method's rank fits them; of a prompt, unless it can enter.

    Raises:
        ConfigError, UnknownParameter, UnsupportedLayer, ShapeMismatch: As ``attach``.
    """
    method = recipe.method
    method.require_selectable(select)
    if method.new_vectors:
        method.require(model, select)
        return
    pattern = select if select is not None else method.default_select
    require_rank(method, select_sites(model, pattern, matrices=method.matrices))


def require_rank(method: Method, sites: Iterable[Site]) -> None:
    """Raise ConfigError unless the rank of a method, if it has one, fits the matrices at all sites."""
    rank = getattr(method, "rank", None)
    for site in sites if isinstance(rank, int) else ():
        check_rank(site, rank)  # type: ignore[arg-type]


def task_model(delta: Delta, model: nn.Module) -> nn.Module:
    """Return the network that a delta is relative to: the classifier its task describes, or the model itself.

    Raises:
        ConfigError: If the task in the delta's provenance cannot be meant.
    """
    task = delta.provenance.task
    if task.get("kind") != CLASSIFICATION:
        return model
    classes = task.get("classes")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError("the delta says that it is of a classifier, but not of which classes; it was edited")
    return classifier(model, classes, task.get("pooling"))


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
    found = logistic_regression(features[chosen], _labels(posed.train)[chosen], len(posed.task.classes), C)
    with torch.no_grad():
        for name, value in (("head.weight", found.weight), ("head.bias", found.bias)):
            (start,) = adapter.term(name).parameters()
            start.copy_(value.reshape(start.shape))


def _loader(texts: Texts, posed: Problem, recipe: Recipe, shuffle: bool) -> Any:
    return loader(texts, posed.tokenizer, recipe.batch_size, recipe.max_length, recipe.seed, shuffle)


def _labels(encoded: EncodedTexts) -> Tensor:
    return torch.tensor(encoded.labels)


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
