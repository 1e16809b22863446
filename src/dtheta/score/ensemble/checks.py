"""What a verification is asked to score, and what it is given of each start and lead, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.score.ensemble.entries import Lead
from dtheta.score.ensemble.statistic import EnsembleMetric, Transform, trait


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


def require_lead(leads: tuple[Lead, ...] | None, lead: Lead, where: str) -> None:
    """Raise ConfigError unless a lead is among those that are expected; None expects any."""
    if leads is not None and lead not in leads:
        near = sorted(leads, key=lambda known: abs(known - lead))[:2]
        raise ConfigError(f"{where}: this lead is not among those expected; nearest: {', '.join(map(str, near))}")


def require_members(metrics: Sequence[EnsembleMetric], members: int, where: str) -> None:
    """Raise ConfigError unless there are as many members as each metric needs."""
    for metric in metrics:
        least = trait(metric, "least_members", 1)
        if members < least:
            raise ConfigError(f"{where}: {metric.name} needs at least {least} members, found {members}")


def rows_of(rows: tuple[int, int] | None, height: int, where: str) -> tuple[int, int]:
    """Return a range of rows of fields of a height; None for all of them.

    Raises:
        ConfigError: If it is none.
    """
    if rows is None:
        return 0, height
    first, last = (whole(row, f"{where}: a bound of rows") for row in rows)
    if not 0 <= first < last <= height:
        raise ConfigError(f"{where}: rows {rows}; expected 0 <= first < last <= {height}")
    return first, last


def require_whole(
    metrics: Sequence[EnsembleMetric], rows: tuple[int, int], height: int, masked: bool, where: str
) -> None:
    """Raise ConfigError unless metrics of whole fields get all rows, and those of the sphere all cells."""
    for metric in metrics:
        if rows != (0, height) and any(s.whole_field for s in metric.statistics):
            raise ConfigError(f"{where}: {metric.name} needs whole fields, and only rows {rows} were given")
        if masked and not all(s.regional for s in metric.statistics):
            raise ConfigError(f"{where}: {metric.name} needs all cells of the sphere, and a mask leaves some out")
