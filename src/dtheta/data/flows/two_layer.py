"""Two layers in quasi-geostrophic balance: height, stream function, potential vorticity and wind are one another.

    q1 = lap psi1 - F (psi1 - psi2),   q2 = lap psi2 + F (psi1 - psi2),   F = (a / Rd)^2
    so per degree, with n = l (l + 1):   q1 + q2 = -n (psi1 + psi2),   q1 - q2 = -(n + 2 F) (psi1 - psi2)
    z = f0 psi / g,   u = -dpsi/dlat,   v = (1/cos lat) dpsi/dlon

Lengths are in radii of the Earth and times in days; only z (m) and winds (m/s) have units of everyday. The means of psi
and q over the sphere (l = 0) are zero.

Shape legend: B batch, H latitudes, W longitudes, L degrees, O orders; planes are (O, 2, L, 2, B): real and imaginary
part, then upper and lower layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dtheta.core.arguments import require_like
from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform
from dtheta.core.sphere.transform import nhw, whn
from dtheta.core.sphere.vector import eigenvalues
from dtheta.errors import ShapeMismatch

EARTH_RADIUS = 6.371e6  # m
DAY = 86_400.0  # s
SPEED = EARTH_RADIUS / DAY  # m/s in one radius a day
HEIGHT = 1e-4 * EARTH_RADIUS**2 / DAY / 9.80665  # m in one unit of psi, f0 = 1e-4 / s
EARTH_ROTATION = 2 * math.pi  # radians a day


class TwoLayer(nn.Module):
    """The relations of balance at a truncation, and the transforms they take; its buffers are in no state dict."""

    barotropic_L11: Tensor
    baroclinic_L11: Tensor

    def __init__(self, grid: Grid, degree: int, deformation_radius: float, dtype: torch.dtype = torch.float32) -> None:
        """Compute the tables.

        Args:
            grid: where fields live.
            degree: of the triangular truncation.
            deformation_radius: Rd, in km.
            dtype: of the fields.
        """
        super().__init__()
        self.vector = VectorTransform(SphericalTransform(grid, degree, dtype=dtype))
        self.coupling = (EARTH_RADIUS / (1000 * deformation_radius)) ** 2
        n = -eigenvalues(degree + 1)
        for name, shift in (("barotropic", 0.0), ("baroclinic", 2 * self.coupling)):
            self.register_buffer(f"{name}_L11", -(n + shift).to(dtype)[:, None, None], persistent=False)

    @property
    def scalar(self) -> SphericalTransform:
        """The scalar transform."""
        return self.vector.scalar

    @property
    def grid(self) -> Grid:
        """Where fields live."""
        return self.scalar.grid

    def potential_vorticity(self, psi: Tensor) -> Tensor:
        """Return the planes of q, without the planet's part, of those of psi."""
        return self._modes(psi, self.barotropic_L11, self.baroclinic_L11)

    def invert(self, q: Tensor) -> Tensor:
        """Return the planes of psi of those of q; l = 0 does not count and is zero."""
        first = torch.arange(self.barotropic_L11.shape[0], device=q.device)[:, None, None] == 0
        inverse = [torch.where(first, 0.0, 1 / t) for t in (self.barotropic_L11, self.baroclinic_L11)]
        return self._modes(q, *inverse)

    @staticmethod
    def _modes(planes: Tensor, barotropic: Tensor, baroclinic: Tensor) -> Tensor:
        upper, lower = planes.split(1, 3)
        total, shear = (upper + lower) * (barotropic / 2), (upper - lower) * (baroclinic / 2)
        return torch.cat((total + shear, total - shear), 3)

    def psi_of(self, heights: Tensor) -> Tensor:
        """Return the planes of psi of heights (B, 2, H, W) in m.

        Raises:
            ShapeMismatch: heights of another grid, or not of two layers.
            ConfigError: heights of another dtype or device than the tables.
        """
        self.grid.check(heights, "heights")
        if heights.ndim != 4 or heights.shape[1] != 2:
            raise ShapeMismatch(
                f"heights have the shape {tuple(heights.shape)}; expected (B, 2, H, W), upper layer first"
            )
        require_like(heights, self.barotropic_L11, "heights")
        planes = self.scalar.to_planes(whn(heights.transpose(0, 1) / HEIGHT))
        return planes.unflatten(-1, (2, len(heights)))

    def heights_of(self, psi: Tensor) -> Tensor:
        """Return heights (B, 2, H, W) in m of the planes of psi."""
        field = self.scalar.from_planes(psi.flatten(3))
        return nhw(field * HEIGHT, (2, psi.shape[-1])).transpose(0, 1)

    def winds(self, heights: Tensor) -> tuple[Tensor, Tensor]:
        """Return eastward and northward wind (B, 2, H, W) in m/s of heights (B, 2, H, W) in m."""
        east, north = self.vector.gradient_planes(self.psi_of(heights).flatten(3))
        u, v = (nhw(wind * SPEED, (2, len(heights))).transpose(0, 1) for wind in (-north, east))
        return u, v
