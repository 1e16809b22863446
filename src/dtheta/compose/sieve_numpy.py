"""The loops of sieve_kernels in plain NumPy: the same arguments, the same bits in the result.

Shape legend: M vectors, B entries of a range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.compose.partition import _GOLDEN, _STEPS
from dtheta.core.plane_numpy import SMALLEST
from dtheta.core.topk_numpy import Bits, infinity

_quietly = np.errstate(over="ignore", invalid="ignore")  # found in the result, with its place


def _flag(bits: Bits, above: int, ties: int) -> tuple[NDArray[np.bool_], int]:
    keys = bits & np.iinfo(bits.dtype).max >> 1
    kept = keys > above
    equal = np.flatnonzero(keys == above)[:ties]
    kept[equal] = True
    return kept, ties - equal.size


@_quietly
def window(
    values: NDArray[Any], bits: Bits, low: int, low_ties: int, high: int, high_ties: int, coef: float, out: NDArray[Any]
) -> tuple[int, int]:
    """Write ``coef`` times the entries above one threshold and not above the other; return the ties left of both."""
    kept, low_ties = _flag(bits, low, low_ties)
    top, high_ties = _flag(bits, high, high_ties)
    out[:] = np.where(kept & ~top, coef * values.astype(np.float64), 0.0)
    return low_ties, high_ties


@_quietly
def draw(values: NDArray[Any], bits: Bits, key: int, first: int, limit: int, coef: float, out: NDArray[Any]) -> bool:
    """Write ``coef`` times the drawn entries, of which the first is number ``first``; return whether all are finite."""
    z = np.arange(first + 1, first + 1 + values.size, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    for shift, factor in _STEPS:
        z = (z ^ z >> np.uint64(shift)) * np.uint64(factor)
    z ^= z >> np.uint64(31)
    finite = bool(((bits & np.iinfo(bits.dtype).max >> 1) < infinity(values.dtype)).all())
    out[:] = np.where(z >> np.uint64(11) < limit, coef * values.astype(np.float64), 0.0)
    return finite


@_quietly
def total(x_MB: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Write the sum of M vectors, in order."""
    sum_ = np.zeros(out.size)
    for x in x_MB:
        sum_ += x
    out[:] = sum_


@_quietly
def consensus(
    x_MB: NDArray[np.float64], by_count: bool, share_M: NDArray[np.float64], factor: float, out: NDArray[Any]
) -> None:
    """Write factor * (sum of the entries with the elected sign) / (sum of their shares)."""
    sign, a, d = np.zeros((3, out.size))
    for x in x_MB:
        sign += np.sign(x) if by_count else x
    sign[:] = np.where(sign >= 0, 1.0, -1.0)
    for x, share in zip(x_MB, share_M, strict=True):
        y = x * sign
        a += np.maximum(y, 0.0)
        d += np.where(y > 0, share, 0.0)
    out[:] = factor * (sign * (a / np.where(np.abs(d) >= SMALLEST, d, 1.0)))
