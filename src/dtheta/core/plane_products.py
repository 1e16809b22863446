"""Inner products with ternary vectors: of two of them by counting bits, of a dense one with many in one pass.

    <a, b> = #{a_e = b_e != 0} - #{a_e = -b_e != 0}          exact, from popcounts of the planes' intersections
    <g, t> = sum_e g_e t_e                                   float64, in a fixed order

Counts of agreeing and conflicting signs are what merging methods are judged by (TIES, arXiv 2306.01708), and <g, t_i>
is the derivative of a loss by the coefficient of task vector i when g is its gradient by the weights: one pass over g
gives all of them (aTLAS, arXiv 2407.02880, without its n-fold graph).

Shape legend: M vectors, r runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dtheta.core.bitplane import words
from dtheta.core.compiled import loops
from dtheta.core.flat import Values, flat
from dtheta.core.plane_blocks import blocks
from dtheta.core.planes import Planes, same_length
from dtheta.errors import ConfigError, ShapeMismatch


def dot(a: Planes, b: Planes) -> int:
    """Return the inner product of two ternary vectors, exactly.

    Raises:
        ShapeMismatch: If their lengths differ.
    """
    agree, conflict = agreement(a, b)
    return agree - conflict


def agreement(a: Planes, b: Planes) -> tuple[int, int]:
    """Return the numbers of elements with the same sign, and with opposite signs, where both are nonzero.

    Raises:
        ShapeMismatch: If their lengths differ.
    """
    same_length([a, b])
    plane = loops("plane")
    parts = zip(*(words(x) for x in (a.positive, a.negative, b.positive, b.negative)), strict=True)
    (same, opposite), (same_rest, opposite_rest) = (plane.agreement(*part) for part in parts)
    return int(same + same_rest), int(opposite + opposite_rest)


def agreements(planes: Sequence[Planes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of agreeing and of conflicting signs between every two of M vectors, in one pass over them.

    Their difference is the Gram matrix of inner products; the diagonal of the first counts each vector's nonzeros.

    Returns:
        Two symmetric (M, M) arrays.

    Raises:
        ConfigError: If there are no vectors.
        ShapeMismatch: If their lengths differ.
    """
    length, M = same_length(planes), len(planes)
    same_MM, opposite_MM = np.zeros((2, M, M), np.int64)
    plane = loops("plane")
    for _, _, P_MW, N_MW in blocks(planes, length):
        plane.pairs(P_MW.view(np.uint64), N_MW.view(np.uint64), same_MM, opposite_MM)
    return same_MM + np.triu(same_MM, 1).T, opposite_MM + np.triu(opposite_MM, 1).T


def dots(dense: Values, planes: Sequence[Planes], *, span: int | None = None) -> NDArray[np.float64]:
    """Return the inner products of one dense vector with each of several ternary ones.

    Products are exact and summed in float64, in an order that depends on positions alone: the same bits whatever other
    vectors are asked for, with compiled kernels and without. As in the dense formula, one NaN or infinity in ``dense``
    makes every product NaN or infinite, also where a ternary vector is zero.

    Args:
        dense: float32 or float64 tensor or array with n elements, of any shape, read in storage order.
        planes: M vectors of n elements each.
        span: If given, sums are kept apart by runs of so many elements (rows of a matrix), the last perhaps shorter.

    Returns:
        (M,), or (M, ceil(n/span)) if ``span`` is given.

    Raises:
        ShapeMismatch: If lengths differ.
        ConfigError: If there are no vectors, or the span is below 1.
        UnsupportedLayer: For another dtype, device or layout.
    """
    source = flat(dense, "the dense vector")
    length = same_length(planes)
    if source.size != length:
        raise ShapeMismatch(f"a dense vector of {source.size} elements with ternary vectors of {length}")
    if span is not None and span < 1:
        raise ConfigError(f"span is {span}; a run has at least one element")
    run = max(length, 1) if span is None else span
    sums_Mr = np.zeros((len(planes), 1 if span is None else -(-length // run)))
    plane = loops("plane")
    for start, stop, P_MW, N_MW in blocks(planes, length):
        plane.inner(source[start:stop], start, P_MW, N_MW, run, sums_Mr)
    return sums_Mr[:, 0] if span is None else sums_Mr
