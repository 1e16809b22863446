"""Warnings drawn from a forecast: who is warned when the event comes, who when it does not, and what it is worth.

    H, F  hit rate and false alarm rate of "warn where the class is at least k", for every k
    ROC   the curve (F, H);  AUC the area below it by trapezoids, 0.5 without skill
    EDI   (ln F - ln H) / (ln F + ln H)           Ferro and Stephenson 2011 (Weather Forecast. 26, 699)
    V     (min(a, o) - F a (1 - o) + H o (1 - a) - o) / (min(a, o) - o a)     Richardson 2000 (Q. J. R. Meteorol. Soc.
                                                                              126, 649)

o is the frequency of the event, a the cost of acting over the loss that it prevents. V is 1 for a perfect forecast and
0 for the better of always and never; it is that of the best k for each user. A table of fewer classes than
probabilities joins points of the curve, which lowers the area.

Shape legend: K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.score.ensemble.efi import EFITable
from dtheta.score.ensemble.statistic import Aim, EnsembleStatistic
from dtheta.score.ensemble.tables import BINS, Event, EventTable, base_rate, rates

RATIOS = tuple(round(0.05 * step, 2) for step in range(1, 20))


@dataclass(frozen=True)
class ROC:
    """Relative operating characteristic: (F, H) from never warning to always; NaN where the event never or always is.

    Attributes:
        table: Of the event: `EventTable`, or `EFITable` for the EFI as forecast.
    """

    table: EventTable | EFITable
    better: Aim = "none"
    axis: ClassVar[str] = "class"
    columns: ClassVar[tuple[str, ...]] = ("false_alarm_rate", "hit_rate")

    @property
    def name(self) -> str:
        """Such as "roc_above_p95", or "roc_efi_above_p95"."""
        return _name("roc", self.table)

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table."""
        return (self.table,)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, P) -> (..., K + 1, 2)."""
        hits, alarms = rates(means[0])
        return torch.stack((alarms, hits), dim=-1)


@dataclass(frozen=True)
class AUC:
    """Area below the ROC curve, in [0, 1]; 0.5 without skill, NaN where the event never or always is."""

    table: EventTable | EFITable
    better: Aim = "higher"

    @property
    def name(self) -> str:
        """Such as "auc_above_p95", or "auc_efi_above_p95"."""
        return _name("auc", self.table)

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table."""
        return (self.table,)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, P) -> (...)."""
        hits, alarms = rates(means[0])
        return torch.trapezoid(hits, alarms, dim=-1)


@dataclass(frozen=True)
class EDI:
    """Extremal dependence index of the warning "probability at least ``threshold``", in [-1, 1].

    It does not fall to a trivial value as events become rare, as most scores of warnings do. NaN where H or F is 0.

    Attributes:
        event: The event.
        threshold: In (0, 1]; a multiple of 1 / bins.
        bins: Of the table.
    """

    event: Event
    threshold: float = 0.5
    bins: int = BINS
    better: Aim = "higher"

    def __post_init__(self) -> None:
        """Raise ConfigError for a threshold between classes."""
        step = self.threshold * self.bins
        if not 0 < self.threshold <= 1 or abs(step - round(step)) > 1e-9:
            raise ConfigError(f"EDI: threshold {self.threshold} must be a multiple of 1 / {self.bins} in (0, 1]")

    @property
    def name(self) -> str:
        """Such as "edi_above_p95", or "edi_0.2_above_p95" for another threshold than 0.5."""
        return "_".join(["edi", *([] if self.threshold == 0.5 else [f"{self.threshold:g}"]), self.event.name])

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table of the event."""
        return (EventTable(self.event, self.bins),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, 6) -> (...)."""
        kept = self.bins + 1 - round(self.threshold * self.bins)
        hits, alarms = (rate[..., kept] for rate in rates(means[0]))
        edi = (alarms.log() - hits.log()) / (alarms.log() + hits.log())
        return torch.where((hits > 0) & (alarms > 0), edi, torch.nan)


@dataclass(frozen=True)
class EconomicValue:
    """Relative economic value for each ratio of cost to loss, of the best class to act at; at most 1.

    Attributes:
        event: The event.
        ratios: Costs of acting over losses prevented, in (0, 1).
        bins: Of the table.
    """

    event: Event
    ratios: tuple[float, ...] = RATIOS
    bins: int = BINS
    better: Aim = "higher"
    axis: ClassVar[str] = "cost_loss"

    def __post_init__(self) -> None:
        """Raise ConfigError for ratios at which nobody would decide."""
        if not self.ratios or not all(0 < ratio < 1 for ratio in self.ratios):
            raise ConfigError(f"economic value: expected ratios of cost to loss in (0, 1), found {self.ratios}")

    @property
    def points(self) -> tuple[float, ...]:
        """The ratios."""
        return self.ratios

    @property
    def name(self) -> str:
        """Such as "value_above_p95"."""
        return f"value_{self.event.name}"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The table of the event."""
        return (EventTable(self.event, self.bins),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, 6) -> (..., ratios)."""
        (table,) = means
        hits, alarms = (rate[..., None, :] for rate in rates(table))
        o = base_rate(table)[..., None, None]
        a = torch.tensor(self.ratios, dtype=table.dtype, device=table.device)[:, None]
        without = torch.minimum(a, o)
        value = (without - alarms * a * (1 - o) + hits * o * (1 - a) - o) / (without - o * a)
        return value.amax(-1)


def _name(what: str, table: EventTable | EFITable) -> str:
    return "_".join([what, *(["efi"] if isinstance(table, EFITable) else []), table.event.name])
