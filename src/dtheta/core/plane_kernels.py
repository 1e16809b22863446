"""Compiled loops over bit planes; the same functions in plain NumPy are in plane_numpy.

Bits become numbers in two steps: a table of 64-bit words spreads each byte over eight int8 elements in a buffer that
stays in the first cache level, and a plain loop over that buffer, which the compiler vectorizes, does the arithmetic.
Everything runs over short ranges of ``RANGE`` elements, so that what several vectors meet is read from memory once.

A *run* is the ``span`` consecutive elements that share one coefficient (a row of a matrix; the last may be shorter).

Shape legend: M vectors, W bytes a plane, so 8 W elements at least; r runs; K digits of a counter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dtheta.core.compiled import kernel
from dtheta.core.plane_numpy import LANES, RANGE, SMALLEST, Plane, Words

_SPREAD = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
PLUS = _SPREAD.view(np.uint64).ravel().copy()  # by byte: eight int8 elements, +1 where a bit is set
MINUS = (_SPREAD * np.uint8(255)).view(np.uint64).ravel().copy()  # the same with -1
_BLOCK = RANGE // 8
_WORDS = 256  # of 64 bits: the counters of up to seven vectors fit the first cache level
ZERO, ONES = np.uint64(0), np.uint64(2**64 - 1)


def _count_bits(typing: Any, word: Any) -> Any:
    """Return the number of set bits of a 64-bit word, by the processor's own instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


_set_bits: Any = intrinsic(_count_bits)


@kernel
def popcount(plane: Words) -> np.int64:
    """Return the number of set bits."""
    found = np.uint64(0)
    for i in range(plane.size):
        found += _set_bits(plane[i])
    return np.int64(found)


@kernel
def agreement(p: Words, q: Words, u: Words, v: Words) -> tuple[np.int64, np.int64]:
    """Return how many elements of the vectors (p, q) and (u, v) have the same sign, and how many opposite signs."""
    same, opposite = np.uint64(0), np.uint64(0)
    for i in range(p.size):
        same += _set_bits((p[i] & u[i]) | (q[i] & v[i]))
        opposite += _set_bits((p[i] & v[i]) | (q[i] & u[i]))
    return np.int64(same), np.int64(opposite)


@kernel
def pairs(P_Mw: Words, N_Mw: Words, same_MM: NDArray[np.int64], opposite_MM: NDArray[np.int64]) -> None:
    """Add the counts of ``agreement`` for every two of M vectors, the first not after the second."""
    for i in range(P_Mw.shape[0]):
        for j in range(i, P_Mw.shape[0]):
            same, opposite = agreement(P_Mw[i], N_Mw[i], P_Mw[j], N_Mw[j])
            same_MM[i, j] += same
            opposite_MM[i, j] += opposite


@kernel
def expand(p: Plane, q: Plane, signs: NDArray[np.int8]) -> None:
    """Write the elements of a vector of W bytes to (8 W,) ``signs``."""
    out = signs.view(np.uint64)
    for b in range(p.size):
        out[b] = PLUS[p[b]] | MINUS[q[b]]


@kernel
def _within(run: int, start: int, size: int, span: int) -> tuple[int, int]:
    """Return where a run begins and ends in the ``size`` elements that follow element ``start``."""
    return max(0, run * span - start), min(size, (run + 1) * span - start)


@kernel
def _accumulate(x: NDArray[Any], t: NDArray[np.int8], c: Any) -> None:
    for e in range(x.size):
        x[e] += c * x.dtype.type(t[e])


@kernel
def add(total: NDArray[Any], start: int, P_MW: Plane, N_MW: Plane, coef_Mr: NDArray[Any], span: int) -> None:
    """Add the multiples of M vectors, in order, to a range of a dense vector that begins at element ``start``."""
    signs = np.empty(RANGE, np.int8)
    for b in range(0, P_MW.shape[1], _BLOCK):
        x = total[8 * b : 8 * b + RANGE]
        for i in range(P_MW.shape[0]):
            expand(P_MW[i, b : b + _BLOCK], N_MW[i, b : b + _BLOCK], signs)
            for run in range((start + 8 * b) // span, (start + 8 * b + x.size - 1) // span + 1):
                low, high = _within(run, start + 8 * b, x.size, span)
                _accumulate(x[low:high], signs[low:high], coef_Mr[i, run])


@kernel
def _lane_sums(x: NDArray[Any], t: NDArray[np.int8], lanes: NDArray[np.float64]) -> float:
    """Return sum x t: element e to lane e mod LANES, in order; then lanes are added in halves."""
    width = LANES
    while width >= 2 * x.size and width > 1:  # the lanes left out would stay zero
        width //= 2
    lanes[:width] = 0.0
    for row in range(0, x.size, width):
        x_L, t_L = x[row : row + width], t[row : row + width]
        for lane in range(x_L.size):
            lanes[lane] += np.float64(x_L[lane] * x.dtype.type(t_L[lane]))
    while width > 1:
        width //= 2
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
    return lanes[0]


@kernel
def inner(x: NDArray[Any], start: int, P_MW: Plane, N_MW: Plane, span: int, sums_Mr: NDArray[np.float64]) -> None:
    """Add to ``sums_Mr`` the products of a range of a dense vector with M vectors, run by run."""
    signs, lanes = np.empty(RANGE, np.int8), np.empty(LANES)
    for b in range(0, P_MW.shape[1], _BLOCK):
        x_B = x[8 * b : 8 * b + RANGE]
        for i in range(P_MW.shape[0]):
            expand(P_MW[i, b : b + _BLOCK], N_MW[i, b : b + _BLOCK], signs)
            for run in range((start + 8 * b) // span, (start + 8 * b + x_B.size - 1) // span + 1):
                low, high = _within(run, start + 8 * b, x_B.size, span)
                sums_Mr[i, run] += _lane_sums(x_B[low:high], signs[low:high], lanes)


@kernel
def _count_in(digits_Kw: Words, a: Words, b: Words, carry: Words, depth: int) -> None:
    """Add two planes at once to the counters whose binary digits are ``digits_Kw``: a full adder, then carries."""
    digit = digits_Kw[0]
    for i in range(carry.size):
        old, one = digit[i], a[i] ^ b[i]
        digit[i] = old ^ one
        carry[i] = (a[i] & b[i]) | (old & one)
    for k in range(1, depth):
        digit = digits_Kw[k]
        for i in range(carry.size):
            old = digit[i]
            digit[i] = old ^ carry[i]
            carry[i] &= old


@kernel
def _width(number: int) -> int:
    """Return the binary digits of a number."""
    digits = 0
    while number >> digits:
        digits += 1
    return digits


@kernel
def _compare(p_Kw: Words, n_Kw: Words, more: Words, equal: Words) -> None:
    """Write where the first counter is greater, and where both are equal."""
    more[:], equal[:] = ZERO, ONES
    for k in range(p_Kw.shape[0] - 1, -1, -1):
        p, n = p_Kw[k], n_Kw[k]
        for i in range(more.size):
            differs = p[i] ^ n[i]
            more[i] |= equal[i] & differs & p[i]
            equal[i] &= ~differs


@kernel
def vote(P_Mw: Words, N_Mw: Words, positive: Words, negative: Words) -> None:
    """Write the sign that most of M vectors have; the positive one where as many have either, and some do."""
    M, W = P_Mw.shape
    digits = _width(M)
    masks, nil = np.empty((3, _WORDS), np.uint64), np.zeros(_WORDS, np.uint64)
    for start in range(0, W, _WORDS):
        here = slice(start, start + _WORDS)
        p, q = positive[here], negative[here]
        p_Kw, n_Kw = np.zeros((digits, p.size), np.uint64), np.zeros((digits, p.size), np.uint64)
        more, equal, carry = masks[0, : p.size], masks[1, : p.size], masks[2, : p.size]
        for i in range(0, M, 2):
            depth = _width(min(i + 2, M))
            a, b = P_Mw[i, here], N_Mw[i, here]
            c, d = (P_Mw[i + 1, here], N_Mw[i + 1, here]) if i + 1 < M else (nil, nil)
            _count_in(p_Kw, a, c, carry, depth)
            _count_in(n_Kw, b, d, carry, depth)
        _compare(p_Kw, n_Kw, more, equal)
        p[:] = p_Kw[0]
        for k in range(1, digits):
            digit = p_Kw[k]
            for i in range(p.size):
                p[i] |= digit[i]
        for i in range(p.size):
            p[i] &= more[i] | equal[i]
            q[i] = ~(more[i] | equal[i])


@kernel
def _agreeing(v: NDArray[np.int8], sign: NDArray[np.float64], c: float, s: float, a: Any, d: Any) -> None:
    """Add the entries c v that have the elected sign to ``a``, and their share s to ``d``."""
    for e in range(v.size):
        x = c * np.float64(v[e]) * sign[e]
        a[e] += max(x, 0.0)
        d[e] += s if x > 0.0 else 0.0


@kernel
def consensus(
    start: int, P_MW: Plane, N_MW: Plane, span: int, elect_Mr: NDArray[np.float64], coef_Mr: NDArray[np.float64],
    share_M: NDArray[np.float64], factor: float, out: NDArray[Any],
) -> None:  # fmt: skip
    """Write factor * (mean of the entries with the elected sign) to a range that begins at element ``start``."""
    M, size = P_MW.shape[0], RANGE
    signs, floats = np.empty((M, size), np.int8), np.empty((3, size))
    for b in range(0, P_MW.shape[1], _BLOCK):
        y = out[8 * b : 8 * b + size]
        sign, a, d = floats[0, : y.size], floats[1, : y.size], floats[2, : y.size]
        sign[:], a[:], d[:] = 0.0, 0.0, 0.0
        for i in range(M):
            expand(P_MW[i, b : b + _BLOCK], N_MW[i, b : b + _BLOCK], signs[i])
            for run in range((start + 8 * b) // span, (start + 8 * b + y.size - 1) // span + 1):
                low, high = _within(run, start + 8 * b, y.size, span)
                _accumulate(sign[low:high], signs[i, low:high], elect_Mr[i, run])
        for e in range(y.size):
            sign[e] = 1.0 if sign[e] >= 0.0 else -1.0
        for i in range(M):
            for run in range((start + 8 * b) // span, (start + 8 * b + y.size - 1) // span + 1):
                low, high = _within(run, start + 8 * b, y.size, span)
                t, s = signs[i, low:high], sign[low:high]
                _agreeing(t, s, coef_Mr[i, run], share_M[i], a[low:high], d[low:high])
        for e in range(y.size):
            y[e] = factor * (sign[e] * (a[e] / (d[e] if abs(d[e]) >= SMALLEST else 1.0)))
