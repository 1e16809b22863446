"""Duals of a function that has no closed form: its series in Hermite polynomials.

    s(sqrt(p) z) = sum_k a_k(p) h_k(z)      E[s(u) s(v)] = sum_k a_k(p) a_k(q) rho^k,    rho = c / sqrt(pq)

with h_k orthonormal under N(0, 1) (Daniely, Frostig and Singer 2016). The coefficients are integrals over one variable,
taken once an example; a pair of examples costs a multiplication and an addition a term, and no call of the function,
where quadrature over two variables takes a call a node. The derivative has the same form with coefficients of s'.

Two errors are known and kept below the tolerance. Terms left out add at most |rho|^K sqrt(R(p) R(q)), where R(p) is
E[s^2] - sum_{k<K} a_k^2. The integrals are sums over equidistant nodes, which converge faster than any power of their
number for smooth functions and as its square at a kink; every second node alone gives the error, roughly. Rules of more
nodes and terms are taken where fewer do not suffice.

Shapes: variances of any shape (...,), nodes M, terms K: coefficients (..., K).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, NotConverged

Function = Callable[[Tensor], Tensor]
_RULES = ((256, 64), (1536, 512), (8192, 512))  # intervals between nodes, and terms
_REACH = 12.0  # nodes span [-12, 12]: the normal density at 12 is 1e-32
_BLOCK = 2**22  # values of the function at a time, 32 MB


class Rule(NamedTuple):
    """Nodes (M,), their weights (M,), and h_k at the nodes times the weights (M, K)."""

    z: Tensor
    weight: Tensor
    basis: Tensor


@dataclass(frozen=True)
class Series:
    """A function's coefficients at some variances, the mean of its square there, and how far that is off, relative."""

    coefficients: Tensor
    square: Tensor
    error: float

    def left_out(self) -> float:
        """Return the largest sqrt(R): the norm of what is left of the function after all terms."""
        return math.sqrt(max(0.0, float((self.square - self.coefficients.square().sum(-1)).max())))


@cache
def rule(intervals: int, terms: int, device: torch.device) -> Rule:
    """Return equidistant nodes and the polynomials at them, in float64."""
    z = torch.linspace(-_REACH, _REACH, intervals + 1, dtype=torch.float64)
    weight = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi) * (2 * _REACH / intervals)
    root = weight.sqrt()  # h_k times this stays of order 1, where h_k alone overflows
    rows = [root, z * root]
    for k in range(1, terms - 1):
        rows.append((z * rows[k] - math.sqrt(k) * rows[k - 1]) / math.sqrt(k + 1))
    return Rule(*(values.to(device) for values in (z, weight, torch.stack(rows, 1) * root[:, None])))


def mean_square(function: Function, p: Tensor, tolerance: float) -> Tensor:
    """Return E[s(sqrt(p) z)^2] for variances ``p``, in their dtype.

    Raises:
        NotConverged: If the nodes there are cannot reach the tolerance, relative to the mean square.
        NonFinite, ConfigError: If the function is not finite, or none of single numbers.
    """
    for intervals, terms in _RULES:
        found = series(function, p, intervals, terms)
        if found.error <= tolerance:
            return found.square.to(p.dtype)
    raise _uncertain(found.error, tolerance)


def mean_product(function: Function, c: Tensor, p: Tensor, q: Tensor, tolerance: float) -> Tensor:
    """Return E[s(u) s(v)] for covariances ``c``, over which the variances ``p`` and ``q`` broadcast.

    Raises:
        NotConverged: If the nodes and terms there are cannot reach the tolerance, relative to the function's norms.
        NonFinite, ConfigError: If the function is not finite, or none of single numbers.
    """
    same = (c == p) & (c == q)  # the mean square, however slowly the series converges
    varying = ((p > 0) & (q > 0)).expand_as(c)  # their product may be 0 where they are not
    rho = torch.where(varying & ~same, c / p.sqrt() / q.sqrt(), 0.0).clamp_(-1, 1)
    largest, problem = float(rho.abs().max()), None
    for intervals, terms in _RULES:
        a, b = (series(function, variance, intervals, terms) for variance in (p, q))
        norms = math.sqrt(float(a.square.max() * b.square.max()))
        rest = a.left_out() * b.left_out() * largest**terms
        if max(a.error, b.error) > tolerance:
            problem = _uncertain(max(a.error, b.error), tolerance)
        elif rest > tolerance * norms:
            problem = NotConverged(
                f"{terms} Hermite polynomials leave out up to {rest / norms:.1e} of the activation's dual at "
                f"correlation {largest:.6f}, more than tolerance={tolerance:g}; give a larger tolerance, or use a "
                "layer with a closed form"
            )
        else:
            return torch.where(same, a.square.to(c.dtype), _summed(a, b, rho, largest, tolerance * norms))
    assert problem is not None
    raise problem


def _uncertain(error: float, tolerance: float) -> NotConverged:
    return NotConverged(
        f"the activation's integrals are uncertain by {error:.1e} of themselves, more than tolerance={tolerance:g}: it "
        "has kinks or jumps, or the variance is very large; give a larger tolerance, or use a layer with a closed form"
    )


def _summed(a: Series, b: Series, rho: Tensor, largest: float, tolerance: float) -> Tensor:
    """Return sum_k a_k b_k rho^k, without the last terms if they are below the tolerance together."""
    sizes = a.coefficients.flatten(0, -2).abs().amax(0) * b.coefficients.flatten(0, -2).abs().amax(0)
    sizes *= largest ** torch.arange(len(sizes), device=sizes.device)
    tails = sizes.flip(0).cumsum(0).flip(0)
    total, power = torch.zeros_like(rho), torch.ones_like(rho)
    left, right = a.coefficients.to(rho.dtype), b.coefficients.to(rho.dtype)
    for k in range(int((tails > tolerance / 16).sum())):
        total.addcmul_(power * left[..., k], right[..., k])
        power.mul_(rho)
    return total


def series(function: Function, p: Tensor, intervals: int, terms: int) -> Series:
    """Return the series of a function at variances ``p`` (...,), in float64.

    Raises:
        NonFinite: If the function is NaN or infinite at a node.
        ConfigError: If it is no function of single numbers.
    """
    nodes = rule(intervals, terms, p.device)
    parts = [_integrals(function, part, nodes) for part in p.double().flatten().split(max(1, _BLOCK // intervals))]
    coefficients, square, error = (torch.cat(found) for found in zip(*parts, strict=True))
    if not (coefficients.isfinite().all() and square.isfinite().all()):
        raise NonFinite("the activation is NaN or infinite at some node; expected a function that is finite everywhere")
    return Series(coefficients.reshape(*p.shape, terms), square.reshape(p.shape), float(error.max()))


def _integrals(function: Function, p: Tensor, nodes: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """Return coefficients (N, K), mean squares (N,), and how far a dual is off by every second node (N,), relative."""
    points = p.sqrt()[:, None] * nodes.z
    values = function(points).detach()
    if values.shape != points.shape:
        shapes = tuple(points.shape), tuple(values.shape)
        raise ConfigError(f"the activation turns shape {shapes[0]} into {shapes[1]}; expected the same")
    even, odd = ((values[:, i::2] @ nodes.basis[i::2]) for i in (0, 1))
    squares = values.square() * nodes.weight
    coefficients, square = even + odd, squares.sum(1)
    off = (even - odd).mul_(coefficients).abs_().sum(1).mul_(2)
    off += (2 * squares[:, ::2].sum(1) - square).abs()
    return coefficients, square, off / square.clamp(min=torch.finfo(torch.float64).tiny)


def slope_of(function: Function) -> Function:
    """Return the derivative of a function of one number, by torch's gradients."""

    def slope(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = function(x)
            return torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else torch.zeros_like(x)

    return slope
