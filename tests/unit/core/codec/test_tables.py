"""The model of a byte: the same integers as from fractions, close to the truth, and never to change."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from dtheta.core.codec import tables
from tests.unit.core.codec import reference


@pytest.mark.parametrize("q", [1, 2, 3, 7, 13, 16, 20, 31, 43, 64, 77, 90, 115, 120, 126, 127])
def test_the_model_is_that_of_exact_fractions(q):
    f, rare, escape = reference.model(q)
    assert [int(tables.frequencies()[q, b]) for b in range(256)] == [f.get(b, escape) for b in range(256)]
    assert np.flatnonzero(tables.rare()[q]).tolist() == rare
    assert tables.escapes()[q] == (rare[0] if rare else 256)
    starts = [reference.symbol(q, b)[1] for b in range(256)]
    assert tables.starts()[q].tolist() == starts


def test_every_slot_belongs_to_one_symbol_and_says_where_it_starts():
    slot = np.arange(4096)
    for q in range(1, 128):
        entry = tables.slots()[q].astype(np.int64)
        byte, offset, f = entry & 255, entry >> 8 & 4095, entry >> 20
        assert np.array_equal(tables.starts()[q, byte] + offset, slot)
        assert np.array_equal(tables.frequencies()[q, byte], f) and (offset < f).all()
        assert set(byte) == set(np.flatnonzero(~tables.rare()[q])) | ({int(tables.escapes()[q])} - {256})


def test_the_density_is_rounded_to_the_nearest_step_that_is_allowed():
    for nbytes in (1, 2, 3, 5, 63, 8192):
        for ones in range(0, 8 * nbytes + 1, 1 + nbytes // 16):
            assert tables.density_step(ones, nbytes) == reference.density_step(ones, nbytes)
    assert tables.density_step(0, 9) == 1 and tables.density_step(72, 9) == 127


LOST = [(0.05, 0.006), (0.1, 0.003), (0.2, 0.003), (0.35, 0.002), (0.5, 1e-9), (0.9, 0.003)]


@pytest.mark.parametrize(("density", "lost"), LOST)
def test_the_model_costs_little_more_than_the_entropy(density, lost):
    q = round(128 * density)
    ones = np.array([b.bit_count() for b in range(256)])
    P = density**ones * (1 - density) ** (8 - ones)
    cost = 12 - np.log2(tables.frequencies()[q]) + 8 * tables.rare()[q]
    entropy = -8 * (density * math.log2(density) + (1 - density) * math.log2(1 - density))
    assert entropy * (1 - 1e-9) <= P @ cost <= entropy * (1 + lost)


def test_signs_go_to_the_ones_of_a_mask_in_order():
    for mask in range(256):
        places = [i for i in range(8) if mask >> i & 1]
        for signs in (0, 255, 0b01011010, 0b110):
            expected = sum((signs >> j & 1) << i for j, i in enumerate(places))
            assert tables.deposits()[mask << 8 | signs] == expected


def test_a_byte_widens_to_eight_numbers():
    for byte in (0, 1, 0x80, 0xA7, 255):
        bits = [byte >> i & 1 for i in range(8)]
        for row, sign in enumerate((1, -1)):
            assert list(int(tables.widened()[row, byte]).to_bytes(8, "little")) == [b * sign % 256 for b in bits]


def test_the_tables_never_change():
    digest = hashlib.sha256()
    for table in (tables.frequencies(), tables.starts(), tables.escapes()):
        digest.update(table.astype("<u2").tobytes())
    assert digest.hexdigest() == "b4b3c2689c1e455ae1ab1fc2688ebcde5d919bdf8371034248e5bcea69cd8f09"
    with pytest.raises(ValueError, match="read-only"):
        tables.slots()[1, 0] = 0
