"""The binomial model of a byte in integers, and tables of bits: the same numbers on every machine.

    P(b) = d^i (1 - d)^(8 - i),   i = ones of byte b,   d = q / 128 the density of ones,   q = 1..127
    rare : bytes with P(b) < 1/8192 are one symbol together, the escape, whose P is their sum
    f    : P in units of 1/4096, at least 1, sum 4096

f is max(1, floor(4096 P)); what is then missing from the sum goes, one at a time, to the symbol with the largest
P / (2 f + 1), and what is too much is taken from the symbol with the least P / (2 f - 1) and f > 1: Webster's rule for
seats in a parliament, which loses least to first order. Bytes with equally many ones are equally likely, so at most ten
classes are compared: by ones, the escape last, and the first of equal ones; within a class lower bytes come first.
Nothing here is a floating-point number: a last bit that differed between two machines would turn every byte after it
into noise.

Without the escape every rare byte would take 1/4096, far more than it needs: 1.3 % at d = .08, against .1 % with it.
"""

from __future__ import annotations

from functools import cache
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = 12  # of a frequency
TOTAL = 1 << BITS
STEPS = 128  # in which the density is measured: loses at most .1 % between .05 and .95

_ONES = np.array([b.bit_count() for b in range(256)])


def density_step(ones: int, nbytes: int) -> int:
    """Return q for so many ones in so many bytes: 128 times their density, rounded, and neither 0 nor 128."""
    return min(max((2 * STEPS * ones + 8 * nbytes) // (16 * nbytes), 1), STEPS - 1)


@cache
def _seats(q: int) -> tuple[list[int], int]:
    """Return the sum of f over the bytes with i ones, i = 0..8, and f of the escape; 0 where there is none."""
    weight = [q**i * (STEPS - q) ** (8 - i) << BITS for i in range(9)]  # of one byte, in units of 1 / (4096 128^8)
    rare = [i for i in range(9) if 2 * weight[i] < STEPS**8]
    members = {i: comb(8, i) for i in range(9) if i not in rare} | ({9: 1} if rare else {})
    weight.append(sum(weight[i] * comb(8, i) for i in rare))
    seats = {i: max(1, weight[i] // STEPS**8) * members[i] for i in members}
    while sum(seats.values()) < TOTAL:
        seats[max(seats, key=lambda i: (weight[i] << 32) // (2 * (seats[i] // members[i]) + 1))] += 1
    while sum(seats.values()) > TOTAL:
        several = [i for i in seats if seats[i] > members[i]]
        seats[min(several, key=lambda i: (weight[i] << 32) // (2 * -(-seats[i] // members[i]) - 1))] -= 1
    return [seats.get(i, 0) for i in range(9)], seats.get(9, 0)


@cache
def frequencies() -> NDArray[np.uint16]:
    """Return f, (128, 256): row q, byte b; rare bytes have that of the escape. Row 0 is not used."""
    f = np.ones((STEPS, 256), np.uint16)
    for q in range(1, STEPS):
        by_ones, escape = _seats(q)
        for i, seats in enumerate(by_ones):
            each, more = divmod(seats, comb(8, i))
            f[q, _ONES == i] = each + (np.arange(comb(8, i)) < more) if seats else escape
    return _frozen(f)


@cache
def rare() -> NDArray[np.bool_]:
    """Return which bytes are rare, (128, 256)."""
    common = np.array([[1] * 9] + [_seats(q)[0] for q in range(1, STEPS)])  # by ones, 0 where there is no symbol
    return _frozen(common[:, _ONES] == 0)


@cache
def starts() -> NDArray[np.uint16]:
    """Return the first slot of every byte, (128, 256): in the order of the bytes, the escape last."""
    f = np.where(rare(), 0, frequencies()).astype(np.int64)
    first = np.where(rare(), TOTAL - frequencies().astype(np.int64), np.cumsum(f, 1) - f)
    return _frozen(first.astype(np.uint16))


@cache
def escapes() -> NDArray[np.uint16]:
    """Return the byte that stands for the escape, (128,): the lowest rare one, or 256 where none is rare."""
    return _frozen(np.where(rare().any(1), rare().argmax(1), 256).astype(np.uint16))


@cache
def slots() -> NDArray[np.uint32]:
    """Return what a decoder needs to know about slot s = 0..4095: f << 20 | (s - start) << 8 | b, (128, 4096)."""
    table = np.zeros((STEPS, TOTAL), np.uint32)
    slot = np.arange(TOTAL, dtype=np.uint32)
    for q in range(1, STEPS):
        symbol = np.flatnonzero(~rare()[q] | (np.arange(256) == escapes()[q]))
        symbol = symbol[np.argsort(starts()[q, symbol], kind="stable")]
        f, start = (t[q, symbol].astype(np.uint32) for t in (frequencies(), starts()))
        table[q] = np.repeat(f << 20 | symbol.astype(np.uint32), f) | (slot - np.repeat(start, f)) << 8
    return _frozen(table)


@cache
def deposits() -> NDArray[np.uint8]:
    """Return, at mask << 8 | signs, the byte that has the next signs at the ones of the mask, (65536,)."""
    mask, signs = np.divmod(np.arange(65536, dtype=np.uint32), 256)
    result = np.zeros(65536, np.uint8)
    for i in range(8):
        bit = mask >> i & 1
        result |= ((signs & bit) << i).astype(np.uint8)
        signs = signs >> bit
    return _frozen(result)


@cache
def widened() -> NDArray[np.uint64]:
    """Return the eight int8 that a byte of the plane of +1 (row 0) and of -1 (row 1) stands for, (2, 256)."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return _frozen(np.stack([bits, bits * np.uint8(255)]).view("<u8")[..., 0].astype(np.uint64))


def _frozen(table: NDArray[Any]) -> NDArray[Any]:
    table.flags.writeable = False
    return table
