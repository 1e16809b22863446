"""The spherical harmonic transform: fields on a grid to coefficients and back, differentiable and batched.

    f(lat, lon) = sum_l [ c_l0 P_l0 + sum_{m>0} 2 Re(c_lm P_lm exp(i m lon)) ]
    c_lm        = (1/2) sum_j w_j P_lm(mu_j) (1/W) sum_k f_jk exp(-i m lon_k)

P_lm has mean square 1 over the sphere, so the mean of f^2 over the sphere is sum_l (|c_l0|^2 + 2 sum_{m>0} |c_lm|^2),
and c_00 is the mean of f. Coefficients stand as a complex (..., L, O) table, zero where m > l.

Inside, the batch comes last and longitude first: then both halves, Fourier and Legendre, are matrix products whose
results already lie as the next one wants them. Real and imaginary parts are separate planes, no complex number is
touched. The Fourier half is a product too up to 192 longitudes, where it beats the fast transform; an FFT above.

Shape legend: H latitudes, W longitudes, L degrees, O orders, N everything else; 2 real and imaginary part.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.sphere.grid import Grid
from dtheta.core.sphere.legendre import legendre
from dtheta.errors import ConfigError, ShapeMismatch

_LONGEST_PRODUCT = 192  # longitudes; measured by bench/sht.py


class SphericalTransform(nn.Module):
    """Transform between a grid and the coefficients up to ``degree`` and ``order``; its buffers are in no state dict.

    Attributes:
        grid: the grid.
        degree: highest l; L = degree + 1.
        order: highest m; O = order + 1.
    """

    analysis_OLH: Tensor
    synthesis_OHL: Tensor
    forward_O2W: Tensor
    backward_WO2: Tensor

    def __init__(self, grid: Grid, degree: int, order: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        """Compute the tables in float64 and keep them in ``dtype``.

        Args:
            grid: where fields live.
            degree: highest l; fields of this degree must be told apart by the grid, see ``Grid.exact_degree``.
            order: highest m, at most ``degree``; None for ``degree``, the triangular truncation.
            dtype: of the fields that will be given, float32 or float64.

        Raises:
            ConfigError: a degree or order that the grid cannot resolve.
        """
        super().__init__()
        self.grid = grid
        self.degree = whole(degree, "degree", least=0)
        self.order = self.degree if order is None else whole(order, "order", least=0)
        _check_resolved(grid, self.degree, self.order)
        values = legendre(self.degree, self.order, grid.colatitudes)
        self._keep("analysis_OLH", values * grid.weights / 2, dtype)
        self._keep("synthesis_OHL", values.transpose(0, 2, 1), dtype)
        forward, backward = _fourier_tables(grid.nlon, self.order)
        self._keep("forward_O2W", forward, dtype)
        self._keep("backward_WO2", backward, dtype)

    def _keep(self, name: str, values: np.ndarray, dtype: torch.dtype) -> None:
        self.register_buffer(name, torch.tensor(np.ascontiguousarray(values), dtype=dtype), persistent=False)

    @property
    def shape(self) -> tuple[int, int]:
        """L and O."""
        return self.degree + 1, self.order + 1

    def analyze(self, field: Tensor) -> Tensor:
        """Return the coefficients (..., L, O), complex, of a real field (..., H, W).

        Exact for fields within degree and order; what lies above degree is aliased on an equiangular grid and, beyond
        2 H - 1 - degree, on a Gauss grid.

        Raises:
            ShapeMismatch: a field of another grid.
            ConfigError: a field of another dtype than the tables'.
        """
        self.grid.check(field)
        self._check_precision(field)
        planes = self.to_planes(whn(field))
        return from_planes(planes, field.shape[:-2])

    def synthesize(self, coefficients: Tensor) -> Tensor:
        """Return the real field (..., H, W) of complex coefficients (..., L, O).

        Imaginary parts at m = 0 and whatever stands where m > l do not count.

        Raises:
            ShapeMismatch: coefficients of another truncation.
            ConfigError: coefficients of another dtype than the tables'.
        """
        self.check(coefficients)
        self._check_precision(coefficients.real)
        return nhw(self.from_planes(to_planes(coefficients)), coefficients.shape[:-2])

    def _check_precision(self, values: Tensor) -> None:
        kept = self.analysis_OLH.dtype
        if values.dtype != kept:
            raise ConfigError(
                f"values are {values.dtype} and the tables of this transform {kept}; convert them, or make it with "
                f"dtype={values.dtype if values.is_floating_point() else torch.float32}"
            )

    def check(self, coefficients: Tensor) -> None:
        """Raise unless a tensor holds coefficients of this transform.

        Raises:
            ShapeMismatch: naming both shapes.
        """
        if not coefficients.is_complex() or tuple(coefficients.shape[-2:]) != self.shape:
            raise ShapeMismatch(
                f"coefficients are {coefficients.dtype} of shape {tuple(coefficients.shape)}; expected complex "
                f"(..., {self.degree + 1}, {self.order + 1}), degrees and orders"
            )

    def truncate(self, field: Tensor) -> Tensor:
        """Return the part of a field (..., H, W) within degree and order."""
        return self.synthesize(self.analyze(field))

    def power_spectrum(self, coefficients: Tensor) -> Tensor:
        """Return the power of each degree, (..., L); it sums to the mean square of the field over the sphere."""
        self.check(coefficients)
        return power_spectrum(coefficients)

    def to_planes(self, field_WHN: Tensor) -> Tensor:
        """Return the coefficients (O, 2, L, N) of fields (W, H, N): ``analyze`` without any change of layout."""
        return torch.matmul(self.analysis_OLH[:, None], self.fourier(field_WHN))

    def from_planes(self, planes_O2LN: Tensor) -> Tensor:
        """Return the fields (W, H, N) of coefficients (O, 2, L, N): ``synthesize`` without any change of layout."""
        return self.inverse_fourier(torch.matmul(self.synthesis_OHL[:, None], planes_O2LN))

    def fourier(self, field_WHN: Tensor) -> Tensor:
        """Return the Fourier coefficients (O, 2, H, N) of the rows of fields (W, H, N)."""
        width, rows, count = field_WHN.shape
        orders = self.order + 1
        if width <= _LONGEST_PRODUCT:
            product = self.forward_O2W.flatten(0, 1) @ field_WHN.reshape(width, rows * count)
            return product.view(orders, 2, rows, count)
        found = torch.fft.rfft(field_WHN, dim=0, norm="forward")[:orders]
        return torch.stack((found.real, found.imag), 1)

    def inverse_fourier(self, rows_O2HN: Tensor) -> Tensor:
        """Return the fields (W, H, N) of the Fourier coefficients (O, 2, H, N) of their rows."""
        width, (orders, _, rows, count) = self.grid.nlon, rows_O2HN.shape
        if width <= _LONGEST_PRODUCT:
            product = self.backward_WO2.flatten(1) @ rows_O2HN.reshape(2 * orders, rows * count)
            return product.view(width, rows, count)
        found = torch.complex(rows_O2HN[:, 0], rows_O2HN[:, 1])
        return torch.fft.irfft(found, n=width, dim=0, norm="forward")


def whn(field: Tensor) -> Tensor:
    """Return fields (..., H, W) with longitude first and the rest last, (W, H, N)."""
    return field.reshape(-1, *field.shape[-2:]).permute(2, 1, 0)


def nhw(field_WHN: Tensor, leading: torch.Size | tuple[int, ...]) -> Tensor:
    """Return fields (W, H, N) as (*leading, H, W)."""
    width, rows, _ = field_WHN.shape
    return field_WHN.permute(2, 1, 0).reshape(*leading, rows, width)


def to_planes(coefficients: Tensor) -> Tensor:
    """Return complex coefficients (..., L, O) as planes (O, 2, L, N)."""
    flat = coefficients.reshape(-1, *coefficients.shape[-2:]).permute(2, 1, 0)
    return torch.stack((flat.real, flat.imag), 1)


def from_planes(planes_O2LN: Tensor, leading: torch.Size | tuple[int, ...]) -> Tensor:
    """Return planes (O, 2, L, N) as complex coefficients (*leading, L, O)."""
    orders, _, degrees, _ = planes_O2LN.shape
    flat = torch.complex(planes_O2LN[:, 0], planes_O2LN[:, 1])
    return flat.permute(2, 1, 0).reshape(*leading, degrees, orders)


def power_spectrum(coefficients: Tensor) -> Tensor:
    """Return sum_m |c_lm|^2 of coefficients (..., L, O), orders above 0 counted twice; shape (..., L)."""
    squares = coefficients.real.square() + coefficients.imag.square()
    return 2 * squares.sum(-1) - squares[..., 0]


def _check_resolved(grid: Grid, degree: int, order: int) -> None:
    if degree > grid.exact_degree:
        wanted = degree + 1 if grid.kind == "gauss" else 2 * degree + 1
        raise ConfigError(
            f"degree {degree} needs {wanted} latitudes of a {grid.kind} grid, and this one has {grid.nlat}; "
            f"degree can be at most {grid.exact_degree} here"
        )
    if order > degree:
        raise ConfigError(f"order {order} is above degree {degree}, and no harmonic has m > l")
    if 2 * order >= grid.nlon:
        raise ConfigError(f"order {order} needs more than {2 * order} longitudes, and this grid has {grid.nlon}")


def _fourier_tables(width: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices of the Fourier transform (O, 2, W) and of its inverse (W, O, 2), for real rows."""
    m = np.arange(order + 1)
    turns = np.outer(m, np.arange(width)) % width  # whole turns taken off before rounding enters
    angles = turns * (2 * math.pi / width)
    forward = np.stack((np.cos(angles), -np.sin(angles)), 1) / width
    twice = np.where(m == 0, 1.0, 2.0)[:, None, None]
    backward = np.stack((np.cos(angles), -np.sin(angles)), 1) * twice
    return forward, backward.transpose(2, 0, 1)
