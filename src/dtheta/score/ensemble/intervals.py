"""From what was counted to scores: means over starts, metrics of them, and a block bootstrap over starts.

A mean over starts is sum of totals / sum of weights, so starts with masked cells count by the area that they have. The
same resamples of starts serve all metrics, and both sides of a difference.

Shape legend: S starts, C channels, R regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.score.ensemble.entries import Lead, leads_of, of_lead, require_complete, stacked
from dtheta.score.ensemble.results import Score, VerificationResult
from dtheta.score.ensemble.statistic import EnsembleMetric, trait
from dtheta.score.interval import bootstrap_bounds

if TYPE_CHECKING:
    from dtheta.score.ensemble.verification import Verification

Bounds = tuple[Tensor, Tensor, Tensor]


def scored(
    a: Verification, b: Verification | None, *, level: float, resamples: int, block: int, seed: int
) -> VerificationResult:
    """Return the scores of a verification, or of one minus another.

    Raises:
        ConfigError: If level, resamples or block cannot be meant.
    """
    whole(resamples, "resamples", least=2)
    whole(block, "block", least=1)
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a probability in (0, 1) such as 0.95, found {level}")
    scores = []
    for lead in leads_of(a.entries):
        for metric in a.metrics:
            if all(a.channels_of[s] for s in metric.statistics):
                sides = [a] if b is None else [a, b]
                values, of_means, count = _values(sides, metric, lead)
                bounds = _bounds(values, of_means, count, level, resamples, block, seed)
                scores.extend(_scores(a, metric, lead, count, bounds, level, b is not None))
    sizes = [entry.members for entry in a.entries.values()]
    return VerificationResult(tuple(scores), level, resamples, block, seed, (min(sizes), max(sizes)))


def require_comparable(a: Verification, b: Verification) -> None:
    """Raise ConfigError unless two verifications have the same scores of the same starts, leads and regions."""
    for name in ("metrics", "names", "channels_of"):
        if getattr(a, name) != getattr(b, name):
            raise ConfigError(f"difference: {name} differ: {getattr(a, name)} and {getattr(b, name)}")
    if a.cells.regions != b.cells.regions or set(a.entries) != set(b.entries):
        raise ConfigError(
            f"difference: regions, starts or leads differ; {len(a.entries)} and {len(b.entries)} pairs of start and "
            f"lead, {len(set(a.entries) & set(b.entries))} of them in both"
        )
    for side in (a, b):
        require_complete(side.entries, side.cells.shape[0], side.leads, gaps=True)


def _values(
    sides: list[Verification], metric: EnsembleMetric, lead: Lead
) -> tuple[list[Tensor], Callable[..., Tensor], int]:
    """Return what is resampled, (S, C, R, ...) totals and weights, and the function of its means that is wanted."""
    values: list[Tensor] = []
    for side in sides:
        entries = of_lead(side.entries, lead)
        weight = torch.stack([entry.weight for _, entry in entries])
        for statistic in metric.statistics:
            having = list(side.channels_of[statistic])
            values += [stacked(entries, statistic), weight[:, having]]
    count = len(metric.statistics)

    def of_means(*means: Tensor) -> Tensor:
        ratios = [_ratio(total, weight) for total, weight in zip(means[::2], means[1::2], strict=True)]
        found = [metric.of_means(*ratios[i : i + count]) for i in range(0, len(ratios), count)]
        return found[0] if len(found) == 1 else found[0] - found[1]

    return values, of_means, len(values[0])


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    return total / weight.reshape(*weight.shape, *[1] * (total.ndim - weight.ndim))


def _bounds(
    values: list[Tensor],
    of_means: Callable[..., Tensor],
    count: int,
    level: float,
    resamples: int,
    block: int,
    seed: int,
) -> Bounds:
    if count < 2:
        estimate = of_means(*(part.mean(dim=0) for part in values))
        return estimate, torch.full_like(estimate, torch.nan), torch.full_like(estimate, torch.nan)
    return bootstrap_bounds(values, of_means, level=level, resamples=resamples, seed=seed, name="starts", block=block)


def _scores(
    a: Verification, metric: EnsembleMetric, lead: Lead, count: int, bounds: Bounds, level: float, difference: bool
) -> Iterator[Score]:
    statistic = metric.statistics[0]
    aim = "none" if difference and metric.better in ("zero", "one") else metric.better
    scaled = trait(metric, "scaled", False)
    curve = trait(metric, "axis", ""), tuple(trait(metric, "points", ())), trait(metric, "columns", ())
    for i, c in enumerate(a.channels_of[statistic]):
        unit = a.units.get(a.names[c], "") if scaled else "1"
        for r, region in enumerate(a.cells.regions if statistic.regional else a.cells.regions[:1]):
            value, low, high = (bound[i, r] for bound in bounds)
            yield Score(metric.name, a.names[c], region, lead, unit, aim, count, value, low, high, level, *curve)
