"""A text classification task, encoded once for one model, and what the frozen encoder reaches on it.

    base       classifier = pretrained encoder, pooling, a head of zeros
    baseline   logistic regression on the frozen encoder's pooled features (frozen.py), on the training texts

Training on it is for classify.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.frozen import pooled_features
from dtheta.core.logistic import logistic_regression
from dtheta.data.batches import EncodedTexts
from dtheta.data.text import TextTask
from dtheta.models.classifier import Classifier, Pooling, classifier
from dtheta.score import Correct, Interval, wilson


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
    found = logistic_regression(train, labels(posed.train), len(posed.task.classes), C)
    correct = Correct()(found.logits(test), labels(posed.test))
    return Frozen(wilson(float(correct.sum()), len(correct)), correct, train, time.perf_counter() - start)


def labels(encoded: EncodedTexts) -> Tensor:
    """Return the class ids of texts (N,)."""
    return torch.tensor(encoded.labels)
