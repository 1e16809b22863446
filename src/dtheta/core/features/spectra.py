"""The functions f as mixtures of exponentials, which universal random features estimate one by one.

    f(z) = slope z + E_omega[Re(c(omega) (exp(a z) - centered))],   a = i omega (or 1 for exp),   c = turn F / p

Omega = 2 pi xi > 0 stands for the pair +-xi of the Fourier transform, whose two estimates are conjugate for a real f:
their mean is the real part, so the estimate is exactly real. F is the density of the pair on (0, inf), p the density
that omega is drawn from:

    function    a        F(omega)                                      turn   p
    exp         1        -                                             1      -
    sin, cos    i        an atom at omega = 1                          -i, 1  -
    gaussian    i omega  sqrt(2/pi) exp(-omega^2/2)                    1      normal(tilt, 1) on omega > 0
    gelu        i omega  (1 + omega^-2) exp(-omega^2/2) / pi           -1     normal(tilt, 1) on omega > 0
    tanh        i omega  1 / sinh(pi omega / 2)                        -i     gamma(1/2, rate pi/2 - tilt)

GELU is z/2 + z erf(z / sqrt 2) / 2. The first part is linear, a dot product, and stays exact. The second is even, with
second derivative (2 - z^2) exp(-z^2/2) / sqrt(2 pi), whose transform is (1 + omega^2) exp(-omega^2/2); integrated twice
from 0 it is the integral of F(omega) (1 - cos(omega z)): "centered". The 1 is a constant feature.

The tilt moves draws to high frequencies, whose estimates vary most: a draw's second moment grows like exp(omega s), s
the squared norm of the balanced x + w, and F exp(omega s / 2) is the best density: tilt = s/2 (see tuning.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """One function's mixture; see the module's table.

    ``real``: the exponent a is 1. ``drawn``: omega is random. ``turn``: the unit c is a multiple of. ``slope``: of the
    linear part, exact. ``centered``: exp(a z) - 1 instead of exp(a z).
    """

    name: str
    real: bool = False
    drawn: bool = True
    turn: complex = 1.0
    slope: float = 0.0
    centered: bool = False

    def frequencies(self, uniform: Tensor, tilt: float) -> Tensor:
        """Return omega (m,) at the quantiles ``uniform`` (m,) in (0, 1), float64; ones where none is drawn."""
        if not self.drawn:
            return torch.ones_like(uniform)
        if self.name == "tanh":  # half the square of a half-normal draw, over the rate
            return torch.special.ndtri((1 + uniform) / 2).square() / (2 * (math.pi / 2 - tilt))
        return tilt - torch.special.ndtri((1 - uniform) * _normal_cdf(tilt))

    def log_density(self, omega: Tensor, tilt: float) -> Tensor:
        """Return log p(omega) of the frequencies drawn."""
        if self.name == "tanh":
            rate = math.pi / 2 - tilt
            return -rate * omega - omega.log() / 2 + math.log(rate / math.pi) / 2
        return -(omega - tilt).square() / 2 - math.log(math.sqrt(2 * math.pi) * _normal_cdf(tilt))

    def log_weights(self, omega: Tensor, tilt: float) -> Tensor:
        """Return log F/p (m,): what a draw of frequency omega counts, before ``turn``."""
        if not self.drawn:
            return torch.zeros_like(omega)
        if self.name == "tanh":  # 1 / sinh(y) = 2 exp(-y) / (1 - exp(-2y))
            log_F = math.log(2) - math.pi / 2 * omega - torch.log(-torch.expm1(-math.pi * omega))
        else:
            log_F = math.log(2 / math.pi) / 2 - omega.square() / 2
        if self.name == "gelu":
            log_F = log_F + torch.log1p(omega.pow(-2)) - math.log(2 * math.pi) / 2
        return log_F - self.log_density(omega, tilt)

    def finite(self, linear: Tensor, quadratic: Tensor, tilt: float) -> Tensor:
        """Tell where the variance is finite.

        ``linear`` and ``quadratic`` say how a draw's second moment grows: exp(linear omega + quadratic omega^2).
        """
        if not self.drawn:
            return torch.ones_like(linear, dtype=torch.bool)
        if self.name == "tanh":
            return (quadratic <= 0) & (linear < math.pi / 2 + tilt)
        return quadratic < 0.5

    def highest(self, linear: float, quadratic: float, tilt: float) -> float:
        """Return the frequency above which a second moment of that growth has nothing left, to about exp(-40)."""
        if self.name == "tanh":
            return 40 / (math.pi / 2 + tilt - linear)
        room = 1 - 2 * quadratic
        return max(0.0, linear - tilt) / room + 9 / math.sqrt(room)

    def mean_frequency(self, linear: float, tilt: float) -> float:
        """Return the mean of omega by what it adds to a second moment that grows as exp(linear omega)."""
        if not self.drawn:
            return 1.0
        if self.name == "tanh":
            return 0.5 / (math.pi / 2 + tilt - linear)
        mean = linear - tilt
        return mean + math.exp(-mean * mean / 2) / (math.sqrt(2 * math.pi) * _normal_cdf(mean))


def _normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


SPECTRA = {
    spectrum.name: spectrum
    for spectrum in (
        Spectrum("exp", real=True, drawn=False),
        Spectrum("sin", drawn=False, turn=-1j),
        Spectrum("cos", drawn=False),
        Spectrum("gaussian"),
        Spectrum("gelu", turn=-1.0, slope=0.5, centered=True),
        Spectrum("tanh", turn=-1j),
    )
}
