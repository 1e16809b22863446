"""What random features estimate and how far off they are: kernels, second moments and variances, exactly.

One draw's estimate is T = Re(c exp(a b) Z), Z = Lam_g(u) Lam_g(v), u = rho x, v = eta w. With y = u + v, k = 1 + 4A,
j = 1 + 8A and all products bilinear:

    E[exp(-4A |g|^2) exp(sqrt(k) g.Y)] = j^(-d/2) exp(k Y.Y / (2j))
    E|Z|^2 = k^d j^(-d/2) exp(2k |Re y|^2 / j - Re(u.u + v.v))
    E Z^2  = k^d j^(-d/2) exp(2k y.y / j - (u.u + v.v)),        E T^2 = (|c e^ab|^2 E|Z|^2 + Re((c e^ab)^2 E Z^2)) / 2

With -g beside g the mean of both Z takes the place of Z: E|Z|^2 becomes its mean with E[Z_g conj Z_-g], whose Re y is
i Im y, and E Z^2 its mean with E[Z_g Z_-g], whose y is 0. The expectation over the frequency is one integral, by
Gauss-Legendre in sqrt(omega). The variance of m independent draws is (E T^2 - (E T)^2) / m; orthogonal and
quasi-random rows are meant to stay below it, without a formula.

Arc-cosine (Cho and Saul 2009, degrees 1 and 2), t the angle of x and w:

    E[relu(g.x) relu(g.w)]     = |x| |w| (sin t + (pi - t) cos t) / (2 pi)
    E[relu(g.x)^2 relu(g.w)^2] = |x|^2 |w|^2 (3 sin t cos t + (pi - t)(1 + 2 cos^2 t)) / (2 pi)

Shape legend: x (N, d), W (l, d), b (l,); results (N, l), float64.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dtheta.core.features.sides import scale_of, turn_of
from dtheta.core.features.spectra import Spectrum
from dtheta.errors import ConfigError

if TYPE_CHECKING:
    from dtheta.core.features.random_features import RandomFeatures

_NODES = 800
_PIECE = 1 << 18  # pairs times frequencies computed at a time
_LOWEST = 0.01  # below it a centered draw's moments are those at it: their terms cancel there to omega^4

FUNCTIONS = {
    "exp": torch.exp,
    "sin": torch.sin,
    "cos": torch.cos,
    "gaussian": lambda z: torch.exp(-z.square() / 2),
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
}


def kernel(features: RandomFeatures, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return what phi.psi is on average: f(x W^T + b), or ReLU's arc-cosine kernel."""
    if features.spectrum is None:
        norms, cosine, angle = _angles(features, x, W, b)
        return norms * (angle.sin() + (math.pi - angle) * cosine) / (2 * math.pi)
    return FUNCTIONS[features.function](x @ W.mT + b)


def variance(features: RandomFeatures, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
    """Return the variance of phi.psi with independent rows; inf where it is not finite."""
    if features.spectrum is None:
        norms, cosine, angle = _angles(features, x, W, b)
        second = 3 * angle.sin() * cosine + (math.pi - angle) * (1 + 2 * cosine.square())
        second = norms.square() * second / (2 * math.pi * (2 if features.antithetic else 1))
        return (second - kernel(features, x, W, b).square()).clamp_min(0) / features.count
    moments = _Moments(features, features.spectrum, x, W, b)
    mean = kernel(features, x, W, b) - features.spectrum.slope * (x @ W.mT + b)
    spread = moments.mean_square() - mean.square()  # below 0 by rounding alone; NaN where an exponential overflows
    return torch.where(spread.isnan() & ~mean.isnan(), math.inf, spread.clamp_min(0)) / features.count


def _angles(features: RandomFeatures, x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if features.threshold:
        raise ConfigError(
            f"the arc-cosine kernel has a closed form at threshold 0 only, found {features.threshold}; simulate "
            "instead: phi(x) @ psi(W, b).T over seeds"
        )
    if features.bias:
        x, W = torch.cat([x, x.new_ones(x.shape[0], 1)], dim=1), torch.cat([W, b.unsqueeze(1)], dim=1)
    norms = torch.outer(x.norm(dim=1), W.norm(dim=1))
    cosine = ((x @ W.mT) / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(-1, 1)
    return norms, cosine, cosine.arccos()


class _Moments:
    """E T^2 of all pairs of inputs and weights, at one frequency or over all."""

    def __init__(self, features: RandomFeatures, spectrum: Spectrum, x: Tensor, W: Tensor, b: Tensor) -> None:
        self.features, self.spectrum, self.b = features, spectrum, b
        self.xx, self.ww = x.square().sum(1, keepdim=True), W.square().sum(1)
        self.xw = x @ W.mT
        k, j = 1 + 4 * features.A, 1 + 8 * features.A
        self.ratio, self.lead = k / j, features.inputs * (math.log(k) - math.log(j) / 2)

    def mean_square(self) -> Tensor:
        spectrum, tilt = self.spectrum, self.features.tilt
        if not spectrum.drawn:
            return self.at(self.xw.new_ones(1), self.xw.new_zeros(1))[0]
        linear, quadratic = self._growth()
        finite = spectrum.finite(linear, quadratic, tilt)
        total = torch.zeros_like(self.xw)
        if finite.any():
            top = spectrum.highest(float(linear[finite].max()), float(quadratic[finite].max()), tilt)
            omega, log_steps = (torch.from_numpy(part) for part in _nodes(top))
            log_chance = log_steps + spectrum.log_density(omega, tilt)
            omega = omega.clamp(min=_LOWEST) if spectrum.centered else omega
            log_square = 2 * spectrum.log_weights(omega, tilt) + log_chance
            for part in torch.arange(len(omega)).split(max(1, _PIECE // self.xw.numel())):
                total += self.at(omega[part], log_square[part]).sum(0)
        return torch.where(finite, total, math.inf)

    def at(self, omega: Tensor, log_square: Tensor) -> Tensor:
        """Return E T^2 over g at frequencies (K,), times exp(log_square) in place of (F/p)^2: (K, N, l)."""
        omega, lead = omega[:, None, None], self.lead + log_square[:, None, None]
        rho, eta = (self._factor(omega, on_inputs) for on_inputs in (True, False))
        own = rho**2 * self.xx + eta**2 * self.ww
        y_y = own + 2 * rho * eta * self.xw
        real, imaginary = (self._squared(part(rho), part(eta)) for part in (torch.real, torch.imag))
        absolute = torch.exp(lead + 2 * self.ratio * real - own.real)
        bilinear = torch.exp(lead + 2 * self.ratio * y_y - own)
        if self.features.antithetic:
            absolute = (absolute + torch.exp(lead - 2 * self.ratio * imaginary - own.real)) / 2
            bilinear = (bilinear + torch.exp(lead - own)) / 2
        c = self.spectrum.turn * torch.exp((1 if self.spectrum.real else 1j * omega) * self.b)
        square = (c.abs().square() * absolute + (c * c * bilinear).real) / 2
        if not self.spectrum.centered:
            return square
        cross = c * torch.exp(lead + self.ratio * y_y / 2 - own / 2)
        return square - 2 * (cross * self.spectrum.turn).real + lead.exp()

    def _squared(self, r: Tensor, e: Tensor) -> Tensor:
        return r * r * self.xx + 2 * r * e * self.xw + e * e * self.ww

    def _factor(self, omega: Tensor, on_inputs: bool) -> Tensor:
        turn = turn_of(self.features, on_inputs)
        return scale_of(self.features, omega, on_inputs) * complex(turn.real, turn.imaginary)

    def _growth(self) -> tuple[Tensor, Tensor]:
        # log E|Z|^2 is linear in omega with the symmetric split, quadratic with a one-sided one
        al2, split = self.features.balance**2, self.features.split
        if split == "symmetric":
            linear = self.ratio * (al2 * self.xx + self.ww / al2 + 2 * self.xw)
            return linear, torch.zeros_like(linear)
        quadratic = al2 * self.xx if split == "x-trig" else self.ww / al2
        return torch.zeros_like(self.xw), quadratic.expand_as(self.xw)


@cache
def _unit_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return (nodes + 1) / 2, weights / 2


def _nodes(top: float) -> tuple[np.ndarray, np.ndarray]:
    # frequencies and the logarithms of their weights; omega = v^2, so that a density omega^(-1/2) is smooth at 0
    nodes, weights = _unit_nodes()
    v = nodes * math.sqrt(top)
    return v * v, np.log(weights * math.sqrt(top) * 2 * v)
