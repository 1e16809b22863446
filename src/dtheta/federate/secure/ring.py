"""Integers modulo 2^b: the smallest ring that holds the sum of K ternary numbers, packed to b bits each.

    sum in -K ... K,   b = least with 2^b > 2 K,   the sum is the representative in -2^(b-1) ... 2^(b-1) - 1

Entry i occupies bits i b ... (i + 1) b - 1 of the packed bytes, lowest first; unused bits of the last byte are zero.

Shape legend: k entries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dtheta.errors import FormatError

MOST_BITS = 32
_GROUP = 1 << 18  # entries that are packed at once; a multiple of 8, so that groups are whole bytes

Residues = NDArray[np.uint32]


def ring_bits(clients: int) -> int:
    """Return b for the sum of ternary numbers of so many clients."""
    return (2 * clients).bit_length()


def reduced(values: NDArray[np.int32] | Residues, bits: int) -> Residues:
    """Return integers modulo 2^b, in 0 ... 2^b - 1."""
    return values.astype(np.uint32) & np.uint32((1 << bits) - 1)


def centered(residues: Residues, bits: int) -> NDArray[np.int32]:
    """Return the representatives around 0."""
    half = np.int64(1) << (bits - 1)
    return ((residues.astype(np.int64) + half) % (2 * half) - half).astype(np.int32)


def packed_size(count: int, bits: int) -> int:
    """Return the bytes of so many packed entries."""
    return (count * bits + 7) // 8


def packed(residues: Residues, bits: int) -> bytes:
    """Return residues as bytes, b bits each."""
    return b"".join(_pack(residues[i : i + _GROUP], bits) for i in range(0, len(residues), _GROUP))


def _pack(residues: Residues, bits: int) -> bytes:
    table = np.unpackbits(residues.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    return np.packbits(table[:, :bits], bitorder="little").tobytes()


def unpacked(data: bytes, count: int, bits: int) -> Residues:
    """Return residues (k,) from bytes.

    Raises:
        FormatError: If there are more or fewer bytes, or a bit beyond the last entry is set.
    """
    if len(data) != packed_size(count, bits):
        raise FormatError(f"{len(data)} bytes; expected {packed_size(count, bits)} for {count} entries of {bits} bits")
    if count * bits % 8 and data[-1] >> count * bits % 8:
        raise FormatError("a bit beyond the last entry is set")
    step = packed_size(_GROUP, bits)
    groups = [
        _unpack(data[at : at + step], min(_GROUP, count - i), bits)
        for i, at in zip(range(0, count, _GROUP), range(0, len(data), step), strict=True)
    ]
    return np.concatenate([np.zeros(0, np.uint32), *groups])


def _unpack(data: bytes, count: int, bits: int) -> Residues:
    table = np.zeros((count, MOST_BITS), np.uint8)
    table[:, :bits] = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(
        count, bits
    )
    return np.packbits(table, axis=1, bitorder="little").view("<u4").reshape(-1).astype(np.uint32)
