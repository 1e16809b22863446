"""Scores: Statistic -> mean -> Metric, and an interval for every number.

A `Statistic` turns (prediction, target) into per-example values that may only be averaged; an `Aggregate` averages
them, streaming and mergeable; a `Metric` is a function of those means; an `Interval` says how far to trust it.
"""

from __future__ import annotations

from dtheta.score.aggregate import Aggregate, Mean, evaluate
from dtheta.score.interval import (
    Interval,
    bootstrap,
    bootstrap_bounds,
    mean_interval,
    metric_interval,
    paired_bootstrap,
    paired_interval,
    paired_shares,
    wilson,
)
from dtheta.score.metric import RMSE, Accuracy, CrossEntropy, MacroF1, Metric, Perplexity
from dtheta.score.statistic import Confusion, Correct, LogLoss, SquaredError, Statistic

__all__ = [
    "RMSE",
    "Accuracy",
    "Aggregate",
    "Confusion",
    "Correct",
    "CrossEntropy",
    "Interval",
    "LogLoss",
    "MacroF1",
    "Mean",
    "Metric",
    "Perplexity",
    "SquaredError",
    "Statistic",
    "bootstrap",
    "bootstrap_bounds",
    "evaluate",
    "mean_interval",
    "metric_interval",
    "paired_bootstrap",
    "paired_interval",
    "paired_shares",
    "wilson",
]
