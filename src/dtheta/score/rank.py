"""Rank correlations, and whether two matrices over the same tasks order their pairs alike.

    Spearman    Pearson correlation of the ranks, equal values sharing the mean of theirs
    Kendall     tau-b = (concordant - discordant) / sqrt((P - ties of x)(P - ties of y)),  P = n (n - 1) / 2 pairs

The T (T - 1) entries of a matrix over T tasks are not independent: those of one row or column share a task. So tasks
are what is permuted and resampled, rows and columns together: Mantel's test (1967) gives the p-value, two-sided, and a
bootstrap over tasks the interval, where pairs of a task with its own copy are left out.

Shape legend: T tasks, N values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator, permutation
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.score.interval import Interval

RankKind = Literal["kendall", "spearman"]
_EXACT = 720  # permutations that are gone through one by one: those of six tasks
_ROUNDING = 1e-12


@dataclass(frozen=True)
class RankCorrelation:
    """A rank correlation of two matrices, its bootstrap interval over tasks, and the p-value of no relation."""

    kind: RankKind
    interval: Interval
    p: float

    @property
    def estimate(self) -> float:
        """The correlation, in [-1, 1]."""
        return self.interval.estimate

    def __str__(self) -> str:
        return f"{self.interval}, p = {self.p:.2g}"


def ranks(values_N: Tensor) -> Tensor:
    """Return the ranks (N,) from 1, float64; equal values share the mean of theirs."""
    values_N = _finite(values_N)
    below_N = (values_N[None, :] < values_N[:, None]).sum(1)
    equal_N = (values_N[None, :] == values_N[:, None]).sum(1)
    return below_N + (equal_N + 1) / 2


def spearman(x_N: Tensor, y_N: Tensor) -> float:
    """Return Spearman's rho of N pairs of values.

    Raises:
        NotConverged: If all values of one side are equal, so that they have no order.
        ShapeMismatch: If they are no pairs.
        NonFinite: If a value is NaN or infinite.
    """
    a_N, b_N = (ranks(values) for values in _pairs(x_N, y_N))
    a_N, b_N = a_N - a_N.mean(), b_N - b_N.mean()
    return _ratio(float(a_N @ b_N), float(a_N @ a_N), float(b_N @ b_N))


def kendall(x_N: Tensor, y_N: Tensor) -> float:
    """Return Kendall's tau-b of N pairs of values; errors are those of ``spearman``."""
    x_N, y_N = (_finite(values) for values in _pairs(x_N, y_N))
    a_NN, b_NN = ((values[:, None] - values[None, :]).sign() for values in (x_N, y_N))
    return _ratio(float((a_NN * b_NN).sum()), float(a_NN.abs().sum()), float(b_NN.abs().sum()))


_KINDS: dict[RankKind, Callable[[Tensor, Tensor], float]] = {"kendall": kendall, "spearman": spearman}


def matrix_correlation(
    a_TT: Tensor,
    b_TT: Tensor,
    kind: RankKind = "spearman",
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> RankCorrelation:
    """Return the rank correlation of two matrices off their diagonals.

    Args:
        a_TT: One value for each ordered pair of tasks; the diagonal does not count.
        b_TT: The same for other values.
        kind: "spearman" or "kendall".
        level: Of the interval.
        resamples: Of tasks, for the interval; and the permutations, where there are more than 720 of them.
        seed: Of both.

    Raises:
        ConfigError: For another kind, fewer than three tasks, or fewer than two resamples.
        ShapeMismatch: If they are no square matrices of one size.
        NotConverged: If all values of one of them are equal.
    """
    if kind not in _KINDS or whole(resamples, "resamples") < 2 or not 0 < level < 1:
        raise ConfigError(
            f"expected a kind of {', '.join(_KINDS)}, at least 2 resamples and a level in (0, 1); found {kind!r}, "
            f"{resamples} and {level}"
        )
    count = _tasks(a_TT, b_TT)
    a_TT, b_TT = a_TT.double(), b_TT.double()
    plain = torch.arange(count)
    estimate = _off_diagonal(kind, a_TT, b_TT, plain, plain)
    null = [_off_diagonal(kind, a_TT, b_TT, order, plain) for order in _permutations(count, resamples, seed)]
    beyond = sum(abs(value) >= abs(estimate) - _ROUNDING for value in null)
    exact = math.factorial(count) <= _EXACT
    p = beyond / len(null) if exact else (beyond + 1) / (len(null) + 1)  # with all of them, the identity is among them
    low, high = _bootstrap(kind, a_TT, b_TT, resamples, seed, level)
    return RankCorrelation(
        kind, Interval(estimate, min(low, estimate), max(high, estimate), level, "bootstrap-tasks"), p
    )


def _off_diagonal(kind: RankKind, a_TT: Tensor, b_TT: Tensor, of_a: Tensor, of_b: Tensor) -> float:
    """Correlate what is left of two matrices when rows and columns are taken in these orders."""
    apart_TT = (of_a[:, None] != of_a[None, :]) & (of_b[:, None] != of_b[None, :])
    a_TT, b_TT = a_TT[of_a][:, of_a], b_TT[of_b][:, of_b]
    return _KINDS[kind](a_TT[apart_TT], b_TT[apart_TT])


def _permutations(count: int, resamples: int, seed: int) -> Iterator[Tensor]:
    if math.factorial(count) <= _EXACT:
        yield from map(torch.tensor, itertools.permutations(range(count)))
        return
    for k in range(resamples):
        yield permutation(count, generator(seed, "mantel", k))


def _bootstrap(
    kind: RankKind, a_TT: Tensor, b_TT: Tensor, resamples: int, seed: int, level: float
) -> tuple[float, float]:
    """Return the percentile interval over resampled tasks; resamples in which nothing has an order do not count."""
    count, found = len(a_TT), []
    for k in range(resamples):
        drawn = torch.randint(count, (count,), generator=generator(seed, "tasks", k), device="cpu")
        try:
            found.append(_off_diagonal(kind, a_TT, b_TT, drawn, drawn))
        except NotConverged:  # one task, or two whose entries are equal
            continue
    if len(found) < 2:
        raise NotConverged("rank correlation: no resample of the tasks has an order; more tasks are needed")
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.tensor(found, dtype=torch.float64), tails).tolist()
    return low, high


def _tasks(a_TT: Tensor, b_TT: Tensor) -> int:
    if a_TT.ndim != 2 or a_TT.shape != b_TT.shape or a_TT.shape[0] != a_TT.shape[1]:
        raise ShapeMismatch(f"expected two square matrices over tasks, found {tuple(a_TT.shape)}, {tuple(b_TT.shape)}")
    if len(a_TT) < 3:
        raise ConfigError(f"a rank correlation over tasks needs at least 3 tasks, found {len(a_TT)}")
    return len(a_TT)


def _pairs(x_N: Tensor, y_N: Tensor) -> Iterable[Tensor]:
    if x_N.ndim != 1 or x_N.shape != y_N.shape:
        raise ShapeMismatch(f"{tuple(x_N.shape)} and {tuple(y_N.shape)} values cannot be paired")
    return x_N, y_N


def _finite(values_N: Tensor) -> Tensor:
    if not bool(torch.isfinite(values_N).all()):
        raise NonFinite(f"{int((~torch.isfinite(values_N)).sum())} of {values_N.numel()} values are NaN or infinite")
    return values_N.double()


def _ratio(product: float, left: float, right: float) -> float:
    if not left * right > 0:
        raise NotConverged("rank correlation: all values of one side are equal, so they have no order")
    return product / math.sqrt(left * right)
