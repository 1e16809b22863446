"""A run of nonzeros as numbers, and the numbers as a bit string U and fields F.

    i-th nonzero, gap zeros after the one before:      v_i = 2 gap_i + sign_i            (sign 1: negative)
    U = 0^(v_0 >> k) 1  0^(v_1 >> k) 1 ...             F = v_0 mod 2^k,  v_1 mod 2^k, ...      k >= 1

This is Rice's code (Golomb's of 1966, with a power of two) taken apart: what is unary, and what is fixed. For k = 1, U
is the mask itself and F the signs: one form from dense to sparse. Where the nonzeros are independent so are the bits of
U, and they are ones with probability 1 - (1 - p)^(2^(k-1)), which ``rans.py`` makes use of.

Bits are numbered from the lowest of each byte. U ends with its last one; U and F are each filled up to whole bytes.

Shape legend: c nonzeros in a chunk.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.core.codec.chunks import MAX_K, Fault

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]


def bits(data: Bytes, count: int | None = None) -> Bytes:
    """Return the bits of some bytes, lowest first, as 0 and 1."""
    return np.unpackbits(data, count=count, bitorder="little")


def packed(bit: NDArray[Any]) -> Bytes:
    """Return bits as bytes, filled up with zeros."""
    return np.packbits(bit, bitorder="little")


def numbers(mask: Bytes, negative: Bytes) -> Numbers:
    """Return v, (c,), of the planes of a chunk."""
    at = np.flatnonzero(bits(mask)).astype(np.int64)
    gap = np.diff(at, prepend=-1) - 1
    return 2 * gap + bits(negative)[at].astype(np.int64)


def parameter(v: Numbers) -> int:
    """Return the least k that makes U and F shortest, (v >> k) + 1 and k bits for each v.

    One more costs c bits and saves sum (v >> k) - (v >> k + 1) = sum ceil((v >> k) / 2), which falls with k: the length
    is convex, and the first k from which on nothing is saved is the best.
    """
    k = 1
    while k < MAX_K and int((v >> k).sum() - (v >> k + 1).sum()) > len(v):
        k += 1
    return k


def coded_parameter(k: int, count: int, elements: int) -> int:
    """Return the k for a U that is entropy-coded, where the best for a U that is not is ``k``.

    One less: the ones of U then have a density between .2 and .4, the code removes more from U than F grows by, and U
    is short. From a density of 1/12 on k = 1, since there the bits of a mask take less time than numbers.
    """
    return max(k - 1, 1) if 12 * count < elements else 1


def unary(v: Numbers, k: int) -> Bytes:
    """Return U as bytes."""
    bit = np.zeros(int((v >> k).sum()) + len(v), np.uint8)
    bit[np.cumsum((v >> k) + 1) - 1] = 1
    return packed(bit)


def fields(v: Numbers, k: int) -> Bytes:
    """Return F as bytes."""
    return packed(v[:, None] >> np.arange(k) & 1)


def planes(U: Bytes, F: Bytes, k: int, count: int, elements: int) -> tuple[Bytes, Bytes] | Fault:
    """Return mask and negative of a chunk, or what is wrong with it."""
    if count * k % 8 and F[-1] >> count * k % 8:
        return Fault.UNUSED
    if U[-1] == 0:
        return Fault.ZERO_BYTE
    one = np.flatnonzero(bits(U))
    if len(one) != count:
        return Fault.COUNT
    field = bits(F, count * k).reshape(count, k).astype(np.int64) @ (1 << np.arange(k))
    v = (np.diff(one, prepend=-1) - 1 << k) + field
    at = np.cumsum((v >> 1) + 1) - 1
    if at[-1] >= elements:
        return Fault.OUTSIDE
    mask, negative = np.zeros((2, elements), np.uint8)
    mask[at], negative[at] = 1, v & 1
    return packed(mask), packed(negative)
