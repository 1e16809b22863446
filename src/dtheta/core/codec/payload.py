"""Ternary vectors as bytes: bit planes in, a payload out, and any range of it back as planes or int8.

    element i is 0 where bit i of ``mask`` is 0, else +1 or -1 as bit i of ``negative`` is 0 or 1
    bit i of a plane is bit i mod 8, lowest first, of byte i div 8; bits from n on are 0

    H = - p log2 p - (1 - p) log2 (1 - p) + p      bits an element, the least for independent ones of density p

Yadav et al. 2023, "ComPEFT", arXiv 2311.13171, give H and a Golomb code of the gaps as the size of a compressed vector,
and store dense tensors. Deviations: remainders and signs lie apart from the unary part, so that both are read without
waiting for each other, and the unary part is entropy-coded where that is shorter. With powers of two alone a Golomb
code is up to 3 % above H; this one, with its table and checksums, at most 1 % from p = .5 % on.

Shape legend: n elements; planes have ceil(n / 8) bytes.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.core.bitplane import cut
from dtheta.core.codec.chunks import Chunks, Fault, chunk_count, parsed, sealed, shift_for, table_bytes
from dtheta.core.compiled import loops
from dtheta.errors import ConfigError, ShapeMismatch

Bytes = NDArray[np.uint8]
Buffer = Any  # bytes, bytearray, memoryview, mmap, or an array of uint8


def encode(mask: Bytes, negative: Bytes, n: int) -> Bytes:
    """Return a ternary vector as bytes, the same on every machine.

    Args:
        mask: (ceil(n / 8),) uint8, ones where an element is not zero.
        negative: (ceil(n / 8),) uint8, ones where an element is -1.
        n: Number of elements.

    Raises:
        ShapeMismatch: If a plane does not have ceil(n / 8) bytes.
        ConfigError: If ``negative`` has ones outside ``mask``, or a plane has ones behind element n - 1.
    """
    mask, negative = _plane(mask, n, "mask"), _plane(negative, n, "negative")
    if n % 8 and mask[-1] >> n % 8:
        raise ConfigError(f"the mask has ones behind its last element, {n - 1}; clear the unused bits of its last byte")
    if bool(np.any(negative & ~mask)):
        raise ConfigError("an element is negative and not in the mask; build both planes from the same values")
    ones = np.bitwise_count(mask)
    shift = shift_for(n, int(ones.sum(dtype=np.int64)))
    chunks = chunk_count(n, shift)
    begin, rows = table_bytes(chunks), np.zeros((chunks, 4), np.int64)
    target = np.empty(begin + 2 * len(mask) + chunks, np.uint8)  # no chunk is longer than its planes and a byte
    end = begin
    if chunks:
        most = int(np.add.reduceat(ones, np.arange(chunks) << (13 + shift), dtype=np.int64).max())
        write = _loops("encode").encode_chunks
        end = int(write(mask, negative, n, 1 << (16 + shift), most, target, begin, rows))
    codec, k, count, length = rows.T
    stop = begin + np.cumsum(length)
    checksum = np.array([zlib.crc32(target[b - m : b].data) for b, m in zip(stop, length, strict=True)], np.int64)
    table = Chunks(n, shift, codec.astype(np.uint8), k.astype(np.uint8), count, length, checksum)
    target[:begin] = np.frombuffer(sealed(table), np.uint8)
    return target[:end].copy()


def _loops(subject: str) -> Any:
    """Return the module that codes chunks here; kernels take words as they lie in memory, so lowest byte first."""
    if sys.byteorder == "big":
        return importlib.import_module(f"dtheta.core.codec.{subject}_numpy")
    return loops(f"codec.{subject}")


def _plane(plane: Bytes, n: int, name: str) -> Bytes:
    """Return a plane, checked, in one piece, and not to be written (one type for kernels, whatever came)."""
    plane = np.ascontiguousarray(plane)
    if plane.dtype != np.uint8 or plane.shape != ((n + 7) // 8,):
        found = f"{plane.dtype} of shape {plane.shape}"
        raise ShapeMismatch(f"the plane {name!r} of {n} elements is uint8 of shape ({(n + 7) // 8},), found {found}")
    plane = plane.view()
    plane.flags.writeable = False
    return plane


def decode(payload: Buffer, n: int) -> tuple[Bytes, Bytes]:
    """Return the planes ``mask`` and ``negative`` of n elements.

    Raises:
        FormatError: If anything is damaged; a damaged chunk is named.
    """
    return decode_range(payload, n, 0, n)


def decode_range(payload: Buffer, n: int, start: int, stop: int) -> tuple[Bytes, Bytes]:
    """Return the planes of the elements ``start:stop``, ceil((stop - start) / 8) bytes each.

    Only the chunks that hold them are read; damage elsewhere is not seen.

    Raises:
        ConfigError: If the range does not lie inside 0..n.
        FormatError: If header, table or one of these chunks are damaged.
    """
    piece = _piece(payload, n, start, stop)
    mask, negative = np.empty((2, (piece.elements + 7) // 8), np.uint8)
    piece.decode("decode_planes", mask, negative)
    if stop - start == piece.elements:
        return mask, negative
    a, b = start - piece.first, stop - piece.first
    return cut(mask, a, b), cut(negative, a, b)


def decode_int8(payload: Buffer, n: int, start: int = 0, stop: int | None = None) -> NDArray[np.int8]:
    """Return the elements ``start:stop`` as -1, 0 and +1, (stop - start,) int8; by default all of them.

    Only the chunks that hold them are read; damage elsewhere is not seen.

    Raises:
        ConfigError: If the range does not lie inside 0..n.
        FormatError: If header, table or one of these chunks are damaged.
    """
    stop = n if stop is None else stop
    piece = _piece(payload, n, start, stop)
    target = np.empty((piece.elements + 7) // 8, np.uint64)
    piece.decode("decode_int8", target)
    result = target.view(np.int8)[start - piece.first : stop - piece.first]
    return result if stop - start == piece.elements else result.copy()


@dataclass(frozen=True, eq=False)
class _Piece:
    """Consecutive chunks of a payload, compared with their checksums; ``rows`` as in ``decode_kernels.py``."""

    data: Bytes
    chunks: Chunks
    number: int  # of the first of them
    rows: NDArray[np.int64]

    @property
    def first(self) -> int:
        """First element."""
        return self.number * self.chunks.size

    @property
    def elements(self) -> int:
        """Number of elements."""
        return min(len(self.rows) * self.chunks.size, max(self.chunks.n - self.first, 0))

    def decode(self, how: str, *targets: NDArray[Any]) -> None:
        """Decode all of them, or say what is wrong with the first that cannot be."""
        faults = np.zeros(len(self.rows), np.uint8)
        if not len(faults):
            return
        if getattr(_loops("decode"), how)(self.data, self.rows, self.chunks.size, self.elements, *targets, faults):
            i = int(np.flatnonzero(faults)[0])
            raise self.chunks.fault(self.number + i, int(faults[i]))


def _piece(payload: Buffer, n: int, start: int, stop: int) -> _Piece:
    """Return the chunks that hold a range of elements."""
    if not 0 <= start <= stop <= n:
        raise ConfigError(f"the range {start}:{stop} does not lie inside the {n} elements of the vector")
    data = _bytes(payload)
    chunks = parsed(data, n)
    number = start // chunks.size
    part = slice(number, -(-stop // chunks.size) if stop > start else number)
    columns = chunks.start[part], chunks.length[part], chunks.codec[part], chunks.k[part], chunks.count[part]
    rows = np.stack([column.astype(np.int64) for column in columns], 1)
    for i, (begin, length, *_) in enumerate(rows.tolist(), number):
        if zlib.crc32(data[begin : begin + length].data) != chunks.checksum[i]:
            raise chunks.fault(i, Fault.CHECKSUM)
    return _Piece(data, chunks, number, rows)


def _bytes(payload: Buffer) -> Bytes:
    """Return any buffer as bytes that are not to be written (one type for kernels, whatever came)."""
    if isinstance(payload, np.ndarray):
        payload = np.ascontiguousarray(payload)
    return np.frombuffer(memoryview(payload).toreadonly(), np.uint8)
