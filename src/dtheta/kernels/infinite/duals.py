"""Closed forms of E[s(u) s(v)] and E[s'(u) s'(v)] for Gaussian (u, v) with Var u = p, Var v = q, Cov = c.

    rectifiers      Cho and Saul 2009: S = sqrt(pq - c^2), t = atan2(S, c)
    erf             Williams 1997
    GELU            from E over a third Gaussian: z Phi(z) = z P(w < z)
    sin, cos, exp   from the characteristic function
    exp(b x^2)      from the determinant of a 2 x 2 matrix

Angles are computed by atan2 and never by acos of a quotient, which loses half of the digits where u and v are nearly
parallel. A derivative's dual is d/dc of the dual (Price 1958), by which the tests check one against the other.
Products of variances leave the range of float32 where the variances do not, so that they are taken of variances near 1,
after a division by powers of 2, which is exact.

Every function takes c, p, q, which broadcast, and whether the second value is wanted; it may not change them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Dual = tuple[Tensor, Tensor | None]


def _angle(S: Tensor, c: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Return the angle between u and v; a right one where a variance is 0."""
    angle = torch.atan2(S, c)
    if not (p.all() and q.all()):
        angle.masked_fill_((S == 0) & (c == 0), math.pi / 2)
    return angle


def _scale(variance: Tensor) -> Tensor:
    """Return a power of 2 near the root of each variance, 1 where it is 0."""
    return torch.ldexp(torch.ones_like(variance), torch.frexp(variance).exponent // 2)


def _rectangle(c: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(pq - c^2) and the angle of which it is the sine, for variances near 1."""
    S = torch.addcmul(p * q, c, c, value=-1).clamp_(min=0).sqrt_()
    return S, _angle(S, c, p, q)


def _determinant(c: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return c / ab, p / a^2, q / b^2, D / (ab)^2, a and b, for D = (1 + p)(1 + q) - c^2 = 1 + p + q + (pq - c^2).

    a^2 and b^2 are near 1 + p and 1 + q. In the second form nothing is lost where u and v are large and parallel.
    """
    a, b = _scale(1 + p), _scale(1 + q)
    c, p, q = (c / a).div_(b), p / a / a, q / b / b
    far = (p * q).sub_(c * c).clamp_(min=0)  # rounded alike, so that it is 0 for an example with itself
    unit = 1 / b / b
    return c, p, q, far.addcmul_(1 / a / a, q + unit).addcmul_(p, unit), a, b


def rectifier(c: Tensor, p: Tensor, q: Tensor, derivative: bool, negative: float, positive: float) -> Dual:
    """Of negative * min(x, 0) + positive * max(x, 0)."""
    a, b = _scale(p), _scale(q)
    c = (c / a).div_(b)
    S, angle = _rectangle(c, p / a / a, q / b / b)
    even, odd = (negative**2 + positive**2) / 2, (negative - positive) ** 2 / (2 * math.pi)
    slope = angle.mul_(-odd).add_(even)
    return S.mul_(odd).addcmul_(slope, c).mul_(a).mul_(b), slope if derivative else None


def erf(c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
    """Of the error function."""
    c, _, _, D, a, b = _determinant(2 * c, 2 * p, 2 * q)
    root = D.sqrt_()
    value = torch.atan2(c, root).mul_(2 / math.pi)
    return value, root.reciprocal_().mul_(4 / math.pi).div_(a).div_(b) if derivative else None


def gelu(c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
    """Of x Phi(x), Phi the normal distribution function."""
    near, p, q, D, a, b = _determinant(c, p, q)
    units = 1 / a / a, 1 / b / b
    product = (p + units[0]) * (q + units[1])
    root = D.sqrt()
    half = torch.atan2(near, root).div_(2 * math.pi).add_(0.25)
    whole = (near / a).div_(b).square_().addcmul_(p * q, D)
    value = half * c + (whole / (product * root).mul_(2 * math.pi)).mul_(a).mul_(b)
    if not derivative:
        return value, None
    rest = D.reciprocal_().add_(1 / product).mul_(units[0]).mul_(units[1]).sub_(p * q / product).add_(1).mul_(near)
    return value, half.add_(rest.div_(root.mul_(2 * math.pi)))


def sine(c: Tensor, p: Tensor, q: Tensor, derivative: bool, frequency: float, phase: float) -> Dual:
    """Of sin(frequency x + phase)."""
    square, mean = frequency**2, (p + q) / 2
    near = torch.exp(square * (c - mean).clamp_(max=0))  # |c| is at most the mean, but for rounding
    far = torch.exp(-square * (c + mean).clamp_(min=0)).mul_(math.cos(2 * phase))
    return (near - far).div_(2), (near + far).mul_(square / 2) if derivative else None


def exponential(c: Tensor, p: Tensor, q: Tensor, derivative: bool, rate: float) -> Dual:
    """Of exp(rate x)."""
    value = torch.exp(rate**2 * ((p + q) / 2 + c))
    return value, rate**2 * value if derivative else None


def gaussian(c: Tensor, p: Tensor, q: Tensor, derivative: bool, rate: float) -> Dual:
    """Of exp(-rate x^2), rate >= 0."""
    c, _, _, D, a, b = _determinant(2 * rate * c, 2 * rate * p, 2 * rate * q)
    root = D.rsqrt()
    value = (root / a).div_(b)
    return value, (c * value).mul_(2 * rate).div_(D).div_(a).div_(b) if derivative else None


def sign(c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
    """Of the sign; its derivative is 0 wherever there is one."""
    a, b = _scale(p), _scale(q)
    _, angle = _rectangle((c / a).div_(b), p / a / a, q / b / b)
    value = angle.mul_(-2 / math.pi).add_(1)
    return value, torch.zeros_like(value) if derivative else None
