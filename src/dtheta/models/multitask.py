"""Several tasks on one encoder: each has its own pooling and head, and whatever moves the encoder moves all of them.

    logits^(t)_BC = head_t(pool_t(encoder(batch)))

What a composed delta is judged by: it moves ``encoder.*``, named as in a classifier, and none of ``heads.0.*``,
``heads.1.*`` and so on.

Shape legend: B texts, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dtheta.errors import ConfigError
from dtheta.models.classifier import Classifier, Prediction


class MultiTask(nn.Module):
    """Classifiers that share one encoder; the modules are used, not copied."""

    def __init__(self, classifiers: Sequence[Classifier]) -> None:
        """Join classifiers.

        Raises:
            ConfigError: If there is none, or they do not hold the very same encoder.
        """
        super().__init__()
        if not classifiers or any(net.encoder is not classifiers[0].encoder for net in classifiers):
            raise ConfigError("expected one or more classifiers that are built on one encoder object")
        self.encoder = classifiers[0].encoder
        self.heads = nn.ModuleList(net.head for net in classifiers)
        self.classifiers = tuple(classifiers)  # no submodules: that would give every parameter a second name

    def forward(self, task: int, **batch: Any) -> Prediction:
        """Return what the classifier of one task returns."""
        return self.classifiers[task](**batch)
