"""Where the truth lies among the members: the rank histogram, and how often it lies outside all of them.

    rank     r = number of members below the truth, 0..M; of t members equal to it, 0..t more, all alike likely
    outliers share of truths below or above all members; 2 / (M + 1) where truth and members are exchangeable

Flat is necessary for a calibrated ensemble, not sufficient. Hamill 2001 (Mon. Weather Rev. 129, 550).

A histogram of fewer bins than ranks: the bins are those of [0, 1], rank r is the interval [r, r + 1] / (M + 1), and
what overlaps two bins counts in both by its parts, in whole numbers. So the expected frequency is 1 / bins for every M.

Shape legend: M members, R regions, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError
from dtheta.score.ensemble.statistic import AdditiveStatistic, Aim, Case, EnsembleStatistic, area_totals

Ties = Literal["random", "spread"]


@dataclass(frozen=True)
class Ranks(AdditiveStatistic):
    """Share of the truth's rank in each bin: B components.

    Attributes:
        bins: B; None for M + 1, one for each rank.
        ties: "random" draws one of the ranks that equal members leave open, keyed by seed, start, lead, channel and
            cell; "spread" counts them all, each with its part.
    """

    bins: int | None = None
    ties: Ties = "random"

    def __post_init__(self) -> None:
        """Raise ConfigError for what cannot be meant."""
        if self.bins is not None:
            whole(self.bins, "bins", least=1)
        if self.ties not in get_args(Ties):
            raise ConfigError(f"ties is {self.ties!r}; expected one of {', '.join(get_args(Ties))}")

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, *cells) -> how many members are below the truth, and equal to it, each (*cells)."""
        return below_and_equal(forecast_M, case.truth)

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, B)."""
        below, equal = sums
        low, high = below, below + equal + 1
        if self.ties == "random":
            # A uniform number rounded up to 1 must not give a rank that is not there.
            low = below + (case.uniforms() * (equal + 1)).long().clamp(max=equal)
            high = low + 1
        bins = members + 1 if self.bins is None else self.bins
        return area_totals(bin_shares(low, high, members + 1, bins), case.weights)


@dataclass(frozen=True)
class Outside(AdditiveStatistic):
    """Chance that the truth is below all members, above all of them, and 2 / (M + 1): 3 components."""

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, *cells) -> how many members are below the truth, and equal to it, each (*cells)."""
        return below_and_equal(forecast_M, case.truth)

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, 3)."""
        below, equal = sums
        under, over = ((at_end).double() / (equal + 1) for at_end in (below == 0, below + equal == members))
        expected = torch.full_like(under, 2 / (members + 1))
        return area_totals(torch.stack((under, over, expected), dim=-1), case.weights)


def below_and_equal(forecast_M: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of the members (M, ...) are below the truth (...), and equal to it, as integers (...)."""
    return (forecast_M < truth).sum(0), (forecast_M == truth).sum(0)


def bin_shares(low: Tensor, high: Tensor, ranks: int, bins: int) -> Tensor:
    """Return which part (..., B) of the interval [low, high] / ranks lies in each of B equal bins of [0, 1]."""
    low, high = (bins * edge[..., None] for edge in (low, high))
    edges = ranks * torch.arange(bins + 1, device=low.device)
    overlap = (torch.minimum(high, edges[1:]) - torch.maximum(low, edges[:-1])).clamp(min=0)
    return overlap.double() / (high - low)


@dataclass(frozen=True)
class RankHistogram:
    """Frequency of each bin of ranks, sums to 1; 1 / bins in each for a calibrated ensemble.

    Attributes:
        bins: Number of bins; None for M + 1, one for each rank.
        ties: "random" or "spread", as `Ranks` has them.
    """

    bins: int | None = 20
    ties: Ties = "random"
    name: str = "rank_histogram"
    better: Aim = "none"
    axis: ClassVar[str] = "rank"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The shares."""
        return (Ranks(self.bins, self.ties),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., B) -> (..., B)."""
        return means[0]


@dataclass(frozen=True)
class Outliers:
    """Share of truths outside all members; ``relative`` to the 2 / (M + 1) of a calibrated ensemble: 1 is right."""

    relative: bool = False
    statistics: tuple[EnsembleStatistic, ...] = (Outside(),)

    @property
    def name(self) -> str:
        """Such as "outliers" or "outlier_ratio"."""
        return "outlier_ratio" if self.relative else "outliers"

    @property
    def better(self) -> Aim:
        """A share has no direction of its own."""
        return "one" if self.relative else "none"

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        (outside,) = means
        share = outside[..., 0] + outside[..., 1]
        return share / outside[..., 2] if self.relative else share
