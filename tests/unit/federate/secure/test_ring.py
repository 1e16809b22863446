"""Residues modulo 2^b and their packing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dtheta.errors import FormatError
from dtheta.federate.secure import ring
from dtheta.federate.secure.ring import centered, packed, packed_size, reduced, ring_bits, unpacked


@given(st.integers(1, 2**30))
def test_the_ring_is_the_smallest_that_holds_the_sum(clients):
    bits = ring_bits(clients)
    assert 2**bits > 2 * clients >= 2 ** (bits - 1)


@st.composite
def _residues(draw):
    bits = draw(st.integers(1, 32))
    return bits, draw(hnp.arrays(np.uint32, st.integers(0, 200), elements=st.integers(0, 2**bits - 1)))


def _plain(values: np.ndarray, bits: int) -> bytes:
    number = sum(int(value) << (i * bits) for i, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


@given(_residues())
def test_packing_is_one_long_number_and_goes_round(case):
    bits, values = case
    data = packed(values, bits)
    assert data == _plain(values, bits) and len(data) == packed_size(len(values), bits)
    found = unpacked(data, len(values), bits)
    assert found.dtype == np.uint32 and np.array_equal(found, values)


def test_groups_are_joined(monkeypatch):
    monkeypatch.setattr(ring, "_GROUP", 16)
    values = np.arange(100, dtype=np.uint32) % 8
    assert packed(values, 3) == _plain(values, 3)
    assert np.array_equal(unpacked(packed(values, 3), 100, 3), values)


@given(st.integers(1, 40), st.data())
def test_sums_of_ternary_numbers_come_back(clients, data):
    rows = data.draw(hnp.arrays(np.int32, (clients, 7), elements=st.integers(-1, 1)))
    bits, total = ring_bits(clients), np.zeros(7, np.uint32)
    for row in rows:
        total += reduced(row, bits)
    assert np.array_equal(centered(reduced(total, bits), bits), rows.sum(0))


@pytest.mark.parametrize("clients", [1, 2, 3, 4, 7, 8, 127, 128])
def test_the_ends_of_the_sum_come_back(clients):
    bits = ring_bits(clients)
    ends = np.array([-clients, clients], np.int32)
    assert np.array_equal(centered(reduced(ends, bits), bits), ends)


def test_the_widest_ring():
    values = np.array([-(2**31), 2**31 - 1, -1, 0], np.int32)
    assert np.array_equal(centered(reduced(values, 32), 32), values)


@pytest.mark.parametrize(("data", "count", "bits"), [(b"", 1, 3), (b"ab", 1, 3), (b"\x08", 1, 3), (b"a", 0, 5)])
def test_bytes_that_cannot_be_are_refused(data, count, bits):
    with pytest.raises(FormatError):
        unpacked(data, count, bits)
