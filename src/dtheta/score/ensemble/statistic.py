"""Statistic of an ensemble: members and truth of one channel -> totals over the cells, which may only be added.

    total_r = sum_n w_rn v_n        v_n the value of cell n, w_rn its weight in region r (area, mask)
    mean_r  = total_r / sum_n w_rn

Totals of rows of cells, and of starts, add up, so a metric, which is a function of the means, may be streamed, split,
merged and bootstrapped (``score.metric``). An *additive* statistic is besides made of sums over the members, so that
the members too may come in any parts; the others (CRPS, energy score) need all members of a cell at once.

Shape legend: M members, R regions, ``cells`` (H, W) latitudes and longitudes, or any other, D degrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from dtheta.errors import ConfigError, did_you_mean

#: Where a metric should be: up, down, near 0, near 1, or nowhere by itself.
Aim = Literal["higher", "lower", "zero", "one", "none"]


class Transform(Protocol):
    """A spherical harmonic transform, such as `dtheta.core.sphere.SphericalTransform`."""

    def analyze(self, field: Tensor, /) -> Tensor:
        """Fields (..., H, W) -> coefficients."""
        ...

    def power_spectrum(self, coefficients: Tensor, /) -> Tensor:
        """Coefficients -> power of each degree (..., D)."""
        ...


@dataclass(frozen=True)
class Case:
    """What the members of one channel, at one start and lead, are held against.

    Attributes:
        truth: (*cells).
        weights: (R, *cells), float64.
        references: fields by name, (*cells) or (Q, *cells): climatology, thresholds, quantiles of the model climate.
        uniforms: gives random numbers (*cells) in [0, 1), the same at every call.
        transform: of the sphere, where there is one.
        where: words for errors: the channel, start and lead.
    """

    truth: Tensor
    weights: Tensor
    references: Mapping[str, Tensor]
    uniforms: Callable[[], Tensor]
    transform: Transform | None = None
    where: str = ""

    def bound(self, value: float | str) -> Tensor:
        """Return a threshold as a field: a number, or the name of a reference."""
        return self.reference(value) if isinstance(value, str) else torch.as_tensor(value, dtype=self.truth.dtype)

    def reference(self, name: str) -> Tensor:
        """Return a field (*cells) by its name.

        Raises:
            ConfigError: If there is none of this name, or it holds quantiles.
        """
        return self._named(name, self.truth.ndim, "one value a cell")

    def quantiles(self, name: str) -> Tensor:
        """Return quantiles (Q, *cells) by their name; errors are those of ``reference``."""
        return self._named(name, self.truth.ndim + 1, "quantiles first, (Q, *cells)")

    def _named(self, name: str, dimensions: int, wanted: str) -> Tensor:
        if name not in self.references:
            known = ", ".join(sorted(self.references)) or "none"
            raise ConfigError(
                f"{self.where}: no reference {name!r} was given (references: {known})"
                + did_you_mean(name, self.references)
            )
        found = self.references[name]
        if found.ndim != dimensions:
            raise ConfigError(f"{self.where}: reference {name!r} is {tuple(found.shape)}; expected {wanted}")
        return found


class EnsembleStatistic:
    """Base of the statistics; each is a frozen dataclass, whose class and fields are its identity.

    Attributes:
        needs: Names of the references that it reads.
        whole_field: True where rows of a field cannot be taken one by one.
        regional: False where a value belongs to the sphere, and regions have none.
    """

    whole_field: ClassVar[bool] = False
    regional: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the references that it reads."""
        return ()

    def totals(self, forecast_M: Tensor, case: Case) -> Tensor:
        """Members (M, *cells) and case -> weighted totals (R, *components), float64."""
        raise NotImplementedError


class AdditiveStatistic(EnsembleStatistic):
    """A statistic that is a function of sums over members."""

    def sums(self, forecast_M: Tensor, case: Case) -> tuple[Tensor, ...]:
        """Some of the members (M, *cells) -> tensors that add up over parts of the ensemble."""
        raise NotImplementedError

    def of_sums(self, sums: tuple[Tensor, ...], members: int, case: Case) -> Tensor:
        """The sums over all members -> weighted totals (R, *components), float64."""
        raise NotImplementedError

    def totals(self, forecast_M: Tensor, case: Case) -> Tensor:
        """Members (M, *cells) and case -> weighted totals (R, *components), float64."""
        return self.of_sums(self.sums(forecast_M, case), len(forecast_M), case)


class EnsembleMetric(Protocol):
    """A named function of the means of ensemble statistics: a `score.metric.Metric` whose targets are cases.

    A metric may also have these, each with a default:
        least_members: members without which it does not exist (1).
        scaled: True where it has the unit of the data (False).
        axis, columns: for curves, what the points and the columns of (..., points, columns) are ("", ()).
    """

    @property
    def name(self) -> str:
        """Short lower-case name, the key of results."""
        ...

    @property
    def better(self) -> Aim:
        """Where it should be."""
        ...

    @property
    def statistics(self) -> tuple[EnsembleStatistic, ...]:
        """The statistics whose means `of_means` takes, in that order."""
        ...

    def of_means(self, *means: Tensor) -> Tensor:
        """Means (..., *components) -> metric (...), or a curve (..., points) or (..., points, columns)."""
        ...


def trait(metric: EnsembleMetric, name: str, default: Any) -> Any:
    """Return one of the attributes that a metric may leave out."""
    return getattr(metric, name, default)


def require_pairs(members: int, where: str) -> None:
    """Raise ConfigError unless members can be pairs."""
    if members % 2:
        raise ConfigError(f"{where}: pairs of members are asked for, and there are {members}; give both of every pair")


def area_totals(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum_n w_rn v_n: values (*cells, *components), weights (R, *cells) -> (R, *components)."""
    cells = weights.ndim - 1
    return torch.tensordot(weights, values.to(weights), dims=cells) if cells else weights[:, None] * values


def names_of(*bounds: float | str | None) -> tuple[str, ...]:
    """Return the bounds that are names of references."""
    return tuple(bound for bound in bounds if isinstance(bound, str))
