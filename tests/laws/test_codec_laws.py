"""Laws of the codec of ternary vectors: exact, the same on both paths, and no damage goes through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dtheta.core.codec.chunks import parsed
from dtheta.core.codec.payload import decode, decode_int8, decode_range, encode
from dtheta.errors import FormatError
from tests.unit.core.codec.reference import assembled, drawn, planes_of, taken_apart

PATHS = ("0", "1")  # NumPy, compiled kernels


@contextmanager
def path(value: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTHETA_NUMBA", value)
        yield


@st.composite
def vectors(draw: st.DrawFn, stretch: int = 40_000) -> NDArray[np.int8]:
    """Stretches of different densities, some of them sorted, so up to a few chunks of any kind."""
    parts = [np.zeros(0, np.int8)]
    for _ in range(draw(st.integers(0, 4))):
        length = draw(st.one_of(st.integers(0, 300), st.integers(0, stretch)))
        density = draw(st.sampled_from([0.0, 1e-4, 0.003, 0.01, 0.04, 0.08, 0.15, 0.4, 0.5, 0.9, 1.0]))
        t = drawn(length, density, draw(st.integers(0, 1000)))
        parts.append(np.sort(t) if draw(st.booleans()) else t)
    return np.concatenate(parts)


def same(a: tuple[NDArray, NDArray], b: tuple[NDArray, NDArray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@given(vectors())
def test_both_paths_write_the_same_and_each_reads_it(t):
    written = []
    for value in PATHS:
        with path(value):
            written.append(encode(*planes_of(t), len(t)).tobytes())
    assert written[0] == written[1]
    for value in PATHS:
        with path(value):
            assert same(decode(written[0], len(t)), planes_of(t))
            assert np.array_equal(decode_int8(written[0], len(t)), t)


@given(vectors(), st.data())
def test_a_range_is_the_slice(t, data):
    payload = encode(*planes_of(t), len(t))
    start = data.draw(st.integers(0, len(t)))
    stop = data.draw(st.integers(start, len(t)))
    for value in PATHS:
        with path(value):
            assert same(decode_range(payload, len(t), start, stop), planes_of(t[start:stop]))
            assert np.array_equal(decode_int8(payload, len(t), start, stop), t[start:stop])


@given(vectors())
def test_the_table_counts_what_is_there(t):
    payload = encode(*planes_of(t), len(t))
    chunks = parsed(payload, len(t))
    assert chunks.nbytes == len(payload)
    spans = [chunks.elements(i) for i in range(len(chunks.codec))]
    assert [int(np.count_nonzero(t[a:b])) for a, b in spans] == chunks.count.tolist()
    assert sum(b - a for a, b in spans) == len(t)


@given(vectors(3000), st.data())
def test_damage_is_refused(t, data):
    payload = bytearray(encode(*planes_of(t), len(t)).tobytes())
    kind = data.draw(st.sampled_from(["change", "cut", "append"]))
    at = data.draw(st.integers(0, len(payload) - 1))
    if kind == "change":
        payload[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del payload[at:]
    else:
        payload += bytes(at + 1)
    for value in PATHS:
        with path(value), pytest.raises(FormatError):
            decode(payload, len(t))


@given(vectors(3000).filter(lambda t: t.any()), st.data())
def test_a_forged_payload_is_refused_or_is_a_vector_and_both_paths_agree(t, data):
    n, shift, rows, parts = taken_apart(encode(*planes_of(t), len(t)).tobytes())
    row, part = list(rows[0]), bytearray(parts[0])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(part) - 1))
        what = data.draw(st.sampled_from(["change", "insert", "delete", "row"]))
        if what == "change":
            part[at] = data.draw(st.integers(0, 255))
        elif what == "insert":
            part[at:at] = data.draw(st.binary(min_size=1, max_size=4))
        elif what == "delete" and len(part) > 1:
            del part[at]
        elif what == "row":
            field = data.draw(st.integers(0, 2))
            row[field] = max(0, row[field] + data.draw(st.sampled_from([-1, 1]))) % 32 if field < 2 else row[2] + 1
    forged = assembled(n, shift, [(row[0] % 8, row[1], row[2])], [bytes(part)])
    read = []
    for value in PATHS:
        with path(value):
            try:
                read.append(decode(forged, n))
                mask, negative = read[-1]
                assert same(planes_of(decode_int8(forged, n)), read[-1])
                assert not np.any(negative & ~mask) and int(np.bitwise_count(mask).sum()) == row[2]
            except FormatError:
                read.append(None)
    assert (read[0] is None) == (read[1] is None)
    assert read[0] is None or same(read[0], read[1])
