"""Sums of multiples of ternary vectors, added to a dense one in one pass over it.

    theta <- theta_0 + sum_i c_i t_i

Each entry is ((theta_0 + c_1 t_1) + c_2 t_2) + ..., rounded after every sum to the dtype of theta: bit for bit what
adding the dense vectors c_i t_i one by one gives. Blocks of theta stay in the cache while all the vectors meet them,
so theta is read and written once, however many there are. This is the composition of task vectors (Ilharco et al.
2022, arXiv 2212.04089; with coefficients by block, aTLAS, arXiv 2407.02880) on ternary vectors (arXiv 2311.13171).

Shape legend: M vectors, r runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.compiled import loops
from dtheta.core.flat import flat
from dtheta.core.plane_blocks import Factors, blocks, coefficients
from dtheta.core.planes import Planes, same_length
from dtheta.errors import ShapeMismatch

Dense = TypeVar("Dense", NDArray[np.float32], NDArray[np.float64], Tensor)


def add_scaled(
    total: Dense, planes: Sequence[Planes], factors: Factors, *, span: int | None = None, out: Dense | None = None
) -> Dense:
    """Add multiples of ternary vectors to a dense one, in place or into another.

    Args:
        total: float32 or float64 tensor or array with n elements, of any shape, read in storage order. Changed unless
            ``out`` is given. NaN and infinity pass through.
        planes: Vectors of n elements each.
        factors: For each vector a number, or an array of one number per ``span`` elements (scales of rows or blocks).
            They are rounded to the dtype of ``total`` first.
        span: Elements that share a number of an array; the last may have fewer.
        out: Takes the result instead; same dtype and number of elements as ``total``.

    Returns:
        ``out``, or ``total`` itself.

    Raises:
        ShapeMismatch: If lengths or the number of factors do not fit.
        ConfigError: If the result cannot be written in place, or there are no vectors.
        UnsupportedLayer: For another dtype, device or layout.
        NonFinite: If a factor is not finite.
    """
    source = flat(total, "the dense vector", written=out is None)
    result = source if out is None else flat(out, "the vector for the result", written=True)
    length = same_length(planes)
    if source.size != length or result.size != length or source.dtype != result.dtype:
        raise ShapeMismatch(
            f"a dense vector of {source.size} elements ({source.dtype}) with ternary vectors of {length}, "
            f"into {result.size} elements ({result.dtype}); all must agree"
        )
    coef_Mr, run = coefficients(factors, len(planes), length, span, source.dtype, "factors")
    plane = loops("plane")
    for start, stop, P_MW, N_MW in blocks(planes, length):
        if out is not None:
            np.copyto(result[start:stop], source[start:stop])
        plane.add(result[start:stop], start, P_MW, N_MW, coef_Mr, run)
    return total if out is None else out
