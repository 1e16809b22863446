"""The largest and smallest entries of a row: the compiled loop and NumPy against a sorted row, ties included."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dtheta.core.compiled import loops


@pytest.fixture(params=["1", "0"], ids=["compiled", "numpy"], autouse=True, scope="module")
def _form(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DTHETA_NUMBA", request.param)
        yield


def extremes(values: np.ndarray, high: int, low: int) -> tuple[list[list[int]], list[list[int]]]:
    rows = len(values)
    largest, smallest = np.full((rows, high), -1, np.int32), np.full((rows, low), -1, np.int32)
    loops("extremes").extremes(values, largest, smallest)
    return largest.tolist(), smallest.tolist()


def wanted(row: np.ndarray, count: int, sign: int) -> list[int]:
    """The definition: by value, then by place."""
    return sorted(range(len(row)), key=lambda c: (-sign * float(row[c]), c))[:count]


@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(-4, 4)),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_ties_go_to_the_first(values: np.ndarray, high: int, low: int) -> None:
    high, low = min(high, values.shape[1]), min(low, values.shape[1])
    largest, smallest = extremes(values, high, low)
    assert largest == [wanted(row, high, 1) for row in values]
    assert smallest == [wanted(row, low, -1) for row in values]


@pytest.mark.parametrize("shape", ["falling", "rising", "random", "constant", "huge"])
@pytest.mark.parametrize("columns", [2047, 2048, 2049, 9001])
def test_long_rows(shape: str, columns: int) -> None:
    ramp = np.arange(columns, dtype=np.float32)
    row = {
        "falling": -ramp,
        "rising": ramp,
        "random": np.random.default_rng(0).standard_normal(columns).astype(np.float32),
        "constant": np.ones(columns, np.float32),
        "huge": np.where(ramp % 3 == 0, np.float32(3e38), np.float32(-3e38)),
    }[shape]
    values = np.stack([row, row[::-1]])
    largest, smallest = extremes(values, 37, 5)
    assert largest == [wanted(r, 37, 1) for r in values]
    assert smallest == [wanted(r, 5, -1) for r in values]
