"""What a verification is asked to score, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtheta.errors import ConfigError
from dtheta.score.ensemble.statistic import EnsembleMetric, Transform


def metrics_of(metrics: Any) -> tuple[EnsembleMetric, ...]:
    """Return metrics whose names differ.

    Raises:
        ConfigError: If something is no metric, or a name is there twice.
    """
    if not isinstance(metrics, Sequence):
        raise ConfigError(f"metrics are {metrics!r:.80}; expected several, such as [RMSE(), CRPS()]")
    for metric in metrics:
        if isinstance(metric, type) or not hasattr(metric, "of_means"):
            raise ConfigError(f"{metric!r:.80} is no metric of ensembles; expected one such as CRPS()")
    distinct([metric.name for metric in metrics], "metrics")
    return tuple(metrics)


def distinct(values: Sequence[Any], what: str) -> tuple[Any, ...]:
    """Return values as a tuple.

    Raises:
        ConfigError: If there are none, or one is there twice.
    """
    found = tuple(values)
    twice = [value for value in dict.fromkeys(found) if found.count(value) > 1]
    if not found or twice:
        raise ConfigError(f"{what}: {f'{twice[0]!r} is there twice' if twice else 'none were given'}")
    return found


def described(transform: Transform) -> str:
    """Return what tells a transform from others, in words."""
    numbers = {name: getattr(transform, name, None) for name in ("degree", "order")}
    return f"{type(transform).__name__} {numbers}"
