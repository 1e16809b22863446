"""The codec as a whole, by compiled kernels and by NumPy: the same bytes, back in any range, damage refused."""

from __future__ import annotations

import hashlib
import importlib
import inspect as inspection
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from dtheta.core.codec import payload as module
from dtheta.core.codec.chunks import Chunks, parsed
from dtheta.core.codec.payload import decode, decode_int8, decode_range, encode
from dtheta.core.compiled import loops
from dtheta.errors import ConfigError, FormatError, ShapeMismatch
from tests.unit.core.codec import reference
from tests.unit.core.codec.reference import assembled, drawn, planes_of, taken_apart

DENSITIES = [0.0, 1e-4, 0.005, 0.02, 0.06, 0.07, 0.09, 0.2, 0.5, 0.8, 1.0]


@pytest.fixture(params=["kernels", "NumPy"], autouse=True)
def path(request, monkeypatch) -> Callable[[str], None]:
    """Run on both paths; called with a name, it changes to that path."""

    def change(name: str) -> None:
        monkeypatch.setenv("DTHETA_NUMBA", "1" if name == "kernels" else "0")

    change(request.param)
    return change


def encoded(t: NDArray[np.int8]) -> bytes:
    return encode(*planes_of(t), len(t)).tobytes()


def equal(planes: tuple[NDArray, NDArray], t: NDArray[np.int8]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(planes, planes_of(t), strict=True))


@pytest.mark.parametrize("density", DENSITIES)
def test_the_bytes_are_those_of_the_plain_writer(density):
    for n in (1, 2, 7, 8, 9, 63, 64, 65, 1000, 4099):
        t = drawn(n, density, n)
        assert encoded(t) == reference.encode(t.tolist())


@pytest.mark.parametrize("density", [0.001, 0.01, 0.09, 0.3, 0.97])
def test_so_they_are_in_several_chunks(density):
    t = drawn(150_000, density)
    t[70_000:140_000] = 0 if density < 0.5 else t[70_000:140_000]
    assert encoded(t) == reference.encode(t.tolist())


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("n", [0, 1, 13, 65_535, 65_537, 196_608])
def test_what_goes_in_comes_out(n, density):
    t = drawn(n, density)
    payload = encoded(t)
    assert equal(decode(payload, n), t)
    elements = decode_int8(payload, n)
    assert elements.dtype == np.int8 and np.array_equal(elements, t)


@pytest.mark.parametrize("density", [0.004, 0.05, 0.1, 0.3, 0.5, 0.95])
def test_one_path_reads_what_the_other_wrote(path, density):
    t = drawn(140_000, density)
    t[1000:66_000] = drawn(65_000, 0.3)  # chunks of more than one kind
    path("kernels")
    payload = encoded(t)
    path("NumPy")
    assert encoded(t) == payload
    assert equal(decode(payload, len(t)), t)
    path("kernels")
    assert equal(decode(payload, len(t)), t)


SINGLE = [0, 7, 8, 65_535, 65_536, 131_071, 131_072, 199_999]


@pytest.mark.parametrize("at", SINGLE)
def test_a_single_nonzero_is_found_where_it_was(at):
    t = np.zeros(200_000, np.int8)
    t[at] = -1
    payload = encoded(t)
    assert equal(decode(payload, len(t)), t) and len(payload) < 60


RANGES = [
    (0, 0), (0, 1), (5, 5), (0, 65_536), (1, 65_536), (65_535, 65_537), (65_536, 131_072), (100, 100_003),
    (131_072, 150_001), (150_000, 150_001), (150_001, 150_001), (0, 150_001),
]  # fmt: skip


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.5])
def test_a_range_is_the_slice(density):
    t = drawn(150_001, density)
    payload = encoded(t)
    for start, stop in RANGES:
        assert equal(decode_range(payload, len(t), start, stop), t[start:stop])
        assert np.array_equal(decode_int8(payload, len(t), start, stop), t[start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (3, 2), (0, 101), (101, 101)])
def test_a_range_outside_is_refused(start, stop):
    payload = encoded(drawn(100, 0.2))
    for read in (decode_range, decode_int8):
        with pytest.raises(ConfigError, match=f"{start}:{stop} does not lie inside the 100 elements"):
            read(payload, 100, start, stop)


def test_any_buffer_will_do():
    t = drawn(3000, 0.1)
    data = encode(*planes_of(t), len(t))
    spread = np.zeros(2 * len(data), np.uint8)[::2]
    spread[:] = data
    for payload in (data, data.tobytes(), bytearray(data), memoryview(data), spread):
        assert np.array_equal(decode_int8(payload, len(t)), t)
    mask, negative = planes_of(t)
    assert np.array_equal(encode(np.repeat(mask, 2)[::2], negative, len(t)), data)
    mask.flags.writeable = False
    assert np.array_equal(encode(mask, negative, len(t)), data)


def test_planes_that_are_none_are_refused():
    mask, negative = planes_of([1, -1, 0, 0, 1])
    with pytest.raises(
        ShapeMismatch, match=r"'mask' of 9 elements is uint8 of shape \(2,\), found uint8 of shape \(1,\)"
    ):
        encode(mask, negative, 9)
    with pytest.raises(ShapeMismatch, match=r"'negative' .* found int64"):
        encode(mask, negative.astype(np.int64), 5)
    with pytest.raises(ConfigError, match="behind its last element, 3"):
        encode(mask, negative, 4)
    with pytest.raises(ConfigError, match="negative and not in the mask"):
        encode(mask, ~mask, 5)


def table_of(payload: bytes) -> Chunks:
    return parsed(np.frombuffer(payload, np.uint8), None)


def test_the_table_tells_codecs_counts_and_bytes():
    t = np.concatenate([drawn(65_536, 0.5), np.zeros(65_536, np.int8), drawn(100_000, 0.2)])
    payload = encoded(t)
    chunks = table_of(payload)
    assert chunks.names == ["plain", "empty", "coded", "coded"] and chunks.n == len(t)
    assert chunks.count.tolist() == [np.count_nonzero(t[a : a + 65_536]) for a in range(0, len(t), 65_536)]
    assert chunks.nbytes == len(payload) == 20 + 4 * 12 + chunks.length.sum()


BOUNDED = [0.005, 0.01, 0.0145, 0.02, 0.03, 0.05, 0.062, 0.07, 0.085, 0.1, 0.14, 0.2, 0.35, 0.42, 0.5, 0.9]


@pytest.mark.parametrize("density", BOUNDED)
def test_the_size_is_within_one_percent_of_the_entropy(path, density):
    path("kernels")  # the other path writes the same
    t = drawn(4_200_000, density)
    p = np.count_nonzero(t) / len(t)
    entropy = -p * math.log2(p) - (1 - p) * math.log2(1 - p) + p
    assert entropy < 8 * len(encoded(t)) / len(t) <= 1.01 * entropy


def test_no_vector_takes_much_more_than_its_planes():
    for t in (drawn(65_536, 1.0), drawn(1000, 0.5), np.tile(np.array([1, 0, -1, 0], np.int8), 500)):
        assert len(encoded(t)) <= 2 * ((len(t) + 7) // 8) + 1 + 32


def damaged(payload: bytes, at: int) -> bytes:
    return payload[:at] + bytes([payload[at] ^ 16]) + payload[at + 1 :]


def test_a_damaged_chunk_is_named_and_the_others_stay_readable():
    t = drawn(200_000, 0.1)
    payload = encoded(t)
    start = table_of(payload).start
    bad = damaged(payload, int(start[1]) + 700)
    said = r"chunk 1 of 4 \(elements 65536 to 131071\) of a ternary vector is damaged: its bytes do not have the CRC-32"
    for read in (decode, decode_int8):
        with pytest.raises(FormatError, match=said):
            read(bad, len(t))
    with pytest.raises(FormatError, match=said):
        decode_range(bad, len(t), 131_071, 131_072)
    assert equal(decode_range(bad, len(t), 0, 65_536), t[:65_536])
    assert np.array_equal(decode_int8(bad, len(t), 131_072), t[131_072:])


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5])
def test_no_bit_of_a_payload_may_change(density):
    t = drawn(600, density)
    payload = encoded(t)
    for at in range(len(payload)):
        with pytest.raises(FormatError, match="coded by version" if at == 4 else "damaged"):
            decode(damaged(payload, at), len(t))


def resealed(t: NDArray[np.int8], change: Callable[[list, list], None]) -> bytes:
    """The payload of one chunk after a change of its row and bytes, every checksum right."""
    n, shift, rows, parts = taken_apart(encoded(t))
    row, part = list(rows[0]), [bytearray(parts[0])]
    change(row, part)
    return assembled(n, shift, [tuple(row)], [bytes(part[0])])


def test_an_entropy_code_may_say_nothing_that_its_writer_would_not():
    t = drawn(40_001, 0.12)
    n, _, rows, parts = taken_apart(encoded(t))
    assert rows[0][:2] == (2, 1)
    fields = (rows[0][2] + 7) // 8
    behind = len(parts[0]) - fields

    def put(at: int, number: int) -> Callable[[list, list], None]:
        return lambda row, part: part[0].__setitem__(slice(at, at + 4), struct.pack("<I", number))

    changes: dict[str, Callable[[list, list], None]] = {
        "does not start and end": put(8, 65_535),
        "more bits, or fewer": put(0, 5002),
        "than its nonzeros can need": put(0, fields - 1),
        "takes more words or bytes": lambda row, part: part[0].__setitem__(slice(behind, behind), b"\xff"),
        "spells out a byte": lambda row, part: part[0].__setitem__(behind - 1, 0),
        "nothing uses": lambda row, part: part[0].__setitem__(-1, part[0][-1] | 128),
    }
    for said, change in changes.items():
        with pytest.raises(FormatError, match=rf"chunk 0 of 1 \(elements 0 to 40000\).*{said}"):
            decode(resealed(t, change), n)


def test_plain_bits_may_say_nothing_that_their_writer_would_not():
    t = drawn(5001, 0.5)
    t[-2:] = 0, 1
    n, _, rows, parts = taken_apart(encoded(t))
    assert rows[0][:2] == (1, 1)
    ones = next(i for i in range(600) if parts[0][i] not in (0, 255))
    changes: dict[str, Callable[[list, list], None]] = {
        "as many nonzeros": lambda row, part: part[0].__setitem__(ones, 255),
        "behind its last element": lambda row, part: part[0].__setitem__(625, 2),
        "end in a byte of zeros": lambda row, part: (row.__setitem__(2, row[2] - 1), part[0].__setitem__(625, 0)),
    }
    for said, change in changes.items():
        with pytest.raises(FormatError, match=said):
            decode(resealed(t, change), n)


def test_a_gap_may_not_lead_outside():
    t = np.zeros(1000, np.int8)
    t[[3, 900, 999]] = 1
    n, shift, rows, parts = taken_apart(encoded(t))
    k = rows[0][1]
    assert k > 2 and rows[0][0] == 1
    part = bytearray(parts[0])
    part[-1] |= 1 << (3 * k - 1) % 8  # the highest bit of the last field
    if bytes(part) == parts[0]:
        part[-2] |= 0x80
    assert bytes(part) != parts[0]
    with pytest.raises(FormatError, match="a nonzero lies behind its last element"):
        decode(assembled(n, shift, rows, [bytes(part)]), n)


def test_the_bytes_never_change():
    digest = hashlib.sha256()
    for density in (0.0, 0.0003, 0.005, 0.03, 0.07, 0.1, 0.3, 0.5, 0.9, 1.0):
        digest.update(encoded(drawn(140_001, density, seed=7)))
    assert digest.hexdigest() == "d7540adf27f216c2f14d0bd419df87f6b57dacd2c41540f5f49e36aee3406b92"


def test_a_payload_by_hand():
    header = b"DTTC" + bytes([1, 6, 0, 0]) + (10).to_bytes(8, "little")
    assert encoded(np.zeros(10, np.int8))[:16] == header and encoded(np.zeros(10, np.int8))[20:] == bytes(12)
    t = np.array([0, 0, 0, 0, 0, -1, 1, 0, 0, 1], np.int8)
    payload = encoded(t)
    assert payload[5] == 0 and payload[20:28] == bytes([3, 0, 0, 2 | 1 << 5, 2, 0, 0, 0])  # plain, k = 2
    assert payload[32:] == bytes([0b101100, 0b000011])  # U = 001 1 01 from 11, 0, 4; F = 3, 0, 0
    assert decode_int8(payload, 10).tolist() == t.tolist()


@pytest.mark.parametrize("code", ["import dtheta", "import dtheta.core.codec.payload", "codec"])
def test_numba_is_not_imported_before_it_is_needed(code):
    codec = """
from dtheta.core.codec import payload as module
from dtheta.core.codec.payload import decode_int8, encode
import numpy as np
plane = np.array([5], np.uint8)
assert decode_int8(encode(plane, plane, 3), 3).tolist() == [-1, 0, -1]
"""
    variable = "0" if code == "codec" else "1"
    code = f"{codec if code == 'codec' else code}\nimport sys\nassert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "DTHETA_NUMBA": variable})


@pytest.mark.parametrize("subject", ["encode", "decode"])
def test_both_paths_have_the_same_functions_and_arguments(subject):
    fast, plain = (importlib.import_module(f"dtheta.core.codec.{subject}_{kind}") for kind in ("kernels", "numpy"))
    public = [name for name in vars(plain) if name.startswith(subject)]
    assert public
    for name in public:
        assert inspection.signature(getattr(fast, name)) == inspection.signature(getattr(plain, name))


def test_words_that_lie_highest_byte_first_take_the_path_without_kernels(path, monkeypatch):
    path("kernels")
    used: list[str] = []
    monkeypatch.setattr(module, "loops", lambda subject: used.append(subject) or loops(subject))
    t = drawn(100, 0.3)
    expected = encoded(t)
    assert used == ["codec.encode"]
    monkeypatch.setattr(sys, "byteorder", "big")
    assert encoded(t) == expected and used == ["codec.encode"]
