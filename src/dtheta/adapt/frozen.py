"""The frozen-encoder baseline: logistic regression on the pooled features of a model that nobody trains.

    minimize over W, b    sum_i -log softmax(W h_i + b)[y_i] + (1 / 2 C) ||W||^2        b is free

h_i is the vector that a classifier pools from text i. Two classes have one weight vector between them, w = W_1 - W_0,
whose square is what counts; so the solution is that of scikit-learn's LogisticRegression(C). Whatever an adaptation is
worth, it must be worth it above this, which costs one pass over the texts and no gradient through the model.

Solved by L-BFGS in float64. Shape legend: N texts, E hidden features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.data.batches import EncodedTexts
from dtheta.errors import ConfigError, NonFinite, NotConverged
from dtheta.models.classifier import Classifier

_ITERATIONS = 2000
_GRADIENT = 1e-6  # largest entry of the gradient of the mean loss, at which the solution is called exact


@dataclass(frozen=True)
class LogisticRegression:
    """A linear classifier of features: weight (C, E) and bias (C,), float64."""

    weight: Tensor
    bias: Tensor

    def logits(self, features_NE: Tensor) -> Float[Tensor, "N C"]:
        """Return the logits of features, float64."""
        return features_NE.double() @ self.weight.T + self.bias


def logistic_regression(
    features_NE: Float[Tensor, "N E"], labels_N: Int[Tensor, " N"], classes: int, C: float = 1.0
) -> LogisticRegression:
    """Fit a logistic regression with an L2 penalty, as scikit-learn does.

    Args:
        features_NE: One row a text.
        labels_N: Class ids in ``range(classes)``.
        classes: How many there are, at least two.
        C: Inverse strength of the penalty.

    Raises:
        ConfigError: For fewer than two classes, or a C that is not positive.
        NonFinite: If a feature is NaN or infinite.
        NotConverged: If the gradient does not vanish.
    """
    if classes < 2 or not C > 0:
        raise ConfigError(f"expected at least two classes and a positive C, found {classes} and {C}")
    if not bool(torch.isfinite(features_NE).all()):
        raise NonFinite("the features of the frozen model hold NaN or infinity; its weights or a text are damaged")
    x_NE, count = features_NE.detach().double(), len(features_NE)
    center_E = x_NE.mean(0)  # the bias is free, so shifting the features changes nothing but the conditioning
    x_NE = x_NE - center_E
    weight = torch.zeros(classes, x_NE.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    penalty = (1.0 if classes > 2 else 2.0) / (2 * C * count)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_ITERATIONS,
        tolerance_grad=_GRADIENT / 10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x_NE @ weight.T + bias, labels_N) + penalty * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[arg-type]  # torch types the closure as returning a float
        closure()
    rest = max(float(p.grad.abs().max()) for p in (weight, bias) if p.grad is not None)
    if not rest <= _GRADIENT:
        raise NotConverged(f"logistic regression: the largest gradient is {rest:.1e}, expected {_GRADIENT:.0e}")
    weight, bias = weight.detach(), bias.detach()
    return LogisticRegression(weight, bias - weight @ center_E)


def by_length(encoded: EncodedTexts, batch_size: int) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
    """Yield (indices, batch) with texts of like length together: little padding, and the same result."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded.ids[i]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield indices, encoded.collate([encoded[i] for i in indices])


@torch.no_grad()
def pooled_features(net: Classifier, encoded: EncodedTexts, batch_size: int = 64) -> Float[Tensor, "N E"]:
    """Return what the classifier pools from each text, the input of its head, float32 on the CPU."""
    seen: list[Tensor] = []
    hook = net.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    features_NE = torch.empty(len(encoded), net.head.in_features)
    try:
        for indices, _ in _outputs(net, encoded, batch_size):
            features_NE[indices] = seen.pop()
    finally:
        hook.remove()
    return features_NE


@torch.no_grad()
def predicted_logits(net: nn.Module, encoded: EncodedTexts, batch_size: int = 64) -> Float[Tensor, "N C"]:
    """Return a classifier's logits of each text, float32 on the CPU."""
    found: list[tuple[Sequence[int], Tensor]] = list(_outputs(net, encoded, batch_size))
    logits_NC = torch.empty(len(encoded), found[0][1].shape[1])
    for indices, logits in found:
        logits_NC[indices] = logits
    return logits_NC


def _outputs(net: nn.Module, encoded: EncodedTexts, batch_size: int) -> Iterator[tuple[Any, Tensor]]:
    """Yield (indices, logits) in evaluation mode; the model's mode is given back."""
    training, device = net.training, next(net.parameters()).device
    net.eval()
    try:
        for indices, batch in by_length(encoded, batch_size):
            logits = net(batch["input_ids"].to(device), batch["attention_mask"].to(device)).logits
            yield list(indices), logits.float().cpu()
    finally:
        net.train(training)
