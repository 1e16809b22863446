"""Statistic: (prediction, target) -> one value per example, and the only thing one may do with it is average it.

Because every metric is a function of *means* of statistics, data may be streamed, split and merged in any order, two
metrics that name the same statistic share one computation, and any metric can be bootstrapped. A statistic is a
frozen dataclass: its class and fields are its identity.

    Correct        1[argmax_k logits_NK == target_N]
    LogLoss        -log softmax(logits_NK)[target_N]                     nats
    Confusion      one count at [target, predicted]                      (K, K) an example
    SquaredError   mean over an example's components of (prediction - target)^2

The factorization (Statistic, mean, Metric) is the one of Google Research's WeatherBench-X.
Shapes: N examples, K classes. Predictions of classifiers are logits (..., K) or integer labels (...); leading
dimensions (batch, time) are flattened to N. Values are float64, whatever the model computes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch


class Statistic(Protocol):
    """Maps (prediction, target) to float64 values (N, ...); hashable, equal when class and fields are equal."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Prediction and target of a batch -> values (N, ...)."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Correct:
    """1 where the predicted class is the target, else 0. Targets equal to ``ignore`` are left out.

    Beside logits all others must be classes; beside predicted labels, of which it is not known how many there are, any
    whole number counts.
    """

    ignore: int = -100

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(..., K) logits or (...) labels, and (...) integer targets -> (N,)."""
        labels_N, target_N = _labels(prediction, target)
        kept = target_N != self.ignore
        if prediction.ndim > target.ndim:
            require_classes(target_N[kept], prediction.shape[-1])
        return (labels_N[kept] == target_N[kept]).double()


@dataclass(frozen=True)
class LogLoss:
    """Negative log-likelihood of the target class in nats. Targets equal to ``ignore`` are left out."""

    ignore: int = -100

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(..., K) logits and (...) integer targets -> (N,)."""
        require_logits(prediction, target)
        logits_NK, target_N = prediction.reshape(-1, prediction.shape[-1]), target.reshape(-1)
        kept = target_N != self.ignore
        logits_NK, target_N = logits_NK[kept].double(), target_N[kept].long()
        require_classes(target_N, logits_NK.shape[-1])
        return -torch.log_softmax(logits_NK, dim=-1).gather(-1, target_N[:, None])[:, 0]


@dataclass(frozen=True)
class Confusion:
    """A (K, K) one-hot count per example at [target, predicted]; its mean holds every count-based score."""

    classes: int

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(..., K) logits or (...) labels, and (...) integer targets -> (N, K, K)."""
        labels_N, target_N = _labels(prediction, target)
        require_classes(target_N, self.classes)
        require_classes(labels_N, self.classes)
        flat_N = target_N.long() * self.classes + labels_N.long()
        one_hot = torch.nn.functional.one_hot(flat_N, self.classes**2)
        return one_hot.double().reshape(-1, self.classes, self.classes)


@dataclass(frozen=True)
class SquaredError:
    """Squared error, averaged over the components of one example."""

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N, ...) and (N, ...) of the same shape -> (N,), in squared units of the data."""
        if prediction.shape != target.shape:
            raise ShapeMismatch(f"SquaredError: prediction {_shape(prediction)} and target {_shape(target)} differ")
        squares = (prediction.double() - target.double()).square()
        _require_finite(squares, "SquaredError")
        return squares[..., None].flatten(1).mean(dim=1)  # also of no examples, of which a reshape tells no width


def _labels(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Flat predicted and true labels, from logits with one dimension more than the target or from labels."""
    _require_ids(target)
    if prediction.shape == target.shape and not prediction.is_floating_point():
        return prediction.reshape(-1), target.reshape(-1)
    require_logits(prediction, target)
    return prediction.argmax(dim=-1).reshape(-1), target.reshape(-1)


def require_logits(prediction: Tensor, target: Tensor) -> None:
    """Raise unless the prediction is finite logits (..., K) for class ids (...)."""
    if prediction.shape[:-1] != target.shape or prediction.ndim != target.ndim + 1:
        raise ShapeMismatch(
            f"prediction: expected logits {_shape(target, 'classes')} for target {_shape(target)}, "
            f"found {_shape(prediction)}"
        )
    if not prediction.is_floating_point():
        raise ConfigError(f"prediction: expected floating-point logits, found {prediction.dtype}")
    _require_ids(target)
    _require_finite(prediction, "logits")


def _require_ids(target: Tensor) -> None:
    """Raise unless targets are whole numbers: a NaN would count as a wrong answer, 1.7 as class 1."""
    if target.is_floating_point() or target.is_complex():
        raise ConfigError(f"target: expected class ids, whole numbers, found {target.dtype}; convert them by .long()")


def require_classes(labels_N: Tensor, classes: int) -> None:
    """Raise unless all labels are in 0..classes - 1."""
    if labels_N.numel() and not 0 <= int(labels_N.min()) <= int(labels_N.max()) < classes:
        found = f"{int(labels_N.min())}..{int(labels_N.max())}"
        raise ConfigError(f"labels: expected integers 0..{classes - 1}, found {found}; check the label map of the task")


def _require_finite(values: Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise NonFinite(f"{what}: {bad} of {values.numel()} values are NaN or infinite; lower the learning rate")


def _shape(tensor: Tensor, *extra: str) -> str:
    return "(" + ", ".join([*map(str, tensor.shape), *extra]) + ")"
