"""Tables: forecasts of an event sorted into classes, each with what was observed; all scores of events follow from it.

    class k of a probability p = j / M      floor(B p), so B + 1 classes, the last for p = 1; exact for M <= B
    columns per class, as means over cells  1, o, p, p^2, p o, p (1 - p) / (M - 1)

with o = 1 where the event happened. Up to B members every probability has a class of its own; beyond, the classes are
as wide as 1 / B, and what varies within them is kept by the moments of p, so sums over classes lose nothing.

Shape legend: M members, R regions, K classes, P columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.arguments import number, whole
from dtheta.errors import ConfigError
from dtheta.score.ensemble.statistic import AdditiveStatistic, Case, names_of

#: Columns of a table; one that is no table of probabilities has the first two only.
COUNT, OBSERVED, P, P_SQUARED, P_OBSERVED, UNFAIR = range(6)
BINS = 50


@dataclass(frozen=True)
class Event:
    """What is forecast: a value strictly above a threshold, or strictly below one.

    Attributes:
        above: The threshold, a number or the name of a reference; None where ``below`` is given.
        below: The same for the other side.
    """

    above: float | str | None = None
    below: float | str | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError unless there is one threshold."""
        if (self.above is None) == (self.below is None):
            raise ConfigError("an event has one threshold: Event(above=...) or Event(below=...)")
        for bound in (self.above, self.below):
            if bound is not None and not isinstance(bound, str):
                number(bound, "the threshold of an event")

    @property
    def needs(self) -> tuple[str, ...]:
        """The threshold, where it is a reference."""
        return names_of(self.above, self.below)

    @property
    def name(self) -> str:
        """Such as "above_p95"."""
        return f"above_{self.above}" if self.below is None else f"below_{self.below}"

    def happens(self, values: Tensor, case: Case) -> Tensor:
        """Return where values (..., *cells) are such an event."""
        if self.above is not None:
            return values > case.bound(self.above)
        assert self.below is not None
        return values < case.bound(self.below)


@dataclass(frozen=True)
class EventTable(AdditiveStatistic):
    """The table of the share of members in which an event happens: (B + 1, 6) components.

    Attributes:
        event: The event.
        bins: B.
    """

    event: Event
    bins: int = BINS

    def __post_init__(self) -> None:
        """Raise ConfigError for a number of classes that cannot be meant."""
        whole(self.bins, "bins", least=1)

    @property
    def needs(self) -> tuple[str, ...]:
        """The threshold, where it is a reference."""
        return self.event.needs

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, *cells) -> in how many members the event happens (*cells)."""
        return (self.event.happens(forecast_M, case).sum(0),)

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, B + 1, 6)."""
        (count,) = sums
        p, o = count.double() / members, self.event.happens(case.truth, case).double()
        unfair = p * (1 - p) / max(members - 1, 1)
        columns = torch.stack((torch.ones_like(p), o, p, p * p, p * o, unfair))
        return class_totals(count * self.bins // members, columns, self.bins + 1, case.weights)


def class_totals(classes: Tensor, columns: Tensor, count: int, weights: Tensor) -> Tensor:
    """Return sum_n w_rn v_np over the cells of each class: classes (*cells), columns (P, *cells) -> (R, K, P)."""
    index, values, weights = classes.reshape(-1), columns.flatten(1), weights.flatten(1)
    found = values.new_zeros(count, len(weights) * len(values))
    found.index_add_(0, index, (weights[:, None] * values).flatten(0, 1).T)
    return found.unflatten(1, (len(weights), len(values))).movedim(1, 0)


def base_rate(table: Tensor) -> Tensor:
    """Return the observed frequency (...) of a table of means (..., K, P)."""
    return table[..., OBSERVED].sum(-1)


def rates(table: Tensor) -> tuple[Tensor, Tensor]:
    """Return hit rate and false alarm rate (..., K + 1) of "class at least k", from never (k = K) to always (k = 0).

    NaN where the event never happens, or always.
    """
    hits, alarms = (_falling(table[..., OBSERVED]), _falling(table[..., COUNT] - table[..., OBSERVED]))
    return hits / hits[..., -1:], alarms / alarms[..., -1:]


def _falling(values: Tensor) -> Tensor:
    """Return 0, v_K, v_K + v_{K-1}, ... (..., K + 1)."""
    return torch.nn.functional.pad(values.flip(-1).cumsum(-1), (1, 0))
