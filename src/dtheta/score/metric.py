"""Metric: a number that is a function of means of statistics, and of nothing else.

    Accuracy       mean(Correct)
    CrossEntropy   mean(LogLoss)                                  nats
    Perplexity     exp(mean(LogLoss))
    MacroF1        mean over classes of 2 C_kk / (row_k + column_k),  C = mean(Confusion)
    RMSE           sqrt(mean(SquaredError))                       unit of the data

`of_means` takes the means in the order of `statistics` and accepts any leading dimensions, so that thousands of
bootstrap resamples go through it in one call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from dtheta.score.statistic import Confusion, Correct, LogLoss, SquaredError, Statistic

Better = Literal["higher", "lower"]


class Metric(Protocol):
    """A named function of the means of its statistics."""

    @property
    def name(self) -> str:
        """Short lower-case name, used as key of results and in reports."""
        ...

    @property
    def better(self) -> Better:
        """Which direction is an improvement."""
        ...

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics whose means `of_means` takes, in that order."""
        ...

    def of_means(self, *means: Tensor) -> Tensor:
        """Means (..., *components) of each statistic -> metric (...)."""
        ...


@dataclass(frozen=True)
class Accuracy:
    """Share of examples whose predicted class is the target, in [0, 1]."""

    name: str = "accuracy"
    better: Better = "higher"
    statistics: tuple[Statistic, ...] = (Correct(),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(...) -> (...)."""
        (correct,) = means
        return correct


@dataclass(frozen=True)
class CrossEntropy:
    """Mean negative log-likelihood of the target class, in nats."""

    name: str = "cross_entropy"
    better: Better = "lower"
    statistics: tuple[Statistic, ...] = (LogLoss(),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(...) -> (...)."""
        (loss,) = means
        return loss


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood per token; 1 is perfect, the vocabulary size is a uniform guess."""

    name: str = "perplexity"
    better: Better = "lower"
    statistics: tuple[Statistic, ...] = (LogLoss(),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(...) -> (...)."""
        (loss,) = means
        return loss.exp()


@dataclass(frozen=True)
class MacroF1:
    """Unweighted mean of the classes' F1 scores, in [0, 1].

    The mean runs over classes that occur among targets or predictions (scikit-learn's default): a class that is in
    neither has no F1. With no examples at all the result is NaN.
    """

    classes: int
    name: str = "macro_f1"
    better: Better = "higher"

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The confusion counts."""
        return (Confusion(self.classes),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., K, K) mean confusion counts -> (...)."""
        (confusion,) = means
        support = confusion.sum(dim=-1) + confusion.sum(dim=-2)
        f1 = 2 * confusion.diagonal(dim1=-2, dim2=-1) / support
        return f1.nan_to_num().sum(dim=-1) / (support > 0).sum(dim=-1)


@dataclass(frozen=True)
class RMSE:
    """Root of the mean squared error, in the unit of the data."""

    name: str = "rmse"
    better: Better = "lower"
    statistics: tuple[Statistic, ...] = (SquaredError(),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(...) -> (...)."""
        (square,) = means
        return square.sqrt()
