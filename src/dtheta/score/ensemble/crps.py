"""Continuous ranked probability score, exact, by one sort of the members.

    CRPS      = (1/M) sum_i |x_i - y|  -  (1/(2 M^2)) sum_ij |x_i - x_j|          the ensemble as it stands
    fair CRPS = (1/M) sum_i |x_i - y|  -  (1/(2 M (M - 1))) sum_ij |x_i - x_j|    as of infinitely many members
    sum_ij |x_i - x_j| = 2 sum_i (2 i - M - 1) x_(i)                              x_(1) <= ... <= x_(M)

Ferro 2014 (Q. J. R. Meteorol. Soc. 140, 1917), fair scores; Gneiting and Ranjan 2011 (J. Bus. Econ. Stat. 29, 411),
threshold weights: between bounds the score is that of the values clamped to them, members and truth alike.

"Fair" holds for members that are exchangeable. Those of a pair of opposite sign are not: they are farther apart than
two independent members, and a small ensemble of pairs scores too well. Its fair CRPS takes distances between members of
different pairs only: M (M - 2) in the place of M (M - 1), and pairs that are exchangeable are enough.

The members are taken relative to the truth, so nothing cancels in float32, sorted in blocks of cells, and summed in
float64: M log M operations for a cell, and no temporary beyond a block.

Shape legend: M members, N cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble.blocks import sorted_blocks
from dtheta.score.ensemble.statistic import Aim, Case, EnsembleStatistic, area_totals, names_of, require_pairs

Bound = float | Tensor | None


def crps(forecast: Tensor, truth: Tensor, *, fair: bool = True, above: Bound = None, below: Bound = None) -> Tensor:
    """Return the CRPS of each cell, in the unit of the data; lower is better.

    Args:
        forecast: Members first, (M, ...).
        truth: (...).
        fair: Whether as of an infinite ensemble of such members; needs two of them.
        above: Only what happens above this threshold counts: a number or a tensor (...). None for no threshold.
        below: Only what happens below this one counts.

    Returns:
        (...), float64. A fair score may be negative, its mean is not for a perfect forecast of many cases.

    Raises:
        ShapeMismatch: If the cells of forecast and truth differ.
        ConfigError: For one member and ``fair``.
        NonFinite: If a value is NaN or infinite.
    """
    _check(forecast, truth, fair)
    if above is not None or below is not None:
        forecast, truth = clamped(forecast, truth, above, below)
    error, biased, unbiased = crps_terms(forecast, truth)
    score = error - (unbiased if fair else biased)
    if not bool(torch.isfinite(score).all()):
        raise NonFinite(f"crps: {int((~torch.isfinite(score)).sum())} of {score.numel()} cells have NaN or infinity")
    return score


def crps_terms(forecast: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean |x - y|, and half the mean |x_i - x_j| over all pairs and over pairs of two, each (...), float64.

    The last is 0 for one member, where it does not exist.
    """
    members, shape = len(forecast), truth.shape
    forecast, truth = _floating(forecast).detach().reshape(members, -1), _floating(truth).detach().reshape(-1)
    weights = 2.0 * torch.arange(1, members + 1, dtype=torch.float64, device=forecast.device) - members - 1
    error, spread = torch.empty(2, truth.numel(), dtype=torch.float64, device=forecast.device)
    for part, from_truth in sorted_blocks(forecast, truth):
        spread[part], error[part] = _sums(from_truth, weights)
    error /= members
    terms = error, spread / members**2, spread / max(members * (members - 1), 1)
    return terms[0].reshape(shape), terms[1].reshape(shape), terms[2].reshape(shape)


def _sums(from_truth_bM: Tensor, weights_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return sum_i w_i x_(i) and sum_i |x_i| of each cell (b,), float64."""
    if from_truth_bM.device.type != "cpu":
        wide = from_truth_bM.double()
        return wide @ weights_M, wide.abs().sum(dim=1)
    wide_bM = from_truth_bM.numpy().astype(np.float64)  # in NumPy: torch asks for new pages for every block
    with np.errstate(invalid="ignore"):  # infinity, which the caller refuses
        weighted = wide_bM @ weights_M.numpy()
    return torch.from_numpy(weighted), torch.from_numpy(np.abs(wide_bM, out=wide_bM).sum(axis=1))


def clamped(forecast: Tensor, truth: Tensor, above: Bound, below: Bound) -> tuple[Tensor, Tensor]:
    """Return both with values below ``above`` raised to it, and values above ``below`` lowered to it."""
    # In one dtype: a bound rounded differently for members and truth would be a distance between them.
    forecast, truth = _floating(forecast), _floating(truth)
    dtype = torch.promote_types(forecast.dtype, truth.dtype)
    for bound, limit in ((above, torch.maximum), (below, torch.minimum)):
        if bound is not None:
            edge = torch.as_tensor(bound, dtype=dtype, device=forecast.device)
            forecast, truth = limit(forecast.to(dtype), edge), limit(truth.to(dtype), edge)
    return forecast, truth


def _floating(values: Tensor) -> Tensor:
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.float() if values.is_floating_point() else values.double()


def _check(forecast: Tensor, truth: Tensor, fair: bool) -> None:
    if forecast.ndim < 1 or forecast.shape[1:] != truth.shape or not len(forecast):
        raise ShapeMismatch(
            f"crps: expected a forecast (members, {', '.join(map(str, truth.shape))}) for a truth of shape "
            f"{tuple(truth.shape)}, found {tuple(forecast.shape)}"
        )
    if fair and len(forecast) < 2:
        raise ConfigError("crps: the fair score needs at least 2 members, found 1; use fair=False for the mean error")


@dataclass(frozen=True)
class CRPSTerms(EnsembleStatistic):
    """mean |x - y|, and half the mean distance of members, with themselves and without: 3 components.

    Attributes:
        pairs: Whether members 2 k and 2 k + 1 are a pair, whose distance is then left out of the last component.
        above: Threshold below which nothing counts: a number, the name of a reference, or None.
        below: Threshold above which nothing counts.
    """

    above: float | str | None = None
    below: float | str | None = None
    pairs: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The thresholds that are references."""
        return names_of(self.above, self.below)

    def totals(self, forecast_M: Tensor, case: Case) -> Tensor:
        """(M, *cells) -> (R, 3)."""
        bounds = [None if bound is None else case.bound(bound) for bound in (self.above, self.below)]
        truth = case.truth
        if bounds != [None, None]:
            forecast_M, truth = clamped(forecast_M, truth, *bounds)
        error, biased, unbiased = crps_terms(forecast_M, truth)
        if self.pairs:
            require_pairs(len(forecast_M), case.where)
            unbiased = _between_pairs(forecast_M, unbiased)
        return area_totals(torch.stack((error, biased, unbiased), dim=-1), case.weights)


def _between_pairs(forecast_M: Tensor, unbiased: Tensor) -> Tensor:
    """Return half the mean distance of members of different pairs, from that of all members."""
    members = len(forecast_M)
    within = (forecast_M[::2].double() - forecast_M[1::2].double()).abs().sum(0)
    return (members * (members - 1) * unbiased - within) / max(members * (members - 2), 1)


@dataclass(frozen=True)
class CRPS:
    """Continuous ranked probability score, in the unit of the data, with the thresholds of `CRPSTerms`.

    Attributes:
        fair: Whether as of an infinite ensemble of such members.
        above: Only what happens above this threshold counts: a number, the name of a reference, or None.
        below: Only what happens below this one counts.
        pairs: Whether members 2 k and 2 k + 1 are a pair, as `cross` has them, of which only the pair is independent.
    """

    fair: bool = True
    above: float | str | None = None
    below: float | str | None = None
    pairs: bool = False
    better: Aim = "lower"
    scaled: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ConfigError for pairs without a fair score."""
        if self.pairs and not self.fair:
            raise ConfigError("CRPS: pairs are of the fair score; the biased one is of the ensemble as it stands")

    @property
    def name(self) -> str:
        """Such as "crps", "crps_above_p95", with "_biased" where it is not fair, or "_pairs"."""
        bounds = (("above", self.above), ("below", self.below))
        words = [word for name, bound in bounds if bound is not None for word in (name, f"{bound}")]
        return "_".join(["crps", *words, *([] if self.fair else ["biased"]), *(["pairs"] if self.pairs else [])])

    @property
    def least_members(self) -> int:
        """Two where it is fair, two pairs where they are pairs."""
        return 4 if self.pairs else 2 if self.fair else 1

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The three terms."""
        return (CRPSTerms(self.above, self.below, self.pairs),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        (terms,) = means
        return terms[..., 0] - terms[..., 2 if self.fair else 1]
