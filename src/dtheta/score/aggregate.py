"""Aggregate: streaming, mergeable, weighted means of statistics.

    mean = sum_i w_i v_i / sum_i w_i        in float64

Records are immutable: `add` and `merge` return new ones, so shards, workers and batch orders combine freely. Sums of
0/1 values are exact, so accuracies do not depend on the order at all; other sums agree within float64 rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dtheta.errors import ConfigError, DthetaError, NonFinite, ShapeMismatch
from dtheta.score.metric import Metric
from dtheta.score.statistic import Statistic


@dataclass(frozen=True)
class Mean:
    """A weighted mean under way: total = sum w v (components' shape), weight = sum w, count = examples seen."""

    total: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    weight: float = 0.0
    count: int = 0

    def add(self, values: Tensor, weights: Tensor | None = None) -> Mean:
        """This mean and the per-example ``values`` (N, ...), weighted by ``weights`` (N,), default all 1."""
        values = values.detach().double().cpu()
        weights_N = torch.ones(len(values), dtype=torch.float64) if weights is None else _weights(weights, len(values))
        if not bool(torch.isfinite(values).all()):
            raise NonFinite(f"values: {int((~torch.isfinite(values)).sum())} of {values.numel()} are NaN or infinite")
        total = torch.tensordot(weights_N, values, dims=1)
        return self.merge(Mean(total, float(weights_N.sum()), len(values)))

    def merge(self, other: Mean) -> Mean:
        """The mean over both parts."""
        if self.count and other.count and self.total.shape != other.total.shape:
            raise ShapeMismatch(f"means of {tuple(self.total.shape)} and {tuple(other.total.shape)} components differ")
        if not (self.count and other.count):
            return self if self.count else other
        return Mean(self.total + other.total, self.weight + other.weight, self.count + other.count)

    @property
    def value(self) -> Tensor:
        """The mean, with the shape of one example's value."""
        if self.weight <= 0.0:
            raise ConfigError(f"mean of {self.count} examples with total weight {self.weight:g}: nothing to average")
        return self.total / self.weight


@dataclass(frozen=True)
class Aggregate:
    """The means that a set of metrics needs; statistics named by several metrics are computed once."""

    metrics: tuple[Metric, ...]
    means: Mapping[Statistic, Mean] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for two different metrics of one name, of which ``results`` would hold the last."""
        first: dict[str, Metric] = {}
        for metric in self.metrics:
            if first.setdefault(metric.name, metric) != metric:
                raise ConfigError(f"two different metrics are called {metric.name!r}; give one of them another name")

    def add(self, prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Aggregate:
        """Take in a batch; ``weights`` (N,) default to 1. Errors name the statistic and both shapes."""
        needed = dict.fromkeys(statistic for metric in self.metrics for statistic in metric.statistics)
        means = {s: _mean(self.means, s).add(_values(s, prediction, target), weights) for s in needed}
        return Aggregate(self.metrics, means)

    def merge(self, other: Aggregate) -> Aggregate:
        """Both parts together; they must be of the same metrics."""
        if self.metrics != other.metrics:
            raise ConfigError(f"cannot merge scores of {_names(self.metrics)} with scores of {_names(other.metrics)}")
        statistics = dict.fromkeys([*self.means, *other.means])
        return Aggregate(self.metrics, {s: _mean(self.means, s).merge(_mean(other.means, s)) for s in statistics})

    def results(self) -> dict[str, float]:
        """Metric name -> value over everything seen."""
        return {m.name: float(m.of_means(*(_mean(self.means, s).value for s in m.statistics))) for m in self.metrics}


def evaluate(metrics: Sequence[Metric], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Metrics over (prediction, target) batches, never holding more than one batch.

    >>> evaluate([Accuracy()], [(torch.tensor([0, 1]), torch.tensor([0, 0]))])
    {'accuracy': 0.5}
    """
    aggregate = Aggregate(tuple(metrics))
    for prediction, target in batches:
        aggregate = aggregate.add(prediction, target)
    return aggregate.results()


def _mean(means: Mapping[Statistic, Mean], statistic: Statistic) -> Mean:
    return means.get(statistic, Mean())


def _values(statistic: Statistic, prediction: Tensor, target: Tensor) -> Tensor:
    try:
        return statistic(prediction, target)
    except DthetaError as error:
        shapes = f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)}"
        raise type(error)(f"{statistic}: {error} ({shapes})") from error


def _weights(weights: Tensor, examples: int) -> Tensor:
    if weights.shape != (examples,):
        raise ShapeMismatch(
            f"weights: expected ({examples},), one per example, found {tuple(weights.shape)}; targets that a statistic "
            "leaves out, such as -100, have none"
        )
    weights_N = weights.detach().double().cpu()
    if not bool((torch.isfinite(weights_N) & (weights_N >= 0)).all()):
        raise ConfigError("weights: expected finite numbers >= 0")
    return weights_N


def _names(metrics: Sequence[Metric]) -> str:
    return ", ".join(metric.name for metric in metrics) or "no metrics"
