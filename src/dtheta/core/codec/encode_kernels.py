"""Compiled encoding of bit planes to chunks. Imported only where kernels are used. Names as in ``decode_kernels.py``.

For every chunk: the numbers v of its nonzeros; the k that makes U and F shortest, exactly; U for one k less, through
rANS; and the shorter of the two is written, PLAIN where they are equally long.

Shape legend: all arrays are flat; ``x_8`` is the scratch x of 64-bit words seen as bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.core.codec.chunks import CODED, CODED_HEAD, MAX_K, PLAIN
from dtheta.core.codec.tables import frequencies, rare, starts
from dtheta.core.compiled import kernel

Array = Any  # numba finds the types of what it compiles
Word = Any
Bytes = NDArray[np.uint8]

_0, _1, _2, _4, _6, _8, _12, _16, _20, _56, _63 = (np.uint64(i) for i in (0, 1, 2, 4, 6, 8, 12, 16, 20, 56, 63))
_LOW, _BYTE = np.uint64(1 << 16), np.uint64(255)
_5555, _3333, _0F0F, _0101 = (np.uint64(b * 0x0101010101010101) for b in (0x55, 0x33, 0x0F, 0x01))


@kernel
def _ones(w: Word) -> Word:
    """Number of ones of a word; LLVM makes one instruction of it."""
    w = w - ((w >> _1) & _5555)
    w = (w & _3333) + ((w >> _2) & _3333)
    return (((w + (w >> _4)) & _0F0F) * _0101) >> _56


@kernel
def _words(plane: Array, target: Array) -> int:
    """Copy a plane to words, the last filled up with zeros. Returns their number."""
    target_8, words = target.view(np.uint8), (plane.size + 7) >> 3
    for i in range(plane.size):
        target_8[i] = plane[i]
    for i in range(plane.size, words << 3):
        target_8[i] = 0
    return words


@kernel
def _numbers(mask: Array, negative: Array, words: int, v: Array) -> int:
    """V = 2 gap + sign of every nonzero. Returns how many there are."""
    count, next_ = 0, _0
    for i in range(words):
        w, minus, base = mask[i], negative[i], np.uint64(i) << _6
        while w != _0:
            place = _ones((w & (_0 - w)) - _1)
            w &= w - _1
            v[count] = ((base + place - next_) << _1) | ((minus >> place) & _1)
            next_ = base + place + _1
            count += 1
    return count


@kernel
def _quotients(v: Array, k: int) -> int:
    """Sum of v >> k."""
    total, shift = 0, np.uint32(k)
    for i in range(v.size):
        total += v[i] >> shift
    return total


@kernel
def _parameter(v: Array) -> tuple[int, int]:
    """The least k that makes U and F shortest, and the sum of v >> k. Their length is convex in k."""
    k, total = 1, _quotients(v, 1)
    while k < MAX_K:
        further = _quotients(v, k + 1)
        if total - further <= v.size:
            break
        k, total = k + 1, further
    return k, total


@kernel
def _unary(v: Array, k: int, total: int, U: Array) -> int:
    """Write U. Returns its bytes."""
    bits, shift, at = v.size + total, np.uint32(k), _0
    U[: (bits >> 6) + 1] = 0
    for i in range(v.size):
        at += np.uint64(v[i] >> shift)
        U[at >> _6] |= _1 << (at & _63)
        at += _1
    return (bits + 7) >> 3


@kernel
def _fields(v: Array, k: int, F: Array) -> int:
    """Write F. Returns its bytes."""
    bits, width = v.size * k, np.uint64(k)
    F[: (bits >> 6) + 2] = 0
    field, at = (_1 << width) - _1, _0
    for i in range(v.size):
        f, j, s = np.uint64(v[i]) & field, at >> _6, at & _63
        F[j] |= f << s
        F[j + _1] |= (f >> _1) >> (_63 - s)
        at += width
    return (bits + 7) >> 3


@kernel
def _rans(
    U_8: Array, m: int, frequency: Array, start: Array, rare: Array, state: Array, data: Array
) -> tuple[int, int]:
    """Code m bytes, from the last to the first. Returns where in ``data`` words start and rare bytes end.

    Words are written downwards from byte 2 m, rare bytes upwards.
    """
    state[:] = _LOW
    first, end = 2 * m, 2 * m
    for j in range(m - 1, -1, -1):
        b, x = U_8[j], state[j & 3]
        if rare[b]:
            data[end] = b
            end += 1
        f = np.uint64(frequency[b])
        if x >= f << _20:
            first -= 2
            data[first], data[first + 1] = np.uint8(x & _BYTE), np.uint8((x >> _8) & _BYTE)
            x >>= _16
        quotient = np.uint64(np.uint32(x) // np.uint32(f))
        state[j & 3] = (quotient << _12) + (x - quotient * f) + np.uint64(start[b])
    return first, end


@kernel
def _write_number(target: Array, at: int, number: Word) -> None:
    for i in range(4):
        target[at + i] = np.uint8(number >> np.uint64(8 * i))


@kernel
def _write_bytes(target: Array, at: int, source_8: Array, m: int) -> int:
    for i in range(m):
        target[at + i] = source_8[i]
    return at + m


@kernel
def _chunk(
    v: Array, elements: int, frequencies: Array, starts: Array, rare: Array, U: Array, F: Array, data: Array,
    target: Array, at: int, row: Array,
) -> int:  # fmt: skip
    """Write one chunk that is not empty. Returns where it ends."""
    U_8, state = U.view(np.uint8), np.empty(4, np.uint64)
    k, total = _parameter(v)
    plain = ((v.size + total + 7) >> 3) + ((v.size * k + 7) >> 3)
    less = max(k - 1, 1) if 12 * v.size < elements else 1
    m = _unary(v, less, total if less == k else _quotients(v, less), U)
    q = min(max((256 * v.size + 8 * m) // (16 * m), 1), 127)
    first, end = _rans(U_8, m, frequencies[q], starts[q], rare[q], state, data)
    coded = CODED_HEAD + end - first + ((v.size * less + 7) >> 3)
    begin = at
    if coded < plain:
        row[0], k = CODED, less
        _write_number(target, at, np.uint64(m))
        for i in range(4):
            _write_number(target, at + 4 + 4 * i, state[i])
        at = _write_bytes(target, at + CODED_HEAD, data[first:], end - first)
    else:
        row[0] = PLAIN
        if less != k:
            m = _unary(v, k, total, U)
        at = _write_bytes(target, at, U_8, m)
    at = _write_bytes(target, at, F.view(np.uint8), _fields(v, k, F))
    row[1], row[2], row[3] = k, v.size, at - begin
    return at


@kernel
def _all(
    mask: Array, negative: Array, n: int, size: int, most: int, frequencies: Array, starts: Array, rare: Array,
    target: Array, at: int, rows: Array,
) -> int:  # fmt: skip
    words = (min(size, n) + 63) >> 6
    plane, minus, U = np.empty(words, np.uint64), np.empty(words, np.uint64), np.empty(words + 1, np.uint64)
    v, data = np.empty(most, np.uint32), np.empty(24 * words, np.uint8)
    F = np.empty(((most * MAX_K) >> 6) + 2, np.uint64)
    for i in range(len(rows)):
        end = min((i + 1) * size, n)
        a, b = (i * size) >> 3, (end + 7) >> 3
        used = _words(mask[a:b], plane)
        _words(negative[a:b], minus)
        count = _numbers(plane, minus, used, v)
        rows[i] = 0
        if count:
            elements = end - i * size
            at = _chunk(v[:count], elements, frequencies, starts, rare, U, F, data, target, at, rows[i])
    return at


def encode_chunks(
    mask: Bytes, negative: Bytes, n: int, size: int, most: int, target: Bytes, at: int, rows: NDArray[np.int64]
) -> int:
    """Write the chunks of two planes of n elements.

    Args:
        mask: (ceil(n / 8),) ones where an element is not zero.
        negative: (ceil(n / 8),) ones where an element is -1; all of them ones of the mask.
        n: Number of elements.
        size: Elements of a chunk that is not the last; a multiple of 64.
        most: Largest number of nonzeros of a chunk.
        target: Receives the chunks; 2 bytes for each byte of the mask and 1 for each chunk are enough.
        at: Where in ``target`` the first chunk goes.
        rows: (chunks, 4) receives codec, k, count and length of each.

    Returns:
        Where in ``target`` the last chunk ends.
    """
    return _all(mask, negative, n, size, most, frequencies(), starts(), rare(), target, at, rows)
