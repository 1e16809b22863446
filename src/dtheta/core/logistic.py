"""Logistic regression: the convex problem of a linear head under cross-entropy, solved to a vanishing gradient.

    minimize over W, b    sum_i -log softmax(W h_i + b)[y_i] + (1 / 2 C) ||W||^2        b is free

Two classes have one weight vector between them, w = W_1 - W_0, whose square is what counts; so the solution is that of
scikit-learn's LogisticRegression(C). Solved by L-BFGS in float64.

Shape legend: N examples, E features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dtheta.errors import ConfigError, NonFinite, NotConverged

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
    features_NE: Float[Tensor, "N E"],
    labels_N: Int[Tensor, " N"],
    classes: int,
    C: float = 1.0,
    start: LogisticRegression | None = None,
) -> LogisticRegression:
    """Fit a logistic regression with an L2 penalty, as scikit-learn does.

    Args:
        features_NE: One row an example.
        labels_N: Class ids in ``range(classes)``.
        classes: How many there are, at least two.
        C: Inverse strength of the penalty.
        start: Where to begin, such as the solution for another C; zeros if None. The solution does not depend on it.

    Raises:
        ConfigError: For fewer than two classes, a C that is not positive, or no example.
        NonFinite: If a feature is NaN or infinite.
        NotConverged: If the gradient does not vanish.
    """
    if classes < 2 or not C > 0:
        raise ConfigError(f"expected at least two classes and a positive C, found {classes} and {C}")
    if not len(features_NE):
        raise ConfigError("there is no example to fit a logistic regression to")
    if not bool(torch.isfinite(features_NE).all()):
        raise NonFinite("the features hold NaN or infinity; the model or the data that they come from is damaged")
    x_NE, count = features_NE.detach().double(), len(features_NE)
    center_E = x_NE.mean(0)  # the bias is free, so shifting the features changes nothing but the conditioning
    x_NE = x_NE - center_E
    weight, bias = _start(start, classes, center_E)
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


def _start(start: LogisticRegression | None, classes: int, center_E: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight and bias for centered features, as leaves that take a gradient."""
    if start is None:
        weight, bias = center_E.new_zeros(classes, center_E.numel()), center_E.new_zeros(classes)
    else:
        weight, bias = start.weight.clone(), start.bias + start.weight @ center_E
    return weight.requires_grad_(), bias.requires_grad_()
