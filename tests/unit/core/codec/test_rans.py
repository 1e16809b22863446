"""The entropy code in NumPy: as with plain integers, several chunks side by side, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from dtheta.core.codec import rans, tables
from dtheta.core.codec.chunks import Fault
from tests.unit.core.codec import reference
from tests.unit.core.codec.reference import drawn, planes_of

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 100, 1001]


def strings() -> list[np.ndarray]:
    """Byte strings of all lengths and densities."""
    return [
        planes_of(drawn(8 * m, density, m) | (np.arange(8 * m) == 0))[0]
        for m in LENGTHS
        for density in (0.01, 0.1, 0.3, 0.5, 0.97)
    ]


def ones(U: np.ndarray) -> int:
    return int(np.bitwise_count(U).sum())


def test_the_bytes_are_those_of_plain_integers():
    U = strings()
    for u, (state, data) in zip(U, rans.coded(U, [ones(u) for u in U]), strict=True):
        assert np.array([len(u), *state], "<u4").tobytes() + data == reference.rans(u.tobytes(), ones(u))


def test_strings_of_all_lengths_come_back_from_one_batch():
    U = strings()
    code = rans.coded(U, [ones(u) for u in U])
    data = [np.frombuffer(d, np.uint8) for _, d in code]
    back = rans.uncoded([x for x, _ in code], data, [ones(u) for u in U], [len(u) for u in U])
    assert all(np.array_equal(a, b) for a, b in zip(U, back, strict=True))
    assert rans.coded([], []) == []


@pytest.fixture
def code() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A string of 2000 bytes with rare ones, its states, and words and rare bytes."""
    U = planes_of(drawn(16_000, 0.1))[0]
    (state, data), = rans.coded([U], [ones(U)])  # fmt: skip
    return U, state, np.frombuffer(data, np.uint8)


def told(U, state, data) -> Fault | np.ndarray:
    return rans.uncoded([state], [data], [ones(U)], [len(U)])[0]


def test_what_is_wrong_is_named(code):
    U, state, data = code
    q = tables.density_step(ones(U), len(U))
    rare = int(tables.rare()[q][U].sum())
    assert rare > 0 and np.array_equal(told(U, state, data), U)
    assert told(U, state - np.array([0, state[1] - 5, 0, 0]), data) is Fault.STATE
    assert told(U, state + np.array([0, 0, 1, 0]), data) in (Fault.STATE, Fault.LEFT_OVER)
    assert told(U, state, np.append(data, np.uint8(255))) is Fault.LEFT_OVER
    assert told(U, state, data[:-1]) is Fault.LEFT_OVER
    assert told(U, state, data[: len(data) - rare - 2]) in (Fault.STATE, Fault.LEFT_OVER)
    common = data.copy()
    common[-1] = 0
    assert not tables.rare()[q][0] and told(U, state, common) is Fault.RARE


def test_words_that_are_missing_are_missed_even_if_zeros_would_do():
    f, start = reference.symbol(64, 0b1111)
    U = np.full(64, 0b1111, np.uint8)
    (state, data), = rans.coded([U], [ones(U)])  # fmt: skip
    assert f == 16 and start == 240 and len(data) > 4
    assert told(U, state, np.frombuffer(data, np.uint8)[:-2]) in (Fault.STATE, Fault.LEFT_OVER)
