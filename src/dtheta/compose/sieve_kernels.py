"""Compiled loops of the merges that look at entries; the same functions in plain NumPy are in sieve_numpy.

First a *sieve* writes a vector's entries, weighted, or zero where they are dropped, in float64; then the vectors of a
range are joined to one. Ranges are short, so that between both nothing leaves the cache.

Shape legend: M vectors, B entries of a range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.compose.partition import _GOLDEN, _STEPS
from dtheta.core.compiled import kernel
from dtheta.core.plane_numpy import SMALLEST
from dtheta.core.topk_kernels import _flag, _mask
from dtheta.core.topk_numpy import Bits

_STEP, _ONE, _DOWN, _LAST = np.uint64(_GOLDEN), np.uint64(1), np.uint64(11), np.uint64(31)
(_SHIFT_1, _FACTOR_1), (_SHIFT_2, _FACTOR_2) = [(np.uint64(s), np.uint64(f)) for s, f in _STEPS]


@kernel
def window(
    values: NDArray[Any], bits: Bits, low: int, low_ties: int, high: int, high_ties: int, coef: float, out: NDArray[Any]
) -> tuple[int, int]:
    """Write ``coef`` times the entries above one threshold and not above the other; return the ties left of both."""
    kept = np.empty(bits.size, np.uint8)
    low_ties = _flag(bits, low, low_ties, kept)
    if bits.dtype.type(high) < _mask(bits):  # else there is no upper threshold
        top = np.empty(bits.size, np.uint8)
        high_ties = _flag(bits, high, high_ties, top)
        for e in range(kept.size):
            kept[e] &= np.uint8(1) - top[e]
    for e in range(out.size):
        out[e] = coef * np.float64(values[e]) if kept[e] else 0.0
    return low_ties, high_ties


@kernel
def draw(values: NDArray[Any], bits: Bits, key: int, first: int, limit: int, coef: float, out: NDArray[Any]) -> bool:
    """Write ``coef`` times the drawn entries, of which the first is number ``first``; return whether all are finite."""
    start, bound, mask = np.uint64(key) + np.uint64(first + 1) * _STEP, np.uint64(limit), _mask(bits)
    infinity = 0x7F800000 if bits.itemsize == 4 else 0x7FF0000000000000
    largest = bits.dtype.type(0)
    for e in range(out.size):
        z = start + np.uint64(e) * _STEP
        z = (z ^ (z >> _SHIFT_1)) * _FACTOR_1
        z = (z ^ (z >> _SHIFT_2)) * _FACTOR_2
        z ^= z >> _LAST
        out[e] = coef * np.float64(values[e]) if (z >> _DOWN) < bound else 0.0
    for e in range(bits.size):
        largest = max(largest, bits[e] & mask)
    return largest < infinity


@kernel
def total(x_MB: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Write the sum of M vectors, in order."""
    sum_ = np.zeros(out.size)
    for i in range(x_MB.shape[0]):
        x = x_MB[i]
        for e in range(sum_.size):
            sum_[e] += x[e]
    for e in range(out.size):
        out[e] = sum_[e]


@kernel
def consensus(
    x_MB: NDArray[np.float64], by_count: bool, share_M: NDArray[np.float64], factor: float, out: NDArray[Any]
) -> None:
    """Write factor * (sum of the entries with the elected sign) / (sum of their shares)."""
    floats = np.zeros((3, out.size))
    sign, a, d = floats[0], floats[1], floats[2]
    for i in range(x_MB.shape[0]):
        x = x_MB[i]
        if by_count:
            for e in range(sign.size):
                sign[e] += (1.0 if x[e] > 0.0 else 0.0) - (1.0 if x[e] < 0.0 else 0.0)
        else:
            for e in range(sign.size):
                sign[e] += x[e]
    for e in range(sign.size):
        sign[e] = 1.0 if sign[e] >= 0.0 else -1.0
    for i in range(x_MB.shape[0]):
        x, share = x_MB[i], share_M[i]
        for e in range(sign.size):
            y = x[e] * sign[e]
            a[e] += max(y, 0.0)
            d[e] += share if y > 0.0 else 0.0
    for e in range(out.size):
        out[e] = factor * (sign[e] * (a[e] / (d[e] if abs(d[e]) >= SMALLEST else 1.0)))
