"""Vector analysis on the sphere: gradients, winds, vorticity and divergence, the Laplacian and its inverse.

    grad f       = ( (1/cos lat) df/dlon, df/dlat ) / a
    laplacian    : c_lm -> -l (l + 1) / a^2 c_lm;  its inverse sets l = 0 to zero
    u, v         = -dpsi/dlat + (1/cos) dchi/dlon,  (1/cos) dpsi/dlon + dchi/dlat,   psi, chi = inverse laplacian of
                   vorticity and divergence
    vorticity_lm = (1/2) sum_j w_j (i E_lm v_m + D_lm u_m) / a
    divergence_lm = (1/2) sum_j w_j (i E_lm u_m - D_lm v_m) / a,   E = m P / cos lat, D = dP/dlat

the last two by parts, so that winds, which are no smooth scalars at the poles, are never differenced.

Shape legend: H latitudes, W longitudes, L degrees, O orders, N everything else; 2 real and imaginary part.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dtheta.core.arguments import positive
from dtheta.core.sphere.legendre import derivatives
from dtheta.core.sphere.transform import SphericalTransform, from_planes, nhw, to_planes, whn
from dtheta.errors import ShapeMismatch


class VectorTransform(nn.Module):
    """Vector transforms on the grid and truncation of a scalar one; its buffers are in no state dict.

    Attributes:
        scalar: the scalar transform.
        radius: a, in the unit of length; winds per radius are then per unit of length.
    """

    east_OHL: Tensor
    north_OHL: Tensor
    east_OLH: Tensor
    north_OLH: Tensor

    def __init__(self, scalar: SphericalTransform, radius: float = 1.0) -> None:
        """Compute the tables of derivatives.

        Raises:
            ConfigError: a radius that is not positive.
        """
        super().__init__()
        self.scalar = scalar
        self.radius = positive(radius, "radius")
        grid, dtype = scalar.grid, scalar.analysis_OLH.dtype
        for name, values in zip(
            ("east", "north"), derivatives(scalar.degree, scalar.order, grid.colatitudes), strict=True
        ):
            tables = {"OLH": values * grid.weights / 2, "OHL": values.transpose(0, 2, 1)}
            for layout, table in tables.items():
                kept = torch.tensor(np.ascontiguousarray(table / self.radius), dtype=dtype)
                self.register_buffer(f"{name}_{layout}", kept, persistent=False)

    def gradient(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the eastward and northward derivative (..., H, W) of a scalar's coefficients (..., L, O)."""
        self.scalar.check(coefficients)
        east, north = self.gradient_planes(to_planes(coefficients))
        leading = coefficients.shape[:-2]
        return nhw(east, leading), nhw(north, leading)

    def gradient_planes(self, planes_O2LN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the eastward and northward derivative (W, H, N) of coefficients (O, 2, L, N)."""
        count = planes_O2LN.shape[-1]
        rows = torch.cat(
            (
                torch.matmul(self.east_OHL[:, None], times_i(planes_O2LN)),
                torch.matmul(self.north_OHL[:, None], planes_O2LN),
            ),
            -1,
        )
        east, north = self.scalar.inverse_fourier(rows).split(count, -1)
        return east, north

    def jacobian(self, first: Tensor, second: Tensor) -> Tensor:
        """Return J(a, b) = grad a x grad b = a_east b_north - a_north b_east on the grid, of coefficients.

        The advection of b by the flow with stream function a.
        """
        (a_east, a_north), (b_east, b_north) = self.gradient(first), self.gradient(second)
        return a_east * b_north - a_north * b_east

    def winds(self, vorticity: Tensor, divergence: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return eastward and northward wind (..., H, W) of vorticity and divergence (..., L, O).

        No divergence is one of zero. What vorticity and divergence have at l = 0 does not count.
        """
        east, north = self.gradient(inverse_laplacian(vorticity, self.radius))
        if divergence is None:
            return -north, east
        chi_east, chi_north = self.gradient(inverse_laplacian(divergence, self.radius))
        return chi_east - north, east + chi_north

    def vorticity_divergence(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients (..., L, O) of vorticity and divergence of a wind (..., H, W).

        Raises:
            ShapeMismatch: winds of another grid, or of two shapes.
        """
        self.scalar.grid.check(u, "u")
        if u.shape != v.shape:
            raise ShapeMismatch(f"u has the shape {tuple(u.shape)} and v {tuple(v.shape)}; expected one shape")
        u_rows, v_rows = (self.scalar.fourier(whn(wind)) for wind in (u, v))
        east, north = self.east_OLH[:, None], self.north_OLH[:, None]
        vorticity = torch.matmul(east, times_i(v_rows)) + torch.matmul(north, u_rows)
        divergence = torch.matmul(east, times_i(u_rows)) - torch.matmul(north, v_rows)
        leading = u.shape[:-2]
        return from_planes(vorticity, leading), from_planes(divergence, leading)


def times_i(planes_O2LN: Tensor) -> Tensor:
    """Return planes (O, 2, ...) of real and imaginary parts, multiplied with i."""
    return torch.stack((-planes_O2LN[:, 1], planes_O2LN[:, 0]), 1)


def eigenvalues(degrees: int, radius: float = 1.0, like: Tensor | None = None) -> Tensor:
    """Return -l (l + 1) / radius^2 of l = 0 ... degrees - 1, (L,), in the real dtype and on the device of ``like``."""
    n = torch.arange(degrees, dtype=torch.float64)
    found = -n * (n + 1) / radius**2
    return found if like is None else found.to(like.device, like.real.dtype)


def laplacian(coefficients: Tensor, radius: float = 1.0) -> Tensor:
    """Return the coefficients (..., L, O) of the Laplacian of a field, per unit of length squared."""
    return coefficients * eigenvalues(coefficients.shape[-2], radius, coefficients)[:, None]


def inverse_laplacian(coefficients: Tensor, radius: float = 1.0) -> Tensor:
    """Return the coefficients (..., L, O) of the field of mean zero whose Laplacian is given; l = 0 does not count."""
    values = eigenvalues(coefficients.shape[-2], radius, coefficients)
    inverse = torch.where(values == 0, torch.zeros_like(values), 1 / values)
    return coefficients * inverse[:, None]
