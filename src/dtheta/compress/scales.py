"""The magnitude that goes with the signs of a compressed delta: one for all of it, one a vector, or one a row.

    alpha-sigma     s = alpha sigma, sigma = standard deviation (unbiased) of all entries, kept or not       ComPEFT
    mean-abs        s = alpha mean |kept|                                                                    STC
    least-squares   s = alpha argmin ||D - D(s)||

ComPEFT, arXiv 2311.13171; sparse ternary compression, arXiv 1903.02891. With t the signs of the kept entries of x,

    ||x - s t||^2 = ||x||^2 - 2 s <x, t> + s^2 <t, t>,   least at s = <x, t> / <t, t> = mean |kept|:

for entries, mean-abs is least-squares, whatever the density. They differ where the change is a product of compressed
factors, since what shall be met is L R and not L and R: with T = t_L t_R and s for each factor

    one s a delta    sum (x - s t)^2 + sum c^2 ||L R - s^2 T||^2     least at 0 or at a root of a cubic
    one s a vector   s_L s_R = <L R, T> / <T, T>                     shared equally, its sign on the left
    one s a row      R: mean-abs; row i of L: <(L R)_i, P_i> / <P_i, P_i>,  P = t_L diag(s_R) t_R

The STC option of the paper's released code takes the mean of the *signed* kept values, which is near zero for a vector
that is symmetric around it; the baseline of its tables is not the STC of the literature, which is mean-abs.

Scales are rounded to 24 bits, the precision of float32: then the mean of equal numbers of that precision is that number
again, bit for bit, and compressing twice is compressing once. Where nothing is kept the scale is zero.

Shape legend: L (m, r), R (r, n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dtheta.compress.parts import Pair
from dtheta.compress.signs import Signs
from dtheta.compress.vectors import Per, Vector, slabs_of
from dtheta.core.linalg import lowrank_inner
from dtheta.errors import ConfigError, NonFinite

Scale = Literal["mean-abs", "alpha-sigma", "least-squares"]
RULES = ("mean-abs", "alpha-sigma", "least-squares")
_PIECE = 1 << 18


def base_scales(found: Signs, rule: Scale) -> list[Tensor]:
    """Return the scale of every vector at alpha = 1, () or (R,), float64.

    Raises:
        ConfigError: If the rule is not known, or a standard deviation is asked of one entry.
    """
    if rule == "mean-abs":
        return mean_abs(found)
    if rule == "alpha-sigma":
        return sigmas(found)
    if rule == "least-squares":
        return least_squares(found)
    raise ConfigError(f"scale={rule!r} is not known; expected one of {', '.join(RULES)}")


def finished(found: Signs, scales: Sequence[Tensor], alpha: float) -> list[Tensor]:
    """Return alpha times the scales, rounded, in the dtype of each vector.

    Raises:
        NonFinite: If a scale is too large for float32.
    """
    rounded = []
    for vector, scale in zip(found.vectors, scales, strict=True):
        number = _rounded(alpha * scale).to(vector.values.dtype)
        if not bool(torch.isfinite(number).all()):
            raise NonFinite(f"{vector.name}: alpha={alpha} makes its scale too large for {vector.values.dtype}")
        rounded.append(number)
    return rounded


def mean_abs(found: Signs) -> list[Tensor]:
    """Return the mean magnitude of the kept entries."""
    if found.per == "delta":
        kept = sum(int(vector.counts.sum()) for vector in found.vectors)
        total = math.fsum(float(vector.sums.sum()) for vector in found.vectors)
        return _same(found, total / kept if kept else 0.0)
    return [_mean(vector, found.per) for vector in found.vectors]


def _mean(vector: Vector, per: Per) -> Tensor:
    """Return a number () or, by row, numbers (R,); a one-dimensional vector has one row and so one number."""
    means = vector.sums / vector.counts.clamp(min=1)
    return means if per == "row" and len(vector.values.shape) > 1 else means.reshape(())


def _same(found: Signs, number: float) -> list[Tensor]:
    return [torch.tensor(number, dtype=torch.float64)] * len(found.vectors)


def sigmas(found: Signs) -> list[Tensor]:
    """Return the standard deviation of all entries, with n - 1 in the denominator."""
    if found.per == "row":
        return [_row_sigmas(vector) for vector in found.vectors]
    spreads = [_spread(vector) for vector in found.vectors]
    if found.per == "delta":
        return _same(found, _sigma(_merged(spreads), "the delta"))
    return [torch.tensor(_sigma(s, v.name), dtype=torch.float64) for s, v in zip(spreads, found.vectors, strict=True)]


Spread = tuple[int, float, float]  # count, mean, sum of squares around it


def _spread(vector: Vector) -> Spread:
    pieces = (piece.double() for slab in slabs_of(vector.values) for piece in slab.reshape(-1).split(_PIECE))
    return _merged([_own(piece) for piece in pieces if piece.numel()])


def _own(piece: Tensor) -> Spread:
    mean = float(piece.mean())
    return piece.numel(), mean, float((piece - mean).square().sum())


def _merged(spreads: Sequence[Spread]) -> Spread:
    """Return the spread of several sets of numbers together (Chan, Golub and LeVeque 1979)."""
    count = sum(n for n, _, _ in spreads)
    mean = math.fsum(n * m for n, m, _ in spreads) / count if count else 0.0
    return count, mean, math.fsum(q + n * (m - mean) ** 2 for n, m, q in spreads)


def _sigma(spread: Spread, name: str) -> float:
    count, _, squares = spread
    if count == 1:
        raise ConfigError(f"{name}: one entry has no standard deviation; use scale='mean-abs'")
    return math.sqrt(squares / (count - 1)) if count else 0.0


def _row_sigmas(vector: Vector) -> Tensor:
    one_row = len(vector.values.shape) < 2
    if one_row:
        return torch.tensor(_sigma(_spread(vector), vector.name), dtype=torch.float64)
    if vector.values.shape[0] and vector.planes.length == vector.values.shape[0]:
        raise ConfigError(f"{vector.name}: rows of one entry have no standard deviation; use scale='mean-abs'")
    step = max(1, _PIECE // max(1, vector.planes.length // max(1, vector.values.shape[0])))
    rows = [part.double().std(1) for slab in slabs_of(vector.values) for part in slab.split(step) if part.numel()]
    return torch.cat(rows) if rows else torch.zeros(vector.values.shape[0], dtype=torch.float64)


def least_squares(found: Signs) -> list[Tensor]:
    """Return the scales that bring the compressed change nearest to what it stands for."""
    if found.per == "delta":
        return _same(found, _nearest(found))
    scales: list[Tensor] = []
    for part, vectors in found.parts():
        if not isinstance(part, Pair):
            scales += [_mean(vector, found.per) for vector in vectors]
        elif found.per == "tensor":
            scales += _shared(*vectors)
        else:
            scales += _rows(*vectors)
    return scales


def _dense(vector: Vector) -> Tensor:
    return vector.values.matrix().double()


def _signs(vector: Vector) -> Tensor:
    return vector.ternary(torch.ones(())).signs().double()


def _products(left: Vector, right: Vector) -> tuple[float, float]:
    """Return <L R, T> and <T, T>, without a product of more than r columns."""
    signs = _signs(left), _signs(right)
    return lowrank_inner(_dense(left), _dense(right), *signs), lowrank_inner(*signs, *signs)


def _nearest(found: Signs) -> float:
    """Return the least value of sum (x - s t)^2 + sum c^2 ||L R - s^2 T||^2 over s >= 0."""
    b = e = p = q = 0.0
    for part, vectors in found.parts():
        if isinstance(part, Pair):
            inner, square = _products(*vectors)
            p, q = p + part.multiple**2 * inner, q + part.multiple**2 * square
        else:
            b += math.fsum(float(vector.sums.sum()) for vector in vectors)
            e += sum(int(vector.counts.sum()) for vector in vectors)
    means = mean_abs(found)  # of no vector at all, none
    unit = float(means[0]) if means and bool(means[0]) else 1.0  # s = unit u: the coefficients of u are of one size
    c1, c2, c4 = -2 * b * unit, (e - 2 * p) * unit * unit, q * unit * unit * unit * unit
    size = max(abs(c1), abs(c2), abs(c4))
    if not math.isfinite(size):
        raise NonFinite("the squares of the entries are too large for float64, so there is no least-squares scale")
    if not size:
        return 0.0
    roots = np.roots([4 * c4 / size, 0.0, 2 * c2 / size, c1 / size])
    candidates = [0.0, *(float(u.real) for u in roots if abs(u.imag) < 1e-9 * (1 + abs(u)) and u.real > 0)]
    return unit * min(candidates, key=lambda u: c1 * u + c2 * u**2 + c4 * u**4)


def _shared(left: Vector, right: Vector) -> list[Tensor]:
    inner, square = _products(left, right)
    best = inner / square if square else 0.0
    root = torch.tensor(math.sqrt(abs(best)), dtype=torch.float64)
    return [math.copysign(1.0, best) * root, root]


def _rows(left: Vector, right: Vector) -> list[Tensor]:
    s_R = _mean(right, "row")
    t_L, P_R = _signs(left), _signs(right) * s_R.reshape(-1, 1)
    inner = ((_dense(left) @ (_dense(right) @ P_R.mT)) * t_L).sum(1)
    square = ((t_L @ (P_R @ P_R.mT)) * t_L).sum(1)
    return [torch.where(square > 0, inner / square.clamp(min=torch.finfo(torch.float64).tiny), 0.0), s_R]


def _rounded(scale: Tensor) -> Tensor:
    """Round float64 numbers to 24 bits."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp((mantissa * 2.0**24).round(), (exponent - 24).double())
