"""The mean of an ensemble against the truth, and its spread.

    bias         mean of (xbar - y)
    RMSE         sqrt mean (xbar - y)^2
    spread       sqrt( (M + 1)/M  mean s^2 ),   s^2 = sum_i (x_i - xbar)^2 / (M - 1)
    spread-error spread / RMSE: 1 where truth and members are exchangeable; below 1, the ensemble is too sure
    ACC          mean f'o' / sqrt( mean f'^2  mean o'^2 ),   f' = xbar - c,  o' = y - c,  c the climatology

Means run over cells (by area) and starts before any root or ratio: a mean of roots has another expectation. The factor
(M + 1)/M is that of Fortin et al. 2014 (J. Hydrometeorol. 15, 1708). The ACC is the uncentered one, over all starts
together.

With pairs of opposite sign s^2 is too large by up to M / (M - 1), since the mean of a pair is not free, and the mean of
the ensemble errs less than that of M members. For K = M/2 pairs with means p_k and half differences d_k

    spread = sqrt( (K + 1)/K  mean s_p^2  +  mean d^2 ),   s_p^2 = sum_k (p_k - xbar)^2 / (K - 1)

which asks of pairs only that they are exchangeable, and is the above in expectation where all members are.

Sums are those of x - y and (x - y)^2, in float64: they add up over parts of the ensemble, and little cancels.

Shape legend: M members, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.score.ensemble.statistic import AdditiveStatistic, Aim, Case, EnsembleStatistic, area_totals, require_pairs


@dataclass(frozen=True)
class Moments(AdditiveStatistic):
    """Error of the mean, its square, and the square of the spread (0 for one member, or one pair): 3 components.

    Attributes:
        pairs: Whether members 2 k and 2 k + 1 are a pair.
    """

    pairs: bool = False

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, *cells) -> sum of x - y, sum of (x - y)^2, and for pairs sum of d^2, each (*cells)."""
        from_truth = forecast_M.double() - case.truth.double()
        halves: tuple[Tensor, ...] = ()
        if self.pairs:
            require_pairs(len(forecast_M), case.where)
            halves = (((from_truth[::2] - from_truth[1::2]) / 2).square().sum(0),)
        return from_truth.sum(0), from_truth.square_().sum(0), *halves

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, 3)."""
        first, second, *halves = sums
        error = first / members
        # Squares about the truth: of members, or of the means of pairs, e+^2 + e-^2 = 2 (p^2 + d^2).
        count, squares = (members // 2, second / 2 - halves[0]) if self.pairs else (members, second)
        around = (squares - count * error.square()).clamp(min=0)
        spread = around * ((count + 1) / (count * (count - 1)) if count > 1 else 0.0)
        if self.pairs:
            spread = spread + halves[0] / count
        return area_totals(torch.stack((error, error.square(), spread), dim=-1), case.weights)


@dataclass(frozen=True)
class Anomalies(AdditiveStatistic):
    """f'o', f'^2 and o'^2 of the anomalies of the mean and of the truth from a climatology: 3 components."""

    climatology: str = "climatology"

    @property
    def needs(self) -> tuple[str, ...]:
        """The climatology."""
        return (self.climatology,)

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, *cells) -> sum of x - y."""
        return ((forecast_M.double() - case.truth.double()).sum(0),)

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, 3)."""
        observed = case.truth.double() - case.reference(self.climatology).double()
        forecast = observed + sums[0] / members
        products = (forecast * observed, forecast.square(), observed.square())
        return area_totals(torch.stack(products, dim=-1), case.weights)


@dataclass(frozen=True)
class Bias:
    """Mean of the ensemble mean minus the truth, in the unit of the data."""

    name: str = "bias"
    better: Aim = "zero"
    statistics: tuple[EnsembleStatistic, ...] = (Moments(),)
    scaled: ClassVar[bool] = True

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        return means[0][..., 0]


@dataclass(frozen=True)
class RMSE:
    """Root mean squared error of the ensemble mean, in the unit of the data."""

    name: str = "rmse"
    better: Aim = "lower"
    statistics: tuple[EnsembleStatistic, ...] = (Moments(),)
    scaled: ClassVar[bool] = True

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        return means[0][..., 1].sqrt()


@dataclass(frozen=True)
class _OfSpread:
    """A metric of the spread, which takes two members.

    Attributes:
        pairs: Whether members 2 k and 2 k + 1 are a pair, as `cross` has them, of which only the pair is independent.
    """

    pairs: bool = False

    @property
    def least_members(self) -> int:
        """Two, or two pairs."""
        return 4 if self.pairs else 2

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The moments."""
        return (Moments(self.pairs),)


@dataclass(frozen=True)
class Spread(_OfSpread):
    """The error that the mean would have if the truth were one more member, or of one more pair; unit of the data."""

    better: Aim = "none"
    scaled: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Such as "spread", or "spread_pairs"."""
        return "spread_pairs" if self.pairs else "spread"

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        return means[0][..., 2].sqrt()


@dataclass(frozen=True)
class SpreadError(_OfSpread):
    """Spread over RMSE; 1 where truth and members are exchangeable, NaN where the mean has no error."""

    better: Aim = "one"

    @property
    def name(self) -> str:
        """Such as "spread_error", or "spread_error_pairs"."""
        return "spread_error_pairs" if self.pairs else "spread_error"

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        return (means[0][..., 2] / means[0][..., 1]).sqrt()


@dataclass(frozen=True)
class ACC:
    """Anomaly correlation of the ensemble mean, in [-1, 1]; uncentered, over all cells and starts together."""

    climatology: str = "climatology"
    name: str = "acc"
    better: Aim = "higher"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The products of anomalies."""
        return (Anomalies(self.climatology),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        (products,) = means
        return products[..., 0] / (products[..., 1] * products[..., 2]).sqrt()
