"""Classical classifiers of rows of numbers: linear, or with one hidden layer.

    logits_BC = x_BF W_CF^T + b                       width None
    logits_BC = tanh(x_BF V_HF^T + a) W_CH^T + b      width H

What a quantum classifier is to be compared with, at equal parameters: (F + 1) H + (H + 1) C of them.

Shape legend: B rows, F features, H hidden units, C classes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator, uniform
from dtheta.models.classifier import Prediction


class Perceptron(nn.Module):
    """A classifier of rows; parameters ``hidden.*``, where there are hidden units, and ``head.*``."""

    def __init__(self, features: int, classes: int, *, width: int | None = 16, seed: int = 0) -> None:
        """Draw weights and biases uniform within 1/sqrt(inputs), by key.

        Args:
            features: F.
            classes: C, 2 or more.
            width: H; None for a linear classifier.
            seed: Of the draws.

        Raises:
            ConfigError: For a number that cannot be meant.
        """
        super().__init__()
        inputs = whole(features, "features", least=1)
        self.hidden = None if width is None else _drawn(inputs, whole(width, "width", least=1), seed, "hidden")
        inputs = inputs if self.hidden is None else self.hidden.out_features
        self.head = _drawn(inputs, whole(classes, "classes", least=2), seed, "head")

    def forward(self, x: Float[Tensor, "B F"], labels: Int[Tensor, " B"] | None = None) -> Prediction:
        """Return the logits, and the mean cross-entropy where ``labels`` are given."""
        logits = self.head(x if self.hidden is None else torch.tanh(self.hidden(x)))
        return Prediction(None if labels is None else nn.functional.cross_entropy(logits, labels), logits)


def _drawn(inputs: int, outputs: int, seed: int, name: str) -> nn.Linear:
    layer, draws = nn.Linear(inputs, outputs), generator(seed, f"perceptron/{name}")
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((2 * uniform(parameter.shape, 0.0, 1.0, draws) - 1) / math.sqrt(inputs))
    return layer
