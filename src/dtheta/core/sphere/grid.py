"""Grids on the sphere: rows of latitude from north to south, columns of longitude from 0 degrees eastward.

    gauss          mu_j are the zeros of the Legendre polynomial P_H; no row at a pole; quadrature exact to 2H - 1
    equiangular    equal steps from pole to pole, both included, as weather archives store (H = 721: a quarter degree);
                   Clenshaw-Curtis quadrature, exact to H - 1

with mu = sin(latitude). The quadrature weights of the rows are at once the weights of area means: they sum to 2, the
length of [-1, 1].

Shape legend: H latitudes, W longitudes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.errors import ConfigError, ShapeMismatch

Kind = Literal["gauss", "equiangular"]
Vector: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """A grid of ``nlat`` x ``nlon`` points; all its arrays are float64 and not to be written to.

    Attributes:
        nlat: H, 2 or more.
        nlon: W, 1 or more.
        kind: "gauss" or "equiangular".
    """

    nlat: int
    nlon: int
    kind: Kind = "gauss"

    def __post_init__(self) -> None:
        """Raise ConfigError for a grid that cannot be meant."""
        for name, least in (("nlat", 2), ("nlon", 1)):
            object.__setattr__(self, name, whole(getattr(self, name), name, least=least))
        if self.kind not in get_args(Kind):
            raise ConfigError(f"kind of a grid must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return self.nlat, self.nlon

    @property
    def exact_degree(self) -> int:
        """Highest degree of fields that the quadrature tells apart exactly: products of two of them are integrated."""
        return self.nlat - 1 if self.kind == "gauss" else (self.nlat - 1) // 2

    @cached_property
    def _rows(self) -> tuple[Vector, Vector]:
        """Colatitudes in radians and quadrature weights, north to south."""
        return _gauss(self.nlat) if self.kind == "gauss" else _clenshaw_curtis(self.nlat)

    @property
    def colatitudes(self) -> Vector:
        """Angles from the north pole (H,), in radians."""
        return self._rows[0]

    @property
    def latitudes(self) -> Vector:
        """Latitudes (H,) in degrees, north to south."""
        return 90.0 - np.rad2deg(self._rows[0])

    @property
    def longitudes(self) -> Vector:
        """Longitudes (W,) in degrees, from 0 eastward."""
        return 360.0 * np.arange(self.nlon) / self.nlon

    @property
    def weights(self) -> Vector:
        """Quadrature weights (H,) of the rows in sin(latitude); they sum to 2."""
        return self._rows[1]

    def area_HW(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """Return the area weights (H, W) of the points, of mean 1 over the grid."""
        rows = torch.tensor(self.weights) * (self.nlat / 2)
        return rows.to(dtype)[:, None].expand(self.shape).contiguous()

    def mean(self, field: Tensor) -> Tensor:
        """Return the area mean of ``field`` (..., H, W), shape (...)."""
        self.check(field)
        rows = torch.tensor(self.weights / 2, dtype=field.dtype, device=field.device)
        return field.mean(-1) @ rows

    def check(self, field: Tensor, what: str = "field") -> None:
        """Raise unless a tensor lies on this grid.

        Raises:
            ShapeMismatch: naming both shapes.
        """
        if field.ndim < 2 or tuple(field.shape[-2:]) != self.shape:
            raise ShapeMismatch(
                f"{what} has the shape {tuple(field.shape)}; expected (..., {self.nlat}, {self.nlon}), the latitudes "
                f"(north to south) and longitudes of the {self.kind} grid"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return {"nlat": self.nlat, "nlon": self.nlon, "kind": self.kind}


def _gauss(count: int) -> tuple[Vector, Vector]:
    """Return the colatitudes of the zeros of P_count and their weights, by Newton's method in the angle.

    In the angle, not in mu, rows near the poles keep their last digits (Swarztrauber 2003, SIAM J. Sci. Comput. 24).
    """
    theta: Vector = np.pi * (np.arange(1, count + 1, dtype=np.float64) - 0.25) / (count + 0.5)
    slope = np.ones(count)
    for _ in range(6):
        value, slope = _legendre(count, theta)
        theta -= value / slope
    theta += (np.pi - theta - theta[::-1]) / 2  # the symmetry that rounding breaks
    _, slope = _legendre(count, theta)
    weights = 2.0 / slope**2
    weights = (weights + weights[::-1]) / 2
    return _frozen(theta), _frozen(weights * (2.0 / weights.sum()))


def _legendre(degree: int, theta: Vector) -> tuple[Vector, Vector]:
    """Return P_degree(cos theta) and its derivative in theta."""
    mu = np.cos(theta)
    before, value = np.ones_like(mu), mu
    for n in range(2, degree + 1):
        before, value = value, ((2 * n - 1) * mu * value - (n - 1) * before) / n
    return value, degree * (mu * value - before) / np.sin(theta)


def _clenshaw_curtis(count: int) -> tuple[Vector, Vector]:
    """Return ``count`` equal steps from pole to pole and the weights that integrate cos(k theta) sin(theta) exactly."""
    steps = count - 1
    theta = np.pi * np.arange(count) / steps
    k = np.arange(steps // 2 + 1)
    factor = np.where((k == 0) | (2 * k == steps), 1.0, 2.0) / (1.0 - 4.0 * k**2)
    weights = (np.cos(2 * np.outer(theta, k)) @ factor) * (2.0 / steps)
    weights[[0, -1]] /= 2
    return _frozen(theta), _frozen((weights + weights[::-1]) / 2)


def _frozen(values: Vector) -> Vector:
    values.setflags(write=False)
    return values
