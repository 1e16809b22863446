"""Power by degree: of the members, of their mean, and of the truth.

    P_l(f) = sum_m |f_lm|^2                       orders above 0 counted twice
    ratio  = mean P_l(x_i) / mean P_l(y)          flat near 1 at all leads: members stay as rough as the truth
             mean P_l(xbar) / mean P_l(y)         falls from high degrees on as members part; of anomalies, to 1 / M
                                                  when calibrated members have nothing in common any more

Means run over starts and members, then the ratio is taken. Where the mean state holds most of the power, as in the
lowest degrees, take anomalies (``climatology``). Mahesh et al. 2024 (arXiv 2408.03100) read ensembles in this way.

Shape legend: M members, D degrees, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.score.ensemble.statistic import AdditiveStatistic, Aim, Case, EnsembleStatistic, Transform


@dataclass(frozen=True)
class Spectra(AdditiveStatistic):
    """Power of the members, of the mean and of the truth, by degree: (D, 3) components.

    Attributes:
        climatology: Name of the reference that is taken off first; None for none.
    """

    climatology: str | None = None
    whole_field: ClassVar[bool] = True
    regional: ClassVar[bool] = False

    @property
    def needs(self) -> tuple[str, ...]:
        """The climatology, where there is one."""
        return () if self.climatology is None else (self.climatology,)

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """(M, H, W) -> sum of the members' power (D,), sum of their fields (H, W)."""
        anomalies = forecast_M if self.climatology is None else forecast_M - case.reference(self.climatology)
        return power(anomalies, _transform(case)).sum(0), anomalies.double().sum(0)

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """-> (R, D, 3), the same for every region."""
        transform = _transform(case)
        truth = case.truth if self.climatology is None else case.truth - case.reference(self.climatology)
        mean = (sums[1] / members).to(truth.dtype)
        spectra = torch.stack((sums[0] / members, power(mean, transform), power(truth, transform)), dim=-1)
        return case.weights.flatten(1).sum(1)[:, None, None] * spectra


def power(field: Tensor, transform: Transform) -> Tensor:
    """Return the power by degree (..., D), float64, of fields (..., H, W), in the precision of the transform."""
    precise = next(iter(getattr(transform, "buffers", list)()), field)
    coefficients = transform.analyze(field.to(precise.dtype) if precise.is_floating_point() else field)
    return transform.power_spectrum(coefficients).double()


def _transform(case: Case) -> Transform:
    if case.transform is None:
        raise ConfigError(
            f"{case.where}: spectra need a transform of the grid; give transform=SphericalTransform(grid, degree)"
        )
    return case.transform


@dataclass(frozen=True)
class SpectrumRatio:
    """Power by degree over that of the truth, of single ``"members"`` or of the ensemble ``"mean"``.

    Attributes:
        of: "members" or "mean".
        climatology: Name of the reference that is taken off first; None for none.
    """

    of: Literal["members", "mean"] = "members"
    climatology: str | None = None
    better: Aim = "one"
    axis: ClassVar[str] = "degree"

    def __post_init__(self) -> None:
        """Raise ConfigError for what has no spectrum."""
        if self.of not in ("members", "mean"):
            raise ConfigError(f"spectrum ratio: of={self.of!r} must be 'members' or 'mean'")

    @property
    def name(self) -> str:
        """Such as "spectrum_members" or "spectrum_mean"."""
        return f"spectrum_{self.of}"

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The three spectra."""
        return (Spectra(self.climatology),)

    def of_means(self, *means: Tensor) -> Tensor:
        """(..., D, 3) -> (..., D); NaN at degrees where the truth has no power."""
        (spectra,) = means
        truth = spectra[..., 2]
        ratio = spectra[..., 0 if self.of == "members" else 1] / truth
        return torch.where(truth > 0, ratio, torch.nan)
