"""The bytes of a coded ternary vector: a header, a row for each chunk, then the chunks; read with every claim checked.

    header   20 bytes   "DTTC", version 1, shift s, two zeros, n (64 bits), CRC-32 of all of this and the rows
    rows     12 bytes   count | k << 24 | codec << 29,   length in bytes,   CRC-32 of the chunk
    chunks              one after the other; chunk i holds the elements i 2^(16+s) ... of n

All numbers are little-endian. s is the smallest number up to 6 for which chunks have 5120 nonzeros on average: 65,536
elements from a density of 7.8 % on, 1,048,576 at .5 %. With 65,536 throughout, a checksum alone would cost 1 % there.

A chunk is EMPTY, PLAIN (bits U as they are) or CODED (bits U by rANS); ``rice.py`` says what U, F and k are.

    PLAIN   U | F
    CODED   bytes of U (32 bits), 4 states (32 bits each), words (16 bits each), rare bytes | F

Everything is checked against the bytes at hand before anything is allocated. The bits are canonical: a vector has one
encoding by this writer, and unused bits, leftover words or bytes, and counts that do not match are refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from dtheta.errors import FormatError

MAGIC, VERSION = b"DTTC", 1
EMPTY, PLAIN, CODED = range(3)
NAMES = ("empty", "plain", "coded")
UNIT, MAX_SHIFT = 16, 6  # chunks have 2^16 elements, doubled up to 6 times
NONZEROS = 5120  # that a chunk has on average, where doubling can give it so many
MAX_K = UNIT + MAX_SHIFT + 1
CODED_HEAD = 20  # bytes before the words of a coded chunk

_HEADER = struct.Struct("<4sBBHQ")
_HEAD, _ROW = _HEADER.size + 4, 12


class Fault(IntEnum):
    """What can be wrong with a chunk; the last eight even where its checksum is right."""

    CHECKSUM = 1
    COUNT = 2
    UNUSED = 3
    OUTSIDE = 4
    ZERO_BYTE = 5
    SIZE = 6
    STATE = 7
    LEFT_OVER = 8
    RARE = 9


_SAID = {
    Fault.CHECKSUM: "its bytes do not have the CRC-32 that the table says",
    Fault.COUNT: "it does not hold as many nonzeros as the table says",
    Fault.UNUSED: "bits that nothing uses are not zero",
    Fault.OUTSIDE: "a nonzero lies behind its last element",
    Fault.ZERO_BYTE: "its bits end in a byte of zeros",
    Fault.SIZE: "it says it has more bits, or fewer, than its nonzeros can need",
    Fault.STATE: "its entropy code does not start and end as it should",
    Fault.LEFT_OVER: "its entropy code takes more words or bytes than there are, or fewer",
    Fault.RARE: "it spells out a byte that its entropy code has a symbol for",
}


@dataclass(frozen=True, eq=False)
class Chunks:
    """The checked table of a coded vector.

    Attributes:
        n: Number of elements.
        shift: Chunks have ``2^(16 + shift)`` elements, the last one what is left.
        codec: (chunks,) EMPTY, PLAIN or CODED.
        k: (chunks,) bits of a field; 0 where the chunk is empty.
        count: (chunks,) nonzeros.
        length: (chunks,) bytes.
        checksum: (chunks,) CRC-32 of the bytes.
    """

    n: int
    shift: int
    codec: NDArray[np.uint8]
    k: NDArray[np.uint8]
    count: NDArray[np.int64]
    length: NDArray[np.int64]
    checksum: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Elements of a chunk that is not the last."""
        return 1 << (UNIT + self.shift)

    @property
    def start(self) -> NDArray[np.int64]:
        """(chunks + 1,) where each chunk starts in the payload, and the end of the last: the table of offsets."""
        ends = np.cumsum(self.length) + _HEAD + _ROW * len(self.codec)
        return np.concatenate([[_HEAD + _ROW * len(self.codec)], ends]).astype(np.int64)

    @property
    def names(self) -> list[str]:
        """(chunks,) the codecs by name."""
        return [NAMES[i] for i in self.codec]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole payload."""
        return _HEAD + _ROW * len(self.codec) + int(self.length.sum())

    def elements(self, i: int) -> tuple[int, int]:
        """Return first and last-plus-one element of a chunk."""
        return i * self.size, min((i + 1) * self.size, self.n)

    def fault(self, i: int, what: int) -> FormatError:
        """Return the error that says what is wrong with a chunk."""
        first, end = self.elements(i)
        where = f"chunk {i} of {len(self.codec)} (elements {first} to {end - 1})"
        return FormatError(
            f"{where} of a ternary vector is damaged: {_SAID[Fault(what)]}; fetch or save the file again"
        )


def shift_for(n: int, nonzeros: int) -> int:
    """Return how often chunks of 65,536 elements are doubled for so many nonzeros among n elements."""
    shift = 0
    while shift < MAX_SHIFT and nonzeros << (UNIT + shift) < n * NONZEROS:
        shift += 1
    return shift


def chunk_count(n: int, shift: int) -> int:
    """Return into how many chunks n elements go."""
    return -(-n >> (UNIT + shift)) if n else 0


def table_bytes(chunks: int) -> int:
    """Return the bytes before the first chunk."""
    return _HEAD + _ROW * chunks


def sealed(chunks: Chunks) -> bytes:
    """Return header and table as bytes."""
    first = chunks.count | chunks.k.astype(np.int64) << 24 | chunks.codec.astype(np.int64) << 29
    rows = np.stack([first, chunks.length, chunks.checksum], 1).astype("<u4").tobytes()
    header = _HEADER.pack(MAGIC, VERSION, chunks.shift, 0, chunks.n)
    return header + struct.pack("<I", zlib.crc32(header + rows)) + rows


def parsed(payload: NDArray[np.uint8], n: int | None) -> Chunks:
    """Return the table of a payload that must hold n elements (None: any number).

    Raises:
        FormatError: If anything in header or table does not hold.
    """
    if payload.size < _HEAD:
        raise _damaged(f"it has {payload.size} bytes, its header alone takes {_HEAD}")
    magic, version, shift, zero, found = _HEADER.unpack(payload[: _HEADER.size].tobytes())
    if magic != MAGIC or version == 0 or zero:
        raise _damaged(f"expected {MAGIC!r}, a version and zeros, found {magic!r}, {version} and {zero}")
    if version > VERSION:
        raise FormatError(f"a ternary vector coded by version {version}; this dtheta reads {VERSION}: take a newer one")
    if shift > MAX_SHIFT:
        raise _damaged(f"chunks of 2^{UNIT + shift} elements; at most 2^{UNIT + MAX_SHIFT} are allowed")
    if n is not None and found != n:
        raise _damaged(f"it holds {found} elements, its tensor has {n}")
    number = chunk_count(found, shift)
    if table_bytes(number) > payload.size:
        raise _damaged(f"a table of {number} chunks takes {table_bytes(number)} bytes, there are {payload.size}")
    table = payload[_HEAD : table_bytes(number)]
    said = int.from_bytes(payload[_HEADER.size : _HEAD].tobytes(), "little")
    if zlib.crc32(table.data, zlib.crc32(payload[: _HEADER.size].data)) != said:
        raise _damaged("header and table do not have the CRC-32 that they say")
    return _checked(_table(found, shift, table), payload.size)


def _table(n: int, shift: int, table: NDArray[np.uint8]) -> Chunks:
    row = np.frombuffer(table.tobytes(), "<u4").astype(np.int64).reshape(-1, 3)
    codec, k = (row[:, 0] >> 29).astype(np.uint8), (row[:, 0] >> 24 & 31).astype(np.uint8)
    return Chunks(n, shift, codec, k, row[:, 0] & 0xFFFFFF, row[:, 1].copy(), row[:, 2].copy())


def _checked(chunks: Chunks, nbytes: int) -> Chunks:
    """Hold every row against its chunk, and all of them against the bytes at hand."""
    elements = np.full(len(chunks.codec), chunks.size)
    if len(elements):
        elements[-1] = chunks.n - (len(elements) - 1) * chunks.size
    fields, empty = (chunks.count * chunks.k + 7) // 8, chunks.codec == EMPTY
    nothing = (chunks.k == 0) & (chunks.count == 0) & (chunks.length == 0) & (chunks.checksum == 0)
    fits = (chunks.k >= 1) & (chunks.k <= MAX_K) & (chunks.count >= 1) & (chunks.count <= elements)
    bits = chunks.length - fields  # in bytes
    plain = (chunks.codec == PLAIN) & (bits >= (chunks.count + 7) // 8) & (bits <= (elements + 7) // 8)
    coded = (chunks.codec == CODED) & (bits >= CODED_HEAD)
    wrong = np.flatnonzero(~np.where(empty, nothing, fits & (plain | coded)))
    if len(wrong):
        row = {name: int(getattr(chunks, name)[wrong[0]]) for name in ("codec", "k", "count", "length")}
        raise _damaged(f"row {wrong[0]} of its table cannot be: {row}")
    if chunks.nbytes != nbytes:
        raise _damaged(f"its chunks end at byte {chunks.nbytes}, there are {nbytes} bytes")
    if chunks.shift != shift_for(chunks.n, int(chunks.count.sum())):
        raise _damaged(f"{int(chunks.count.sum())} nonzeros do not go into chunks of {chunks.size} elements")
    return chunks


def _damaged(what: str) -> FormatError:
    return FormatError(f"a coded ternary vector is damaged or no such thing: {what}; fetch or save the file again")
