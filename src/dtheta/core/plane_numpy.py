"""The loops of plane_kernels in plain NumPy: the same arguments, the same bits in the result.

What is summed in floating point is summed in the same order: ranges of ``RANGE`` elements one after the other, cut
where a run ends; in each of these parts element e in lane e mod ``LANES``, then the lanes added in halves.

Shape legend: M vectors, W bytes a plane, so 8 W elements at least; r runs; K digits of a counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Plane: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.uint64]
# These three are frozen into the machine code that numba keeps: after a change, touch plane_kernels.py.
RANGE = 4096  # elements whose expanded signs, sums and partners fit the first cache level
LANES = 256  # partial sums of an inner product
SMALLEST = 1e-8  # a divisor of smaller magnitude counts as 1
_quietly = np.errstate(over="ignore", invalid="ignore")  # infinity and NaN pass through, as in compiled loops
_CHUNK = 1 << 15  # words or bytes whose temporaries stay in the cache


def popcount(plane: Words) -> int:
    """Return the number of set bits."""
    return sum(int(np.bitwise_count(plane[i : i + _CHUNK]).sum(dtype=np.int64)) for i in range(0, plane.size, _CHUNK))


def agreement(p: Words, q: Words, u: Words, v: Words) -> tuple[int, int]:
    """Return how many elements of the vectors (p, q) and (u, v) have the same sign, and how many opposite signs."""
    same, opposite = 0, 0
    for i in range(0, p.size, _CHUNK):
        a, b, c, d = (plane[i : i + _CHUNK] for plane in (p, q, u, v))
        same += popcount((a & c) | (b & d))
        opposite += popcount((a & d) | (b & c))
    return same, opposite


def pairs(P_Mw: Words, N_Mw: Words, same_MM: NDArray[np.int64], opposite_MM: NDArray[np.int64]) -> None:
    """Add the counts of ``agreement`` for every two of M vectors, the first not after the second."""
    for i in range(len(P_Mw)):
        for j in range(i, len(P_Mw)):
            same, opposite = agreement(P_Mw[i], N_Mw[i], P_Mw[j], N_Mw[j])
            same_MM[i, j] += same
            opposite_MM[i, j] += opposite


def expand(p: Plane, q: Plane, signs: NDArray[np.int8]) -> None:
    """Write the elements of a vector of W bytes to (8 W,) ``signs``."""
    for b in range(0, p.size, _CHUNK):
        plus, minus = (np.unpackbits(x[b : b + _CHUNK], bitorder="little").view(np.int8) for x in (p, q))
        np.subtract(plus, minus, out=signs[8 * b : 8 * b + plus.size])


def runs(start: int, size: int, span: int) -> Iterator[tuple[int, int, int]]:
    """Yield (run, from, to): the runs that meet elements ``start ... start + size - 1``, counted from ``start``."""
    low, run = 0, start // span
    while low < size:
        high = min(size, (run + 1) * span - start)
        yield run, low, high
        low, run = high, run + 1


def _signs(p: Plane, q: Plane, size: int) -> NDArray[np.int8]:
    signs = np.empty(8 * p.size, np.int8)
    expand(p, q, signs)
    return signs[:size]


def _by_element(coef_r: NDArray[Any], start: int, size: int, span: int) -> Any:
    """Return the coefficient of each element of a range, or the only one there is."""
    return coef_r[0] if coef_r.size == 1 else coef_r[np.arange(start, start + size) // span]


@_quietly
def add(total: NDArray[Any], start: int, P_MW: Plane, N_MW: Plane, coef_Mr: NDArray[Any], span: int) -> None:
    """Add the multiples of M vectors, in order, to a range of a dense vector that begins at element ``start``."""
    for p, q, coef_r in zip(P_MW, N_MW, coef_Mr, strict=True):
        total += _by_element(coef_r, start, total.size, span) * _signs(p, q, total.size)


def _lane_sums(products: NDArray[Any]) -> float:
    """Return the sum: element e to lane e mod LANES, in order; then lanes are added in halves."""
    rows = np.zeros(-(-products.size // LANES) * LANES)
    rows[: products.size] = products
    lanes = np.add.accumulate(rows.reshape(-1, LANES), axis=0)[-1]  # unlike a sum, in order by definition
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return float(lanes[0])


@_quietly
def inner(x: NDArray[Any], start: int, P_MW: Plane, N_MW: Plane, span: int, sums_Mr: NDArray[np.float64]) -> None:
    """Add to ``sums_Mr`` the products of a range of a dense vector with M vectors, run by run."""
    for i, (p, q) in enumerate(zip(P_MW, N_MW, strict=True)):
        products = x * _signs(p, q, x.size)
        for low in range(0, x.size, RANGE):
            part = products[low : low + RANGE]
            for run, first, last in runs(start + low, part.size, span):
                sums_Mr[i, run] += _lane_sums(part[first:last])


def _count_in(digits_Kw: Words, plane: Words) -> None:
    """Add one plane to the counters whose binary digits are ``digits_Kw``, digit by digit."""
    carry = plane
    for digit in digits_Kw:
        carry, digit[:] = digit & carry, digit ^ carry


def _compare(p_Kw: Words, n_Kw: Words) -> tuple[Words, Words]:
    """Return where the first counter is greater than the second, and where both are equal."""
    more, equal = np.zeros_like(p_Kw[0]), ~np.zeros_like(p_Kw[0])
    for p, n in zip(p_Kw[::-1], n_Kw[::-1], strict=True):
        more |= equal & p & ~n
        equal &= ~(p ^ n)
    return more, equal


def vote(P_Mw: Words, N_Mw: Words, positive: Words, negative: Words) -> None:
    """Write the sign that most of M vectors have; the positive one where as many have either, and some do."""
    M, W = P_Mw.shape
    p_Kw, n_Kw = np.zeros((2, M.bit_length(), W), np.uint64)
    for p, n in zip(P_Mw, N_Mw, strict=True):
        _count_in(p_Kw, p)
        _count_in(n_Kw, n)
    more, equal = _compare(p_Kw, n_Kw)
    np.bitwise_and(more | equal, np.bitwise_or.reduce(p_Kw), out=positive)
    np.bitwise_not(more | equal, out=negative)


@_quietly
def consensus(
    start: int, P_MW: Plane, N_MW: Plane, span: int, elect_Mr: NDArray[np.float64], coef_Mr: NDArray[np.float64],
    share_M: NDArray[np.float64], factor: float, out: NDArray[Any],
) -> None:  # fmt: skip
    """Write factor * (mean of the entries with the elected sign) to a range that begins at element ``start``."""
    n = out.size
    sign, a, d = np.zeros((3, n))
    add(sign, start, P_MW, N_MW, elect_Mr, span)
    sign[:] = np.where(sign >= 0, 1.0, -1.0)
    for i, (p, q) in enumerate(zip(P_MW, N_MW, strict=True)):
        x = _by_element(coef_Mr[i], start, n, span) * _signs(p, q, n) * sign
        a += np.maximum(x, 0.0)
        d += np.where(x > 0, share_M[i], 0.0)
    out[:] = factor * (sign * (a / np.where(np.abs(d) >= SMALLEST, d, 1.0)))
