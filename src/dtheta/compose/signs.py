"""Sums and inner products of many ternary vectors with one dense vector, in one pass over it.

    add       out = x + sum_i c_i t_i       bit for bit what core's ``add_scaled`` gives
    inner     s_i = <g, t_i>                bit for bit what core's ``dots`` gives

Whole ranges of elements go through the byte kernels where those can run; the rest, and everything where they cannot,
through the loops of core. The bits are the same, so which path ran does not show.

Shape legend: M vectors of N elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.compiled import numba_enabled
from dtheta.core.flat import flat
from dtheta.core.plane_numpy import RANGE
from dtheta.core.plane_products import dots
from dtheta.core.plane_sums import add_scaled
from dtheta.core.planes import Planes, same_length
from dtheta.errors import ShapeMismatch


def add(base: Tensor, planes: Sequence[Planes], factors: Sequence[float], out: Tensor) -> None:
    """Write ``base + sum_i factors[i] planes[i]`` to ``out``, which may be ``base`` itself.

    Args:
        base: N float32 or float64 elements on the CPU, of any shape, read in storage order.
        planes: M vectors of N elements.
        factors: M finite numbers, rounded to the dtype of ``base``.
        out: Like ``base``, contiguous.

    Raises:
        ShapeMismatch, UnsupportedLayer, ConfigError, NonFinite: As ``core.plane_sums.add_scaled``.
    """
    source, result = flat(base, "the base"), flat(out, "the buffer", written=True)
    whole = _whole(source, planes)
    if whole:
        _bytes().add(source[:whole], planes, np.asarray(factors, np.float32), result[:whole])
    if whole < source.size or not whole:
        add_scaled(source[whole:], _rest(planes, whole), factors, out=result[whole:])


def inner(dense: Tensor, planes: Sequence[Planes]) -> NDArray[np.float64]:
    """Return the inner products of a dense vector with each of M ternary ones, (M,) float64.

    Args:
        dense: N float32 or float64 elements on the CPU, of any shape, read in storage order.
        planes: M vectors of N elements.

    Raises:
        ShapeMismatch, UnsupportedLayer, ConfigError: As ``core.plane_products.dots``.
    """
    source = flat(dense, "the gradient")
    whole = _whole(source, planes)
    sums_M = np.zeros(len(planes))
    if whole:
        _bytes().inner(source[:whole], planes, sums_M)
    return sums_M + dots(source[whole:], _rest(planes, whole)) if whole < source.size or not whole else sums_M


def _whole(dense: NDArray[Any], planes: Sequence[Planes]) -> int:
    """Return how many elements, from the first, the byte kernels take."""
    length = same_length(planes)
    if dense.size != length:
        raise ShapeMismatch(f"a dense vector of {dense.size} elements with ternary vectors of {length}")
    fits = dense.dtype == np.float32 and dense.flags.c_contiguous and numba_enabled()
    return length // RANGE * RANGE if fits else 0


def _rest(planes: Sequence[Planes], start: int) -> list[Planes]:
    return [p.part(start, p.length) for p in planes] if start else list(planes)


def _bytes() -> Any:
    from dtheta.compose import byte_kernels  # loads numba

    return byte_kernels
