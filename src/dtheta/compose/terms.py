"""Terms: the pieces that a change of one parameter is made of, and what each costs to add and to take products with.

    kind             added to a buffer              inner product with a gradient G
    ternary          all vectors in one pass        all vectors in one pass                (signs.py; with a scale
                                                                                           a row one by one)
    factored L R     one product of the factors     sum((L^T G) * R)                       never made dense
    rows             those rows                     sum(G[rows] * values)
    dense, other     element by element             sum(G * D), in float32 by short runs, these in float64

Sums, multiples and blocks of fused projections are taken apart: a term is a factor, a leaf, and the window of the
parameter that it moves.

Shape legend: (r, c) the matrix in which the parameter is seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, matrix_shape
from dtheta.core.combination import Scaled, Sum
from dtheta.core.plane_sums import add_scaled
from dtheta.core.planes import Planes
from dtheta.core.rows import Rows
from dtheta.core.ternary import Ternary

# float32 products are summed over runs of so many elements, and these sums in float64: as exact as pairwise summation
# and as fast as one dot product over all.
_RUN = 1 << 16


@dataclass(frozen=True, eq=False)
class Window:
    """Rows (axis 0) or columns (axis 1) ``start ... stop - 1`` of a matrix."""

    axis: Literal[0, 1]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Term:
    """``factor`` times a leaf, in a window of a window ... of the parameter's matrix.

    Attributes:
        factor: Number that the leaf is multiplied with.
        leaf: A change that is not made of others.
        windows: From the outermost to the innermost; empty for the whole matrix.
    """

    factor: float
    leaf: Change
    windows: tuple[Window, ...] = ()

    @property
    def signed(self) -> tuple[float, Planes] | None:
        """Scale and signs, where the term moves the whole parameter by one scale and lies in host memory; else None."""
        leaf = self.leaf
        if not isinstance(leaf, Ternary) or self.windows or leaf.by_row or leaf.device.type != "cpu":
            return None
        return self.factor * float(leaf.scale), leaf.planes

    def view(self, matrix: Tensor) -> Tensor:
        """Return the part of the parameter's matrix that the leaf moves."""
        for w in self.windows:
            matrix = matrix.narrow(w.axis, w.start, w.stop - w.start)
        return matrix

    def add_to(self, matrix: Tensor, coefficient: float) -> None:
        """Add the multiple to a float32 or float64 matrix in place."""
        out, factor, leaf = self.view(matrix), coefficient * self.factor, self.leaf
        if isinstance(leaf, Rows):
            out.index_add_(0, leaf.index, leaf.values.to(out.dtype), alpha=factor)
        elif (factors := leaf.factors(out.dtype)) is not None:
            out.addmm_(*factors, alpha=factor)
        elif isinstance(leaf, Ternary) and leaf.device.type == "cpu" and out.is_contiguous():
            scale = leaf.scale.double() * factor
            add_scaled(out, [leaf.planes], [scale.numpy() if leaf.by_row else float(scale)], span=max(1, out.shape[1]))
        else:
            out.add_(_matrix(leaf).to(out.dtype), alpha=factor)

    def inner(self, matrix: Tensor) -> Tensor:
        """Return the inner product with a float32 or float64 matrix, a float64 scalar on its device."""
        part, leaf = self.view(matrix), self.leaf
        if isinstance(leaf, Rows):
            found = (part[leaf.index] * leaf.values.to(part.dtype)).sum(dtype=torch.float64)
        elif (factors := leaf.factors(part.dtype)) is not None:
            found = ((factors[0].mT @ part) * factors[1]).sum(dtype=torch.float64)
        elif isinstance(leaf, Ternary) and leaf.device.type == "cpu":
            found = torch.tensor(leaf.inner_dense(part.contiguous()), dtype=torch.float64)
        else:
            found = _product(part.contiguous(), _matrix(leaf).to(part.dtype).contiguous())
        return self.factor * found


def terms(change: Change, factor: float = 1.0, windows: tuple[Window, ...] = ()) -> Iterator[Term]:
    """Yield the terms of a change."""
    if isinstance(change, Scaled):
        yield from terms(change.term, factor * change.factor, windows)
    elif isinstance(change, Sum):
        for part in change.terms:
            yield from terms(part, factor, windows)
    elif isinstance(change, Block):
        yield from terms(change.term, factor, (*windows, Window(change.axis, change.start, change.stop)))
    else:
        yield Term(factor, change, windows)


def _matrix(leaf: Change) -> Tensor:
    """Return a leaf as a matrix on its own device."""
    if isinstance(leaf, Ternary) and leaf.device.type != "cpu":
        return _expanded(leaf)
    return leaf.matrix()


def _expanded(leaf: Ternary) -> Tensor:
    """Return scale times signs, unpacked where the planes are: no way over the host."""
    rows, columns = matrix_shape(leaf.full_shape)
    bit = torch.arange(8, dtype=torch.uint8, device=leaf.device)
    plus, minus = (((p[:, None] >> bit) & 1).view(torch.int8) for p in (leaf.positive, leaf.negative))
    signs = (plus - minus).reshape(-1)[: rows * columns].reshape(rows, columns)
    return signs * (leaf.scale[:, None] if leaf.by_row else leaf.scale)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return the inner product of two contiguous tensors of one dtype."""
    x, y = x.reshape(-1), y.reshape(-1)
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return (x * y).sum(dtype=torch.float64)
    runs = [torch.dot(a, b) for a, b in zip(x.split(_RUN), y.split(_RUN), strict=True)]
    return torch.stack(runs).sum(dtype=torch.float64) if runs else torch.zeros((), dtype=torch.float64)
