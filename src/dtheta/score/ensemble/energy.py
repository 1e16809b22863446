"""Energy score: the CRPS of whole fields, which sees whether members have the right patterns, not only margins.

    ES      = (1/M) sum_i |x_i - y|  -  (1/(2 M^2)) sum_ij |x_i - x_j|       |.| = sqrt of the area mean of the square
    fair ES : 1/(2 M (M - 1)) in the place of 1/(2 M^2)

Gneiting and Raftery 2007 (J. Am. Stat. Assoc. 102, 359). For a field of one cell it is the CRPS. It is a score of one
channel in one region: fields of several units have no distance without weights, which the user would have to choose.
M^2 distances of N cells by matrix products, in blocks of members: 1.6e12 operations for 10,000 members of 64 x 128.

Shape legend: M members, N cells, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble.statistic import Aim, Case, EnsembleStatistic

_BLOCK = 512  # members whose distances to all others are held at a time


def energy_score(forecast: Tensor, truth: Tensor, weights: Tensor | None = None, *, fair: bool = True) -> float:
    """Return the energy score of one field, in the unit of the data; lower is better.

    Args:
        forecast: Members first, (M, *cells).
        truth: (*cells).
        weights: (*cells), such as areas; only their ratios count. None for equal ones.
        fair: Whether as of an infinite ensemble of such members; needs two of them.

    Raises:
        ShapeMismatch: If cells differ.
        ConfigError: For one member and ``fair``, or weights without a positive sum.
        NonFinite: If the score is not finite.
    """
    weights = torch.ones_like(truth, dtype=torch.float64) if weights is None else weights
    if not len(forecast) or forecast.shape[1:] != truth.shape or weights.shape != truth.shape:
        shapes = ", ".join(str(tuple(t.shape)) for t in (forecast, truth, weights))
        raise ShapeMismatch(f"energy score: expected (M, *cells), (*cells) and (*cells), found {shapes}")
    if fair and len(forecast) < 2:
        raise ConfigError("energy score: the fair score needs at least 2 members, found 1; use fair=False")
    if not bool((weights >= 0).all()) or not float(weights.sum()) > 0:
        raise ConfigError("energy score: expected weights >= 0 with a positive sum")
    error, biased, unbiased = energy_terms(forecast.flatten(1), truth.flatten(), weights.flatten()).tolist()
    score = error - (unbiased if fair else biased)
    if not torch.isfinite(torch.tensor(score)):
        raise NonFinite("energy score: the forecast or the truth has NaN or infinite values")
    return score


def energy_terms(forecast_MN: Tensor, truth_N: Tensor, weights_N: Tensor) -> Tensor:
    """Return mean |x - y|, and half the mean |x_i - x_j| over all pairs and over pairs of two: (3,), float64."""
    members = len(forecast_MN)
    root_N = (weights_N.double() / weights_N.sum()).sqrt()
    seen = root_N > 0
    scaled_MN = (forecast_MN[:, seen].double() - truth_N[seen].double()) * root_N[seen]
    squares_M = scaled_MN.square().sum(1)
    pairs = sum(float(_distances(scaled_MN, squares_M, start).sum()) for start in range(0, members, _BLOCK))
    both = torch.tensor([members**2, max(members * (members - 1), 1)], dtype=torch.float64)
    return torch.cat((squares_M.sqrt().mean()[None].cpu(), pairs / 2 / both))


def _distances(x_MN: Tensor, squares_M: Tensor, start: int) -> Tensor:
    """Return the distances of a block of rows to all rows; a row's to itself is 0 and not what rounding left."""
    block = slice(start, start + _BLOCK)
    squares = squares_M[block, None] + squares_M[None] - 2 * x_MN[block] @ x_MN.T
    rows = torch.arange(len(squares), device=squares.device)
    squares[rows, start + rows] = 0
    return squares.clamp_(min=0).sqrt_()


@dataclass(frozen=True)
class EnergyTerms(EnsembleStatistic):
    """The three terms of the energy score: 3 components."""

    whole_field: ClassVar[bool] = True

    def totals(self, forecast_M: Tensor, case: Case) -> Tensor:
        """(M, *cells) -> (R, 3), the score of a field weighted as all its cells."""
        members, truth = forecast_M.flatten(1), case.truth.flatten()
        found = case.weights.new_zeros(len(case.weights), 3)
        for r, weights in enumerate(case.weights.flatten(1)):
            if bool(weights.any()):  # a mask may leave nothing of a region
                found[r] = energy_terms(members, truth, weights).to(found) * weights.sum()
        return found


@dataclass(frozen=True)
class EnergyScore:
    """Energy score of the field of a channel, in the unit of the data; ``fair`` as of an infinite ensemble."""

    fair: bool = True
    better: Aim = "lower"
    statistics: tuple[EnsembleStatistic, ...] = (EnergyTerms(),)
    scaled: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """Such as "energy", or "energy_biased"."""
        return "energy" if self.fair else "energy_biased"

    @property
    def least_members(self) -> int:
        """Two where it is fair."""
        return 2 if self.fair else 1

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., 3) -> (...)."""
        (terms,) = means
        return terms[..., 0] - terms[..., 2 if self.fair else 1]
