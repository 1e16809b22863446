"""Compiled loops of the selection by magnitude; the same functions in plain NumPy are in topk_numpy.

A comparison of a few thousand entries is written to bytes, which the compiler vectorizes; eight such bytes become eight
bits by one multiplication, whose partial products bring each of them to its place in the top byte.

Shape legend: n entries, R rows of C columns, W bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtheta.core.compiled import kernel
from dtheta.core.topk_numpy import Bits, Plane

_CHUNK = 4096
_GATHER, _TOP = np.uint64(0x0102040810204080), np.uint64(56)
_DIGITS = 8  # binary digits of a row's keys, counted at a time: few enough that the table costs less than the row


@kernel
def _mask(bits: Bits) -> int:
    """Return the bits of a key."""
    return bits.dtype.type(0x7FFFFFFF) if bits.itemsize == 4 else bits.dtype.type(0x7FFFFFFFFFFFFFFF)


@kernel
def _sign(bits: Bits) -> int:
    """Return the place of the sign."""
    return bits.dtype.type(31) if bits.itemsize == 4 else bits.dtype.type(63)


@kernel
def histogram(bits: Bits, shift: int, table: NDArray[np.int64]) -> None:
    """Count the entries by their keys' leading digits, ``key >> shift``."""
    mask, down = _mask(bits), bits.dtype.type(shift)
    for e in range(bits.size):
        table[(bits[e] & mask) >> down] += 1


@kernel
def refine(bits: Bits, upper: int, prefix: int, lower: int, table: NDArray[np.int64]) -> None:
    """Count the entries with ``key >> upper == prefix`` by their next digits, down to bit ``lower``."""
    unsigned = bits.dtype.type
    mask, high, low, wanted = _mask(bits), unsigned(upper), unsigned(lower), unsigned(prefix)
    rest = (unsigned(1) << unsigned(upper - lower)) - unsigned(1)
    inside = np.empty(_CHUNK, np.uint8)
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK]
        inside[part.size :] = 0
        for e in range(part.size):
            inside[e] = (part[e] & mask) >> high == wanted
        eights = inside.view(np.uint64)
        for b in range((part.size + 7) // 8):
            if eights[b]:
                for e in range(8 * b, min(8 * b + 8, part.size)):
                    if inside[e]:
                        table[((part[e] & mask) >> low) & rest] += 1


@kernel
def _flag(bits: Bits, above: int, ties: int, kept: NDArray[np.uint8]) -> int:
    """Write 1 where an entry is kept, else 0; return how many ties are left."""
    mask, bound = _mask(bits), bits.dtype.type(above)
    for e in range(bits.size):
        kept[e] = (bits[e] & mask) > bound
    if ties:
        for e in range(bits.size):
            if ties and (bits[e] & mask) == bound:
                kept[e] = 1
                ties -= 1
    return ties


@kernel
def _pack(bits: Bits, kept: NDArray[np.uint8], minus: NDArray[np.uint8], positive: Plane, negative: Plane) -> None:
    """Write the planes of flagged entries; ``kept`` and ``minus`` have room for a multiple of 8."""
    down = _sign(bits)
    for e in range(bits.size):
        minus[e] = bits[e] >> down
    eights, signs = kept.view(np.uint64), minus.view(np.uint64)
    for b in range((bits.size + 7) // 8):
        mask = (eights[b] * _GATHER) >> _TOP
        sign = (signs[b] * _GATHER) >> _TOP
        positive[b] = mask & ~sign
        negative[b] = mask & sign


@kernel
def mark(bits: Bits, above: int, ties: int, positive: Plane, negative: Plane) -> int:
    """Write the planes of the entries with ``key > above`` and of the first ``ties`` with ``key == above``.

    Returns how many of the ``ties`` are left.
    """
    kept, minus = np.zeros(_CHUNK, np.uint8), np.zeros(_CHUNK, np.uint8)
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK]
        kept[part.size :] = 0
        ties = _flag(part, above, ties, kept)
        _pack(part, kept, minus, positive[start // 8 :], negative[start // 8 :])
    return ties


@kernel
def _largest(bits: Bits) -> int:
    mask, largest = _mask(bits), bits.dtype.type(0)
    for e in range(bits.size):
        largest = max(largest, bits[e] & mask)
    return largest


@kernel
def _kth(bits: Bits, k: int, candidates: Bits, table: NDArray[np.int64]) -> tuple[int, int]:
    """Return the k-th largest key of a row, and how many of those equal to it are among the k largest.

    Keys are counted by their next digits, from the leading ones on; those that differ from the k-th are dropped.
    """
    unsigned, mask = bits.dtype.type, _mask(bits)
    size, upper = bits.size, 8 * bits.itemsize - 1
    for e in range(size):
        candidates[e] = bits[e] & mask
    while upper:
        lower = unsigned(max(upper - _DIGITS, 0))
        rest = (unsigned(1) << unsigned(upper - lower)) - unsigned(1)
        table[:] = 0
        for e in range(size):
            table[(candidates[e] >> lower) & rest] += 1
        digit = table.size - 1
        while table[digit] < k:
            k -= table[digit]
            digit -= 1
        wanted, left = unsigned(digit), 0
        for e in range(size):
            key = candidates[e]
            candidates[left] = key  # no branch: half of them would be guessed wrong
            left += (key >> lower) & rest == wanted
        size, upper = left, int(lower)
    return candidates[0], k


@kernel
def mark_rows(bits_RC: Bits, k: int, positive: Plane, negative: Plane) -> int:
    """Write the planes of the k largest entries of every row; zeros are not kept, the first of equals are.

    Returns -1, or the first row that is not finite.
    """
    R, C = bits_RC.shape
    infinity = 0x7F800000 if bits_RC.itemsize == 4 else 0x7FF0000000000000
    kept, minus = np.zeros(8 * positive.size, np.uint8), np.zeros(8 * positive.size, np.uint8)
    candidates = np.empty(C, bits_RC.dtype)
    table = np.empty(1 << _DIGITS, np.int64)
    for row in range(R):
        if _largest(bits_RC[row]) >= infinity:
            return row
        if k:
            above, ties = _kth(bits_RC[row], k, candidates, table)
            _flag(bits_RC[row], above, ties if above else 0, kept[row * C : row * C + C])
    _pack(bits_RC.reshape(-1), kept, minus, positive, negative)
    return -1
