"""Nonzeros as numbers, and numbers as U and F."""

from __future__ import annotations

import numpy as np
import pytest

from dtheta.core.codec import rice
from dtheta.core.codec.chunks import Fault
from tests.unit.core.codec.reference import drawn, fields, planes_of, unary


def test_an_example_by_hand():
    mask, negative = planes_of([0, 0, 0, 0, 0, -1, 1, 0, 0, 1])
    v = rice.numbers(mask, negative)
    assert v.tolist() == [11, 0, 4]  # gaps 5, 0, 2
    assert rice.unary(v, 2).tolist() == [0b101100]  # 001 1 01
    assert rice.fields(v, 2).tolist() == [0b000011]  # 3, 0, 0 in two bits each
    assert rice.unary(v, 1).tolist() == mask.tolist()
    assert rice.fields(v, 1).tolist() == [0b001]  # the signs


@pytest.mark.parametrize("density", [0.001, 0.01, 0.07, 0.3, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_strings_of_bits_say_the_same_and_lead_back(density, k):
    mask, negative = planes_of(drawn(3001, density))
    v = rice.numbers(mask, negative)
    U, F = rice.unary(v, k), rice.fields(v, k)
    assert U.tobytes() == unary(v.tolist(), k) and F.tobytes() == fields(v.tolist(), k)
    back = rice.planes(U, F, k, len(v), 3001)
    assert not isinstance(back, Fault)
    assert np.array_equal(back[0], mask) and np.array_equal(back[1], negative)


@pytest.mark.parametrize("density", [0.0005, 0.004, 0.02, 0.1, 0.25, 0.4, 0.9])
def test_the_parameter_is_the_least_of_the_best(density):
    for seed in range(10):
        v = rice.numbers(*planes_of(drawn(5000, density, seed)))
        if len(v):
            length = [int((v >> k).sum()) + len(v) * (k + 1) for k in range(1, 24)]
            assert rice.parameter(v) == 1 + int(np.argmin(length))


def test_what_is_wrong_is_named():
    v = rice.numbers(*planes_of([0, 0, 0, 0, 0, -1, 1, 0, 0, 1]))
    U, F = rice.unary(v, 2), rice.fields(v, 2)
    assert rice.planes(U, F | 64, 2, 3, 10) is Fault.UNUSED
    assert rice.planes(np.append(U, np.uint8(0)), F, 2, 3, 10) is Fault.ZERO_BYTE
    assert rice.planes(U | 1, F, 2, 3, 10) is Fault.COUNT
    assert rice.planes(U, F, 2, 3, 9) is Fault.OUTSIDE
