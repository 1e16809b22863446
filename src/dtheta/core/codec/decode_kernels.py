"""Compiled decoding of chunks: bytes to bit planes, or straight to int8. Imported only where kernels are used.

    U    as it is, or by rANS with four states that take turns: byte j of U belongs to state j mod 4
    F    fields of k bits;  u_i = place of the i-th one of U,  v_i = (u_i - i) << k | field_i
    i-th nonzero: element (v_0 >> 1) + ... + (v_i >> 1) + i, sign v_i & 1

Nothing that the bytes say is believed: the parts of a chunk are copied to scratch with zeros behind them, the ones of U
are counted before a field is read, every element is compared with the length of the chunk before it is written, and
rANS stops where its words end.

All kernels are in this file because numba's cache on disk does not see a change in a file that a kernel calls into.

Shape legend: all arrays are flat; ``x_8`` is the scratch x of 64-bit words seen as bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.core.codec.chunks import CODED, CODED_HEAD, EMPTY, Fault
from dtheta.core.codec.tables import deposits, escapes, rare, slots, widened
from dtheta.core.compiled import kernel

Array = Any  # numba finds the types of what it compiles
Word = Any
Bytes = NDArray[np.uint8]

_COUNT, _UNUSED, _OUTSIDE, _ZERO_BYTE = (int(f) for f in (Fault.COUNT, Fault.UNUSED, Fault.OUTSIDE, Fault.ZERO_BYTE))
_SIZE, _STATE, _LEFT_OVER, _RARE = (int(f) for f in (Fault.SIZE, Fault.STATE, Fault.LEFT_OVER, Fault.RARE))
_0, _1, _2, _3, _4, _6, _7, _8 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 6, 7, 8))
_12, _16, _20, _24, _56, _63 = (np.uint64(i) for i in (12, 16, 20, 24, 56, 63))
_BYTE, _SLOT, _LOW = np.uint64(255), np.uint64(4095), np.uint64(1 << 16)
_5555, _3333, _0F0F, _0101, _8080 = (np.uint64(b * 0x0101010101010101) for b in (0x55, 0x33, 0x0F, 0x01, 0x80))


@kernel
def _ones(w: Word) -> Word:
    """Number of ones of a word; LLVM makes one instruction of it."""
    w = w - ((w >> _1) & _5555)
    w = (w & _3333) + ((w >> _2) & _3333)
    return (((w + (w >> _4)) & _0F0F) * _0101) >> _56


@kernel
def _output(source_8: Array, target: Array) -> None:
    for i in range(target.size):
        target[i] = source_8[i]


@kernel
def _ended(target_8: Array, m: Word) -> None:
    """Write zeros behind m bytes: to the end of the word and two words more."""
    for i in range(m, ((m + 7) & ~7) + 16):
        target_8[i] = 0


@kernel
def _copied(source: Array, start: int, m: int, target_8: Array) -> None:
    _output(source[start : start + m], target_8[:m])
    _ended(target_8, m)


@kernel
def _number(source: Array, start: int) -> Word:
    """Four bytes as a number."""
    low = np.uint64(source[start]) | np.uint64(source[start + 1]) << _8
    return low | np.uint64(source[start + 2]) << _16 | np.uint64(source[start + 3]) << _24


@kernel
def _advanced(x: Word, slot: Word, word: Word) -> tuple[Word, Word]:
    """The state after a byte, refilled by a word where it has become small, and whether it was (without a branch)."""
    x = (slot >> _20) * (x >> _12) + ((slot >> _8) & _SLOT)
    refilled, small = (x << _16) | word, x < _LOW
    return (refilled if small else x), np.uint64(small)


@kernel
def _rans(data: Array, nbytes: int, state: Array, slots: Array, m: Word, U_8: Array) -> Word:
    """Undo rANS: m bytes from the words that start ``nbytes`` bytes. Returns how many it took, or minus a fault."""
    words = data.view(np.uint16)
    x0, x1, x2, x3 = state[0], state[1], state[2], state[3]
    at, limit = _0, np.uint64(nbytes >> 1)
    for group in range(m >> 2):
        j = np.uint64(group) << _2  # unsigned: a signed index would first be asked whether it counts from the end
        e0, e1 = np.uint64(slots[x0 & _SLOT]), np.uint64(slots[x1 & _SLOT])
        e2, e3 = np.uint64(slots[x2 & _SLOT]), np.uint64(slots[x3 & _SLOT])
        U_8[j], U_8[j + _1], U_8[j + _2], U_8[j + _3] = np.uint8(e0), np.uint8(e1), np.uint8(e2), np.uint8(e3)
        x0, need = _advanced(x0, e0, np.uint64(words[at]))
        at += need
        x1, need = _advanced(x1, e1, np.uint64(words[at]))
        at += need
        x2, need = _advanced(x2, e2, np.uint64(words[at]))
        at += need
        x3, need = _advanced(x3, e3, np.uint64(words[at]))
        at += need
        if at > limit:  # zeros follow the words, so the last four looks were harmless
            return -_LEFT_OVER
    state[0], state[1], state[2], state[3] = x0, x1, x2, x3
    for j in range(m & ~3, m):
        e0 = np.uint64(slots[state[j & 3] & _SLOT])
        U_8[j] = np.uint8(e0)
        state[j & 3], need = _advanced(state[j & 3], e0, np.uint64(words[at]))
        at += need
    return np.int64(at)


@kernel
def _completed(U_8: Array, m: Word, escape: Word, rare: Array, raw_8: Array) -> int:
    """Put rare bytes, the last first, where the escape stands. Returns a fault or 0."""
    left, U, every = raw_8.size, U_8.view(np.uint64), np.uint64(escape) * _0101
    for i in range((m + 7) >> 3 if escape < 256 else 0):
        other = U[i] ^ every
        if (other - _0101) & ~other & _8080:  # a byte of it is zero
            for j in range(i << 3, min((i << 3) + 8, m)):
                if U_8[j] == escape:
                    left -= 1
                    if left < 0:
                        return _LEFT_OVER
                    U_8[j] = raw_8[left]
                    if not rare[raw_8[left]]:
                        return _RARE
    return _LEFT_OVER if left else 0


@kernel
def _uncoded(
    payload: Array, start: int, nbytes: int, most: int, count: int,
    slots: Array, escapes: Array, rare: Array, data: Array, U_8: Array,
) -> Word:  # fmt: skip
    """Read the U of a coded chunk. Returns its bytes, or minus a fault."""
    m = np.int64(_number(payload, start))
    if m < (count + 7) >> 3 or m > most:
        return -_SIZE
    state = np.empty(4, np.uint64)
    for i in range(4):
        state[i] = _number(payload, start + 4 + 4 * i)
        if state[i] < _LOW:
            return -_STATE
    nbytes -= CODED_HEAD
    data_8 = data.view(np.uint8)
    _copied(payload, start + CODED_HEAD, nbytes, data_8)
    q = min(max((256 * count + 8 * m) // (16 * m), 1), 127)
    at = _rans(data, nbytes, state, slots[q], m, U_8)
    if at < 0 or 2 * at > nbytes:
        return -_LEFT_OVER
    if state[0] != _LOW or state[1] != _LOW or state[2] != _LOW or state[3] != _LOW:
        return -_STATE
    fault = _completed(U_8, m, np.int64(escapes[q]), rare[q], data_8[2 * at : nbytes])
    _ended(U_8, m)
    return -fault if fault else m


@kernel
def _window(F: Array, at: Word) -> Word:
    """The 64 bits of F from a place on."""
    i, s = at >> _6, at & _63
    return (F[i] >> s) | ((F[i + _1] << _1) << (_63 - s))


@kernel
def _signs(U: Array, m: int, F: Array, deposits: Array, negative_8: Array) -> None:
    """For k = 1: U is the mask itself, F the signs of its ones."""
    U_8, at = U.view(np.uint8), _0
    for i in range((m + 7) >> 3):
        signs = _window(F, at)
        for byte in range(8):
            j = (np.uint64(i) << _3) | np.uint64(byte)
            b = np.uint64(U_8[j])
            negative_8[j] = deposits[(b << _8) | (signs & _BYTE)]
            signs >>= _ones(b)
        at += _ones(U[i])


@kernel
def _scattered(U: Array, words: int, F: Array, k: int, elements: int, mask: Array, negative: Array) -> bool:
    """For k > 1: gaps and signs to planes of zeros. Returns whether all elements lie inside."""
    width, number, low, end = np.uint64(k), _0, _0, np.uint64(elements)
    field, above = (_1 << width) - _1, width - _1
    last, ones, signs = _0, _0, _0
    for i in range(words):
        w, base = U[i], np.uint64(i) << _6
        while w != _0:
            zeros = base + _ones((w & (_0 - w)) - _1) - number
            w &= w - _1
            f = _window(F, number * width) & field
            low += f >> _1
            at = (zeros << above) + low + number
            if at >= end:
                return False
            same, place = _0 - np.uint64(at >> _6 == last), at & _63
            last = at >> _6
            ones, signs = (ones & same) | (_1 << place), (signs & same) | ((f & _1) << place)
            mask[last], negative[last] = ones, signs  # stored again and again: cheaper than loads that wait for stores
            number += _1
    return True


@kernel
def _chunk(
    payload: Array, start: int, length: int, codec: int, k: int, count: int, elements: int,
    slots: Array, escapes: Array, rare: Array, deposits: Array,
    U: Array, F: Array, data: Array, mask: Array, negative: Array,
) -> int:  # fmt: skip
    """Decode one chunk to words of its planes. Returns a fault or 0."""
    mask[: (elements + 63) >> 6] = 0
    negative[: (elements + 63) >> 6] = 0
    if codec == EMPTY:
        return 0
    U_8, F_8 = U.view(np.uint8), F.view(np.uint8)
    fields = (count * k + 7) >> 3
    m = length - fields
    _copied(payload, start + m, fields, F_8)
    if (count * k) & 7 and F_8[fields - 1] >> ((count * k) & 7):
        return _UNUSED
    if codec == CODED:
        most = (count + ((elements - count) >> (k - 1)) + 7) >> 3
        m = _uncoded(payload, start, m, most, count, slots, escapes, rare, data, U_8)
        if m < 0:
            return -m
    else:
        _copied(payload, start, m, U_8)
    if U_8[m - 1] == 0:
        return _ZERO_BYTE
    total = _0
    for i in range((m + 7) >> 3):
        total += _ones(U[i])
    if total != np.uint64(count):
        return _COUNT
    if k > 1:
        return 0 if _scattered(U, (m + 7) >> 3, F, k, elements, mask, negative) else _OUTSIDE
    if m << 3 > elements and U_8[m - 1] >> (elements & 7):
        return _OUTSIDE
    mask[: (m + 7) >> 3] = U[: (m + 7) >> 3]
    _signs(U, m, F, deposits, negative.view(np.uint8))
    return 0


@kernel
def _to_planes(
    payload: Array, rows: Array, size: int, n: int, slots: Array, escapes: Array, rare: Array, deposits: Array,
    mask: Array, negative: Array, faults: Array,
) -> int:  # fmt: skip
    width, most = (min(size, n) >> 6) + 4, rows[:, 1].max()
    U, plane, minus = np.empty(width, np.uint64), np.empty(width, np.uint64), np.empty(width, np.uint64)
    F, data = np.empty((most >> 3) + 4, np.uint64), np.empty((most >> 3) + 4, np.uint64)
    wrong = 0
    for i in range(len(rows)):
        first, end = i * size, min((i + 1) * size, n)
        faults[i] = _chunk(
            payload, rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3], rows[i, 4], end - first,
            slots, escapes, rare, deposits, U, F, data, plane, minus,
        )  # fmt: skip
        wrong += faults[i] != 0
        a, b = first >> 3, (end + 7) >> 3
        _output(plane.view(np.uint8), mask[a:b])
        _output(minus.view(np.uint8), negative[a:b])
    return wrong


@kernel
def _to_int8(
    payload: Array, rows: Array, size: int, n: int, slots: Array, escapes: Array, rare: Array, deposits: Array,
    widened: Array, target: Array, faults: Array,
) -> int:  # fmt: skip
    width, most = (min(size, n) >> 6) + 4, rows[:, 1].max()
    U, plane, minus = np.empty(width, np.uint64), np.empty(width, np.uint64), np.empty(width, np.uint64)
    F, data = np.empty((most >> 3) + 4, np.uint64), np.empty((most >> 3) + 4, np.uint64)
    plane_8, minus_8, one, minus_one = plane.view(np.uint8), minus.view(np.uint8), widened[0], widened[1]
    wrong = 0
    for i in range(len(rows)):
        first, end = i * size, min((i + 1) * size, n)
        faults[i] = _chunk(
            payload, rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3], rows[i, 4], end - first,
            slots, escapes, rare, deposits, U, F, data, plane, minus,
        )  # fmt: skip
        wrong += faults[i] != 0
        part = target[first >> 3 : (end + 7) >> 3]
        for j in range(part.size):
            part[j] = one[plane_8[j] ^ minus_8[j]] | minus_one[minus_8[j]]
    return wrong


def decode_planes(
    payload: Bytes, rows: NDArray[np.int64], size: int, n: int, mask: Bytes, negative: Bytes, faults: Bytes
) -> int:
    """Decode chunks to the planes of the n elements that they hold.

    Args:
        payload: Bytes that contain them, their checksums compared.
        rows: (chunks, 5) where each starts, its length, codec, k and count, all checked.
        size: Elements of a chunk that is not the last.
        n: Elements of all of them.
        mask: (ceil(n / 8),) receives the mask.
        negative: (ceil(n / 8),) receives the signs.
        faults: (chunks,) receives what is wrong with each, or 0.

    Returns:
        How many chunks are wrong.
    """
    return _to_planes(payload, rows, size, n, slots(), escapes(), rare(), deposits(), mask, negative, faults)


def decode_int8(
    payload: Bytes, rows: NDArray[np.int64], size: int, n: int, target: NDArray[np.uint64], faults: Bytes
) -> int:
    """Decode chunks to int8, eight to a word of ``target``; everything else as in ``decode_planes``."""
    tables = slots(), escapes(), rare(), deposits(), widened()
    return _to_int8(payload, rows, size, n, *tables, target, faults)
