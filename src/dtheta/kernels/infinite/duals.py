"""Closed forms of E[s(u) s(v)] and E[s'(u) s'(v)] for Gaussian (u, v) with Var u = p, Var v = q, Cov = c.

    rectifiers      Cho and Saul 2009: S = sqrt(pq - c^2), t = atan2(S, c)
    erf             Williams 1997
    GELU            from E over a third Gaussian: z Phi(z) = z P(w < z)
    sin, cos, exp   from the characteristic function
    exp(b x^2)      from the determinant of a 2 x 2 matrix

Angles are computed by atan2 and never by acos of a quotient, which loses half of the digits where u and v are nearly
parallel. A derivative's dual is d/dc of the dual (Price 1958), by which the tests check one against the other.

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


def rectifier(c: Tensor, p: Tensor, q: Tensor, derivative: bool, negative: float, positive: float) -> Dual:
    """Of negative * min(x, 0) + positive * max(x, 0)."""
    S = torch.addcmul(p * q, c, c, value=-1).clamp_(min=0).sqrt_()
    even, odd = (negative**2 + positive**2) / 2, (negative - positive) ** 2 / (2 * math.pi)
    slope = _angle(S, c, p, q).mul_(-odd).add_(even)
    return S.mul_(odd).addcmul_(slope, c), slope if derivative else None


def erf(c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
    """Of the error function."""
    root = torch.addcmul((1 + 2 * p) * (1 + 2 * q), c, c, value=-4).sqrt_()
    value = torch.atan2(2 * c, root).mul_(2 / math.pi)
    return value, root.reciprocal_().mul_(4 / math.pi) if derivative else None


def gelu(c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
    """Of x Phi(x), Phi the normal distribution function."""
    product = (1 + p) * (1 + q)
    D = torch.addcmul(product, c, c, value=-1)
    root = D.sqrt()
    half = torch.atan2(c, root).div_(2 * math.pi).add_(0.25)
    value = half * c + (c * c + p * q * D) / (product * root).mul_(2 * math.pi)
    if not derivative:
        return value, None
    rest = D.reciprocal_().add_((1 - p * q) / product).add_(1).mul_(c)
    return value, half.add_(rest.div_(root.mul_(2 * math.pi)))


def sine(c: Tensor, p: Tensor, q: Tensor, derivative: bool, frequency: float, phase: float) -> Dual:
    """Of sin(frequency x + phase)."""
    square, mean = frequency**2, (p + q) / 2
    near = torch.exp(square * (c - mean))
    far = torch.exp(-square * (c + mean)).mul_(math.cos(2 * phase))
    return (near - far).div_(2), (near + far).mul_(square / 2) if derivative else None


def exponential(c: Tensor, p: Tensor, q: Tensor, derivative: bool, rate: float) -> Dual:
    """Of exp(rate x)."""
    value = torch.exp(rate**2 * ((p + q) / 2 + c))
    return value, rate**2 * value if derivative else None


def gaussian(c: Tensor, p: Tensor, q: Tensor, derivative: bool, rate: float) -> Dual:
    """Of exp(-rate x^2), rate >= 0."""
    square = torch.addcmul((1 + 2 * rate * p) * (1 + 2 * rate * q), c, c, value=-4 * rate**2)
    value = square.rsqrt()
    return value, 4 * rate**2 * c * value / square if derivative else None


def sign(c: Tensor, p: Tensor, q: Tensor, derivative: bool) -> Dual:
    """Of the sign; its derivative is 0 wherever there is one."""
    S = torch.addcmul(p * q, c, c, value=-1).clamp_(min=0).sqrt_()
    value = _angle(S, c, p, q).mul_(-2 / math.pi).add_(1)
    return value, torch.zeros_like(value) if derivative else None
