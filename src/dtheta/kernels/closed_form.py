"""Heads solved instead of trained: the optimum of a linear map on features, under two losses.

    mse       minimize over U, c    sum_i |y_i - U p_i - c|^2 + lambda |U|^2                      closed form
    logistic  minimize over U, c    sum_i -log softmax(U p_i + c)[y_i] + (lambda / 2) |U|^2       convex: L-BFGS

With p = Phi(x) this is the fully bundled network, y = U Phi(x) + c. For the first, the Gram matrix of the features is
factored (W < N), or that of the examples (W >= N), which gives the same map:

    U^T = P^T (P P^T + lambda I)^-1 Y,    r_i / (1 - h_i) the leave-one-out error,   r = lambda (P P^T + lambda I)^-1 Y

lambda is chosen by the exact leave-one-out error there, and by cross-validation under the logistic loss. Two classes
have one vector between them under it, u = U_1 - U_0, and the penalty is (lambda / 2) |u|^2, as in scikit-learn.

Shape legend: N examples, W features, D outputs or classes, L values of lambda.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.core.logistic import LogisticRegression, logistic_regression
from dtheta.data.text import keyed_order
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, did_you_mean
from dtheta.kernels.feed_forward import Affine, linear
from dtheta.kernels.ridge import Ridge, checked_ridge
from dtheta.kernels.ridge_path import RidgeFit, lambda_grid, least, squared_ratio

Loss = Literal["mse", "logistic"]
_FOLDS = 5
_DECADES = (-6, 1)  # of the lambdas that the logistic loss tries


@dataclass(frozen=True, eq=False)
class Head:
    """A solved linear map of features.

    Attributes:
        weight: U (D, W), float64.
        bias: c (D,), float64.
        ridge: lambda.
        loss: The loss on the examples, a mean over them, without the penalty: squared error (a sum over outputs), or
            cross-entropy in nats.
        estimate: The same for unseen examples, as far as ``ridge`` was chosen by it: by leave-one-out for "mse", by
            cross-validation for "logistic"; None where ``ridge`` was given.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    loss: float
    estimate: float | None

    def __call__(self, features: Float[Tensor, "... W"]) -> Float[Tensor, "... D"]:
        """Return the outputs, or logits, float64."""
        return F.linear(features.double(), self.weight, self.bias)

    def linear(self, dtype: torch.dtype = torch.float32) -> nn.Linear:
        """Return the map as a layer, which can train further."""
        return linear(Affine(self.weight.to(dtype), self.bias.to(dtype)))


@torch.no_grad()
def solve_head(features: Float[Tensor, "N W"], targets: Tensor, loss: Loss = "mse", ridge: float | None = None) -> Head:
    """Return the optimal linear map from features to targets.

    Args:
        features: One row an example.
        targets: Class ids (N,), or, for "mse", numbers (N, D). Class ids become one-hot rows under "mse".
        loss: "mse" or "logistic".
        ridge: lambda, see the module's docstring; None chooses it.

    Raises:
        ConfigError: For an unknown loss, targets that it does not take, fewer than two classes, or no examples.
        ShapeMismatch: If features and targets differ in number.
        NonFinite: If one is NaN or infinite.
        NotConverged: If the system is singular at ``ridge``, or L-BFGS ends with a gradient.
    """
    if loss not in get_args(Loss):
        raise ConfigError(f"no loss {loss!r}; known: {', '.join(get_args(Loss))}{did_you_mean(loss, get_args(Loss))}")
    if features.ndim != 2 or targets.ndim not in (1, 2) or len(features) != len(targets):
        raise ShapeMismatch(
            f"features {tuple(features.shape)} and targets {tuple(targets.shape)}; expected (N, W) and (N,) or (N, D)"
        )
    if len(features) == 0:
        raise ConfigError("no examples were given; a head needs some")
    if targets.ndim == 2 and loss == "logistic":
        raise ConfigError("the logistic loss takes class ids (N,); for numbers (N, D) use loss='mse'")
    if targets.ndim == 2:
        return _least_squares(features, targets, ridge)
    return _logistic(features, _ids(targets), ridge) if loss == "logistic" else _one_hot(features, _ids(targets), ridge)


def least_squares(
    features: Float[Tensor, "N W"], targets: Float[Tensor, "N D"], ridge: float | None = None
) -> tuple[RidgeFit, float | None]:
    """Return the ridge regression of targets on features in memory, by the smaller of the two Gram matrices.

    With ``ridge`` None, lambda is chosen by the exact leave-one-out error; its mean over the examples is returned too.

    Raises:
        ConfigError, NonFinite, NotConverged: As ``Ridge``.
    """
    if ridge is not None:
        checked_ridge(ridge)
    if features.shape[1] >= len(features) and (ridge is None or ridge > 0):
        return _dual(features, targets, ridge)
    sums = Ridge(features.shape[1], targets.shape[1], device=features.device).add(features, targets)
    if ridge is not None:
        return sums.solve(ridge), None
    path = sums.path()
    errors = path.leave_one_out(features, targets)
    chosen = path.best(errors)
    return path.fit(chosen), float(errors.min()) / sums.count


def _dual(features: Tensor, targets: Tensor, ridge: float | None) -> tuple[RidgeFit, float | None]:
    """Solve in the space of examples; both are centered, which is what a free constant does."""
    P_NW, Y_ND = features.detach().double(), targets.detach().double()
    mean_W, mean_D, count = P_NW.mean(0), Y_ND.mean(0), len(P_NW)
    P_NW, Y_ND = P_NW - mean_W, Y_ND - mean_D
    if not bool(P_NW.square().sum().isfinite()) or not bool(Y_ND.square().sum().isfinite()):
        raise NonFinite("a feature or a target is NaN or infinite, or its square is")
    values, V = torch.linalg.eigh(P_NW @ P_NW.mT)
    values, rotated_ND = values.clamp(min=0), V.mT @ Y_ND
    estimate = None
    if ridge is None:
        lambdas = lambda_grid(values)
        errors = torch.stack([_dual_leave_one_out(values, V, rotated_ND, value) for value in lambdas.tolist()])
        ridge, estimate = least(lambdas, errors), float(errors.min()) / count
    dual_ND = V @ (rotated_ND / (values + ridge)[:, None])
    weight_DW = (P_NW.mT @ dual_ND).mT.contiguous()
    missed = float((ridge * dual_ND).square().sum()) / max(float(Y_ND.square().sum()), torch.finfo(torch.float64).tiny)
    return RidgeFit(weight_DW, mean_D - weight_DW @ mean_W, ridge, missed), estimate


def _dual_leave_one_out(values: Tensor, V: Tensor, rotated_ND: Tensor, ridge: float) -> Tensor:
    shrunk_N = ridge / (values + ridge)
    residual_ND = V @ (shrunk_N[:, None] * rotated_ND)
    return squared_ratio(residual_ND, V.square() @ shrunk_N - 1 / len(V))  # the constant takes one degree of freedom


def _least_squares(features: Tensor, targets: Tensor, ridge: float | None) -> Head:
    fit, estimate = least_squares(features, targets, ridge)
    loss = float((targets.double() - fit(features)).square().sum(1).mean())
    return Head(fit.weight, fit.bias, fit.ridge, loss, estimate)


def _one_hot(features: Tensor, labels: Tensor, ridge: float | None) -> Head:
    return _least_squares(features, F.one_hot(labels).double(), ridge)


def _ids(targets: Tensor) -> Tensor:
    """Return class ids as int64.

    Raises:
        ConfigError: If they are no whole numbers from 0, or all the same.
    """
    if targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool:
        raise ConfigError(
            f"targets (N,) of {targets.dtype} are no class ids; expected whole numbers, or targets (N, D)"
        )
    if int(targets.min()) < 0 or int(targets.max()) < 1:
        raise ConfigError(
            f"class ids from {int(targets.min())} to {int(targets.max())}; expected ids from 0, of two classes or more"
        )
    return targets.long()


def _logistic(features: Tensor, labels: Tensor, ridge: float | None) -> Head:
    classes, estimate = int(labels.max()) + 1, None
    if ridge is None:
        ridge, estimate = _cross_validated(features, labels, classes)
    elif checked_ridge(ridge) == 0:
        raise ConfigError("ridge=0: classes that can be separated have no optimum then; give a positive ridge")
    found = logistic_regression(features, labels, classes, C=1 / ridge)
    loss = float(F.cross_entropy(found.logits(features), labels))
    return Head(found.weight, found.bias, ridge, loss, estimate)


def _cross_validated(features: Tensor, labels: Tensor, classes: int) -> tuple[float, float]:
    """Return the lambda of the least cross-entropy on left-out fifths, and that.

    From strong penalties to weak ones, each fold from its solution before; weak ones are slow to solve, so it ends once
    the loss has risen twice.
    """
    order = torch.tensor(keyed_order(len(labels), 0, "snnk/folds"), device=labels.device)
    order = order[labels[order].argsort(stable=True)]  # every fold has its share of every class
    places = torch.arange(len(labels), device=labels.device)
    folds = [torch.isin(places, order[i::_FOLDS]) for i in range(min(_FOLDS, len(labels)))]
    starts: list[LogisticRegression | None] = [None] * len(folds)
    tried: list[tuple[float, float]] = []
    for ridge in _penalties(features).tolist():
        loss = 0.0
        for i, out in enumerate(folds):
            found = logistic_regression(features[~out], labels[~out], classes, C=1 / ridge, start=starts[i])
            loss += float(F.cross_entropy(found.logits(features[out]), labels[out], reduction="sum"))
            starts[i] = found
        tried.append((ridge, loss / len(labels)))
        losses = [loss for _, loss in tried]
        if len(losses) > 2 and losses[-1] > losses[-2] > losses[-3]:
            break
    return min(tried, key=lambda pair: pair[1])


def _penalties(features: Tensor) -> Float[Tensor, " L"]:
    """Return the lambdas to try, falling: decades around the largest curvature of the logistic loss."""
    scale = float((features.double() - features.double().mean(0)).square().mean()) * len(features) / 4
    low, high = _DECADES
    return (scale or 1.0) * 10 ** torch.linspace(high, low, high - low + 1, dtype=torch.float64)
