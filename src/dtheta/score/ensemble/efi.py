"""Extreme forecast index: how far an ensemble lies in the tails of the model's own climate, from -1 to 1.

    EFI = (2 / pi) int_0^1 (p - F(p)) / sqrt(p (1 - p)) dp

F(p) is the share of members at or below the p-quantile of the climate (Lalaurette 2003, Q. J. R. Meteorol. Soc. 129,
3037; with this weight, Zsoter 2006, ECMWF Newsletter 107). The climate is known by Q quantiles at p_k = k / (Q - 1),
the first its minimum and the last its maximum; F is linear between them, as it is everywhere taken. Then each member
adds a share of its own, which depends only on the quantiles that it lies between, and the integral is exact:

    EFI = (1/M) sum_i g(k_i),     g(k) = (1 / (p_{k+1} - p_k)) int_{p_k}^{p_{k+1}} (4/pi) asin sqrt(p) - 1  dp
    int asin sqrt(p) dp = (p - 1/2) asin sqrt(p) + sqrt(p (1 - p)) / 2

with g = -1 for a member at or below the minimum and 1 above the maximum: all members above the climate give 1, no rule
for the ends of the integral is needed, and the index adds up over parts of the ensemble. A rule over stored quantiles,
as the trapezoid, fails at p = 0 and 1, where the weight is infinite.

Shape legend: M members, Q quantiles, R regions, B classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble.blocks import sorted_blocks
from dtheta.score.ensemble.statistic import AdditiveStatistic, Case
from dtheta.score.ensemble.tables import Event, class_totals


def efi(forecast: Tensor, climate: Tensor) -> Tensor:
    """Return the extreme forecast index of each cell.

    Args:
        forecast: Members first, (M, ...); the mean or the largest value of a day, as the climate has it.
        climate: Quantiles first, (Q, ...), at k / (Q - 1), rising; at least 2.

    Returns:
        (...), float64, in [-1, 1].

    Raises:
        ShapeMismatch: If the cells differ.
        ConfigError: For fewer than two quantiles, or quantiles that fall.
        NonFinite: If a value is NaN or infinite.
    """
    if forecast.shape[1:] != climate.shape[1:] or forecast.ndim != climate.ndim or not len(forecast):
        raise ShapeMismatch(
            f"efi: expected members (M, ...) and quantiles (Q, ...) of the same cells, found {tuple(forecast.shape)} "
            f"and {tuple(climate.shape)}"
        )
    if not bool(torch.isfinite(forecast).all()):
        raise NonFinite(f"efi: {int((~torch.isfinite(forecast)).sum())} values of the forecast are NaN or infinite")
    check_climate(climate, "efi: climate")
    return efi_sum(forecast, climate) / len(forecast)


def efi_sum(forecast_M: Tensor, climate_Q: Tensor) -> Tensor:
    """Return the sum of the members' shares (...), float64."""
    members, quantiles, shape = len(forecast_M), len(climate_Q), forecast_M.shape[1:]
    dtype = torch.promote_types(forecast_M.dtype, climate_Q.dtype)
    climate_QN, share = climate_Q.to(dtype).reshape(quantiles, -1), shares(quantiles).to(forecast_M.device)
    found = torch.empty(shape.numel(), dtype=torch.float64, device=forecast_M.device)
    for part, sorted_M in sorted_blocks(forecast_M.detach().reshape(members, -1)):
        # Quantiles are looked up among the sorted members, and not the other way: there are fewer of them.
        below = torch.searchsorted(sorted_M.to(dtype), climate_QN[:, part].T.contiguous(), right=True)
        ends = below.new_zeros(len(below), 1), below.new_full((len(below), 1), members)
        between = torch.cat((ends[0], below, ends[1]), dim=1).diff(dim=1)
        found[part] = between.double() @ share
    return found.reshape(shape)


def shares(quantiles: int) -> Tensor:
    """Return g (Q + 1,): of a member at or below the minimum, between quantiles k - 1 and k, and above the maximum."""
    p = torch.arange(quantiles, dtype=torch.float64) / (quantiles - 1)
    whole_integral = (p - 0.5) * torch.asin(p.sqrt()) + (p * (1 - p)).sqrt() / 2
    inside = (4 / math.pi) * whole_integral.diff() * (quantiles - 1) - 1
    ends = torch.ones(1, dtype=torch.float64)
    return torch.cat((-ends, inside, ends))


def check_climate(climate: Tensor, what: str) -> None:
    """Raise unless quantiles (Q, ...) are finite and rise.

    Raises:
        ConfigError: If they fall, or there are fewer than two.
        NonFinite: If one is NaN or infinite.
    """
    if len(climate) < 2:
        raise ConfigError(f"{what}: expected at least 2 quantiles along the first dimension, found {len(climate)}")
    if not bool(torch.isfinite(climate).all()):
        raise NonFinite(f"{what}: {int((~torch.isfinite(climate)).sum())} quantiles are NaN or infinite")
    if bool((climate.diff(dim=0) < 0).any()):
        raise ConfigError(f"{what}: quantiles must rise along the first dimension, from the minimum to the maximum")


@dataclass(frozen=True)
class EFITable(AdditiveStatistic):
    """The table of the EFI as a forecast of an event: (B + 1, 2) components, share and observed share of each class.

    Attributes:
        event: What it should warn of, such as a daily mean above the 95th percentile.
        climate: Name of the reference with the quantiles of the model climate.
        bins: B equal classes of [-1, 1]; 1 itself is the last class.
    """

    event: Event
    climate: str = "climate"
    bins: int = 100

    def __post_init__(self) -> None:
        """Raise ConfigError for a number of classes that cannot be meant."""
        whole(self.bins, "bins", least=1)

    @property
    def needs(self) -> tuple[str, ...]:
        """The climate, and the threshold where it is a reference."""
        return (self.climate, *self.event.needs)

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, *cells) -> sum of the members' shares (*cells)."""
        climate_Q = case.quantiles(self.climate)
        check_climate(climate_Q, f"{case.where}: climate {self.climate!r}")
        return (efi_sum(forecast_M, climate_Q),)

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, B + 1, 2)."""
        index = sums[0] / members
        happened = self.event.happens(case.truth, case).double()
        # Rounding of the sum must not move an index that is 1, -1 or on a class's edge by a class.
        classes = ((index + 1) / 2 * self.bins + 1e-9).floor().long().clamp(0, self.bins)
        return class_totals(classes, torch.stack((torch.ones_like(index), happened)), self.bins + 1, case.weights)
