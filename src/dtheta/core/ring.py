"""Fourier transform on a ring: what spherical harmonics are on the sphere, for fields of one axis that closes.

    f_k = sum_l c_l exp(2 pi i l k / K),   power_l = |c_l|^2, wave numbers above 0 twice; the sum is the mean square

Shape legend: K points, L wave numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.errors import ShapeMismatch


@dataclass(frozen=True)
class RingTransform:
    """Transform of real fields (..., K).

    Attributes:
        points: K.
    """

    points: int

    def analyze(self, field: Tensor) -> Tensor:
        """Return the coefficients (..., L), complex, of fields (..., K).

        Raises:
            ShapeMismatch: for another number of points.
        """
        if not field.ndim or field.shape[-1] != self.points:
            raise ShapeMismatch(f"field has the shape {tuple(field.shape)}; expected (..., {self.points})")
        return torch.fft.rfft(field, norm="forward")

    def power_spectrum(self, coefficients: Tensor) -> Tensor:
        """Return the power of each wave number, (..., L); it sums to the mean square of the field."""
        squares = coefficients.real.square() + coefficients.imag.square()
        twice = torch.full((squares.shape[-1],), 2.0, dtype=squares.dtype, device=squares.device)
        twice[0] = 1.0
        if self.points % 2 == 0:
            twice[-1] = 1.0  # the shortest wave has one phase only
        return twice * squares
