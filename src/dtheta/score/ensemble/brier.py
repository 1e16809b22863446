"""Brier score of the probability of an event, its parts, and the reliability diagram.

    BS   = mean (p - o)^2,  p = share of members in which the event happens
    fair = mean (p - o)^2 - p (1 - p) / (M - 1)           its expectation is that of M -> infinity (Ferro 2014)
    BS   = reliability - resolution + uncertainty + variance - covariance            an identity, to rounding
        reliability = sum_k n_k (p_k - o_k)^2    resolution = sum_k n_k (o_k - o)^2    uncertainty = o (1 - o)
        variance    = sum_k n_k var_k(p)         covariance = 2 sum_k n_k cov_k(p, o)

n_k is the share of class k, p_k and o_k its means, o the frequency in the sample itself. Murphy 1973 (J. Appl.
Meteorol. 12, 595); the last two, of what varies within a class, Stephenson et al. 2008 (Weather Forecast. 23, 752):
zero where each class is one probability. With a fixed o, such as 5 % for the 95th percentile, it is no identity.

Shape legend: K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.score.ensemble import tables
from dtheta.score.ensemble.statistic import Aim, EnsembleStatistic
from dtheta.score.ensemble.tables import BINS, Event, EventTable


@dataclass(frozen=True)
class Brier:
    """Brier score of an event, in [0, 1]; ``fair`` as of an infinite ensemble of such members."""

    event: Event
    fair: bool = False
    bins: int = BINS
    better: Aim = "lower"

    @property
    def name(self) -> str:
        """Such as "brier_above_p95", or "brier_fair_above_p95"."""
        return f"brier{'_fair' * self.fair}_{self.event.name}"

    @property
    def least_members(self) -> int:
        """Two where it is fair."""
        return 2 if self.fair else 1

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table of the event."""
        return (EventTable(self.event, self.bins),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, 6) -> (...)."""
        (table,) = means
        return score(table) - (table[..., tables.UNFAIR].sum(-1) if self.fair else 0)


@dataclass(frozen=True)
class BrierSkill:
    """1 - BS / (o (1 - o)): against a forecast of the sample's own frequency; NaN where that is 0 or 1."""

    event: Event
    bins: int = BINS
    better: Aim = "higher"

    @property
    def name(self) -> str:
        """Such as "brier_skill_above_p95"."""
        return f"brier_skill_{self.event.name}"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table of the event."""
        return (EventTable(self.event, self.bins),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, 6) -> (...)."""
        (table,) = means
        rate = tables.base_rate(table)
        return 1 - score(table) / (rate * (1 - rate))


@dataclass(frozen=True)
class BrierParts:
    """Reliability, resolution, uncertainty, and variance and covariance within classes: BS = 1. - 2. + 3. + 4. - 5."""

    event: Event
    bins: int = BINS
    better: Aim = "none"
    axis: ClassVar[str] = "part"
    points: ClassVar[tuple[str, ...]] = ("reliability", "resolution", "uncertainty", "variance", "covariance")

    @property
    def name(self) -> str:
        """Such as "brier_parts_above_p95"."""
        return f"brier_parts_{self.event.name}"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table of the event."""
        return (EventTable(self.event, self.bins),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, 6) -> (..., 5)."""
        (table,) = means
        n, observed, p = (table[..., column] for column in (tables.COUNT, tables.OBSERVED, tables.P))
        rate, filled = tables.base_rate(table), n.clamp(min=torch.finfo(n.dtype).tiny)
        p_k, o_k = p / filled, observed / filled
        parts = (
            n * (p_k - o_k).square(),
            n * (o_k - rate[..., None]).square(),
            table[..., tables.P_SQUARED] - p * p_k,
            2 * (table[..., tables.P_OBSERVED] - p * o_k),
        )
        reliability, resolution, variance, covariance = (part.sum(-1) for part in parts)
        return torch.stack((reliability, resolution, rate * (1 - rate), variance, covariance), dim=-1)


@dataclass(frozen=True)
class Reliability:
    """Reliability diagram: mean probability, observed frequency and share of each class; NaN where it is empty.

    Attributes:
        event: The event.
        classes: Equal classes of the probability; they must divide ``bins``. p = 1 is in the last one.
        bins: Of the table behind it.
    """

    event: Event
    classes: int = 10
    bins: int = BINS
    better: Aim = "none"
    axis: ClassVar[str] = "class"
    columns: ClassVar[tuple[str, ...]] = ("probability", "frequency", "share")

    def __post_init__(self) -> None:
        """Raise ConfigError unless the classes divide the bins."""
        if whole(self.bins, "bins", least=1) % whole(self.classes, "classes", least=1):
            raise ConfigError(f"reliability: {self.classes} classes do not divide the {self.bins} bins of the table")

    @property
    def name(self) -> str:
        """Such as "reliability_above_p95"."""
        return f"reliability_{self.event.name}"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table of the event."""
        return (EventTable(self.event, self.bins),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, 6) -> (..., classes, 3)."""
        (table,) = means
        last = table[..., -2:, :].sum(-2, keepdim=True)
        joined = torch.cat((table[..., :-2, :], last), dim=-2)
        coarse = joined.unflatten(-2, (self.classes, -1)).sum(-2)
        n = coarse[..., tables.COUNT]
        return torch.stack((coarse[..., tables.P] / n, coarse[..., tables.OBSERVED] / n, n), dim=-1)


def score(table: Tensor) -> Tensor:
    """Return mean (p - o)^2 (...) of a table (..., K, 6)."""
    terms = table[..., tables.P_SQUARED] - 2 * table[..., tables.P_OBSERVED] + table[..., tables.OBSERVED]
    return terms.sum(-1)
