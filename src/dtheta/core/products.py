"""Inner products of changes, without making a low-rank change dense.

    <sum_i a_i X_i, sum_j b_j Y_j> = sum_ij a_i b_j <X_i, Y_j>
    <L1 R1, L2 R2>                 = sum((L1^T L2) * (R1 R2^T))          O((m + n) r^2)
    <L R, D>                       = sum((L^T D) * R)                    O(m n r)
    stacks                         = the sum over slices
    <rows i, Y>                    = sum(values * Y[i])
    <block X at w, Y>              = <X, Y restricted to w>
    <s T, s' T'>                   = s s' (agreeing - conflicting signs)    by counting bits
    <s T, D>                       = s <T, D>                               on the bit planes

All accumulated in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, matrix_shape, slabs
from dtheta.core.combination import Scaled, Sum
from dtheta.core.linalg import lowrank_inner
from dtheta.core.plane_products import dot
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from dtheta.core.ternary import Ternary
from dtheta.errors import ShapeMismatch, UnsupportedLayer


def inner(a: Change, b: Change) -> float:
    """Return the Frobenius inner product of two changes of one parameter.

    Raises:
        ShapeMismatch: If their shapes differ.
        UnsupportedLayer: If one is a new vector and the other the displacement of an existing parameter.
    """
    if tuple(a.shape) != tuple(b.shape):
        raise ShapeMismatch(f"inner product of changes of shapes {tuple(a.shape)} and {tuple(b.shape)}")
    if a.is_new != b.is_new:
        raise UnsupportedLayer("inner product of a new vector with the displacement of an existing parameter")
    return _inner(a, b)


def _inner(a: Change, b: Change) -> float:
    """Return the inner product of two changes that are the same matrix shape."""
    return math.fsum(x * y * _inner_atoms(p, q) for x, p in _atoms(a) for y, q in _atoms(b))


def _atoms(change: Change, factor: float = 1.0) -> Iterator[tuple[float, Change]]:
    """Yield the coefficients and terms of a sum of multiples."""
    if isinstance(change, Scaled):
        yield from _atoms(change.term, factor * change.factor)
    elif isinstance(change, Sum):
        for term in change.terms:
            yield from _atoms(term, factor)
    else:
        yield factor, change


def _inner_atoms(a: Change, b: Change) -> float:
    if isinstance(b, Block) and not isinstance(a, Block):
        a, b = b, a
    if isinstance(a, Block):
        cut = b.window(a.axis, a.start, a.stop)
        return 0.0 if cut is None else _inner(a.term, cut)
    if isinstance(a, Spectral) and isinstance(b, Spectral) and a.same_basis(b):
        return float(a.shift.double() @ b.shift.double())
    if isinstance(a, Stacked) and isinstance(b, Stacked) and a.slice_shape == b.slice_shape:
        return a.inner(b)
    if isinstance(b, Rows) and not (isinstance(a, Rows) and a.index.numel() < b.index.numel()):
        a, b = b, a
    if isinstance(a, Rows):
        return float((a.values.double() * b.rows(a.index)).sum())
    if isinstance(b, Ternary) and not isinstance(a, Ternary):
        a, b = b, a
    if isinstance(a, Ternary) and isinstance(b, Ternary) and not (a.by_row or b.by_row):
        return float(a.scale) * float(b.scale) * dot(a.planes, b.planes)
    if isinstance(a, Ternary) and b.factors() is None:
        return a.inner_dense(b.matrix().to(a.device))
    return _inner_matrices(a, b)


def _inner_matrices(a: Change, b: Change) -> float:
    left, right = a.factors(torch.float64), b.factors(torch.float64)
    if left is not None and right is not None:
        return float(lowrank_inner(*left, *right))
    if right is not None:
        b, left = a, right
    x, y = (None, b.matrix()) if left is not None else (a.matrix(), b.matrix())
    parts = []
    for start, stop in slabs(*matrix_shape(b.shape), b.device):
        part = y[start:stop].double()
        parts.append(_dot(part, x[start:stop].double()) if x is not None else _dot_factors(part, left, start, stop))
    return math.fsum(parts)


def _dot(x: Tensor, y: Tensor) -> float:
    """Return the inner product, on the CPU with the same bits for any number of threads: coefficients come from it."""
    product = x * y
    return float(np.add.reduce(product.numpy(), axis=None)) if product.device.type == "cpu" else float(product.sum())


def _dot_factors(part: Tensor, factors: tuple[Tensor, Tensor] | None, start: int, stop: int) -> float:
    """Return the inner product of rows ``start:stop`` of a dense matrix with those of a product of factors."""
    assert factors is not None
    return float(((factors[0][start:stop].mT @ part) * factors[1]).sum())
