"""Header and table: what was written comes back, and nothing else is believed."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from dtheta.core.codec.chunks import Chunks, parsed, sealed, shift_for
from dtheta.errors import FormatError
from tests.unit.core.codec.reference import HEAD, assembled, drawn, encode, taken_apart

PAYLOAD = encode(drawn(70_000, 0.1).tolist())


def read(payload: bytes, n: int | None = 70_000) -> Chunks:
    return parsed(np.frombuffer(payload, np.uint8), n)


def test_the_table_says_what_the_reference_wrote():
    chunks, (n, shift, rows, parts) = read(PAYLOAD), taken_apart(PAYLOAD)
    assert (chunks.n, chunks.shift, chunks.size) == (n, shift, 65_536)
    assert list(zip(chunks.codec, chunks.k, chunks.count, strict=True)) == rows
    assert chunks.length.tolist() == [len(p) for p in parts] and chunks.nbytes == len(PAYLOAD)
    assert chunks.start.tolist() == [44, 44 + len(parts[0]), len(PAYLOAD)]
    assert chunks.checksum.tolist() == [zlib.crc32(p) for p in parts]
    assert chunks.names == ["coded", "plain"] and chunks.elements(1) == (65_536, 70_000)
    assert sealed(chunks) == PAYLOAD[:44]
    assert read(PAYLOAD, None).n == 70_000


@pytest.mark.parametrize("density", [1.0, 0.5, 0.0782, 0.078, 0.04, 0.01, 0.005, 0.0024, 0.001, 1e-5, 0.0])
def test_chunks_double_until_they_hold_enough(density):
    for n in (1, 1000, 10**6, 10**9):
        nonzeros = int(density * n)
        wanted = [s for s in range(7) if nonzeros * 2 ** (16 + s) / n >= 5120]
        assert shift_for(n, nonzeros) == min(wanted, default=6)
    assert shift_for(0, 0) == 0


def test_no_byte_of_header_and_table_may_change():
    for i in range(44):
        for bit in (1, 128):
            damaged = bytearray(PAYLOAD)
            damaged[i] ^= bit
            with pytest.raises(FormatError, match="coded by version" if (i, bit) == (4, 128) else "damaged"):
                read(bytes(damaged))


@pytest.mark.parametrize("length", [0, 3, 19, 20, 31, 43, 44, len(PAYLOAD) - 1])
def test_what_is_cut_off_is_refused(length):
    with pytest.raises(FormatError, match="damaged"):
        read(PAYLOAD[:length])


def test_what_is_appended_is_refused():
    with pytest.raises(FormatError, match=f"end at byte {len(PAYLOAD)}, there are {len(PAYLOAD) + 1} bytes"):
        read(PAYLOAD + b"\0")


def header(n: int, shift: int = 0, magic: bytes = b"DTTC", version: int = 1, zero: int = 0) -> bytes:
    """A header whose checksum is right, whatever it says."""
    start = struct.pack("<4sBBHQ", magic, version, shift, zero, n)
    return start + struct.pack("<I", zlib.crc32(start))


HEADERS = {
    "a table of": header(1 << 50),
    "chunks take": header(2**64 - 1, 6),
    "at most 2": header(100, 7),
    "found b'dttc'": header(0, magic=b"dttc"),
    "version 2": header(0, version=2),
    "1 and 256": header(0, zero=256),
    "0 and 0": header(0, version=0),
    "do not go into chunks": header(0, 3),
    "end at byte": header(0) + bytes(12),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_before_anything_is_allocated(name):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=name.replace("chunks take", "takes")):
            read(HEADERS[name], None)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_another_number_of_elements_is_refused():
    with pytest.raises(FormatError, match="it holds 70000 elements, its tensor has 69999"):
        read(PAYLOAD, 69_999)


ROWS: dict[str, Callable[[list[tuple[int, int, int]], list[bytes]], None]] = {
    "unknown codec": lambda rows, parts: rows.__setitem__(0, (3, *rows[0][1:])),
    "fields of no bit": lambda rows, parts: rows.__setitem__(0, (2, 0, rows[0][2])),
    "fields of 24 bits": lambda rows, parts: rows.__setitem__(0, (2, 24, 1)),
    "no nonzero": lambda rows, parts: rows.__setitem__(0, (2, 1, 0)),
    "more nonzeros than elements": lambda rows, parts: rows.__setitem__(1, (1, 1, 4465)),
    "an empty chunk with bytes": lambda rows, parts: rows.__setitem__(0, (0, 0, 0)),
    "a chunk too short for its fields": lambda rows, parts: parts.__setitem__(0, parts[0][:100]),
    "a chunk too short for its head": lambda rows, parts: parts.__setitem__(0, parts[0][: (rows[0][2] + 7) // 8 + 19]),
    "a plain chunk longer than its mask": lambda rows, parts: (
        rows.__setitem__(1, (1, 1, 8)),
        parts.__setitem__(1, bytes(560) + b"\1"),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_cannot_be_is_named(name):
    n, shift, rows, parts = taken_apart(PAYLOAD)
    ROWS[name](rows, parts)
    with pytest.raises(FormatError, match=r"row [01] of its table cannot be: \{'codec'"):
        read(assembled(n, shift, rows, parts))


def test_nonzeros_that_take_chunks_of_another_size_are_refused():
    payload = assembled(100, 1, [(1, 1, 100)], [bytes([255] * 12 + [15] + [0] * 13)])
    assert len(payload) == HEAD + 12 + 26
    with pytest.raises(FormatError, match="100 nonzeros do not go into chunks of 131072 elements"):
        read(payload, 100)
