"""Laws of ternary planes and of the selection: on any vectors, on both paths, what int8 and a full sort give.

Every operation is done by compiled kernels and by NumPy alone; both must give the same bits before they are compared
with the dense reference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dtheta.core.plane_products import agreement, dot, dots
from dtheta.core.plane_sums import add_scaled
from dtheta.core.plane_ties import ties_dense
from dtheta.core.plane_votes import ties
from dtheta.core.planes import Planes, concatenate
from dtheta.core.topk import select, select_rows, selected, threshold

T = TypeVar("T")
Signs = NDArray[np.int8]

LENGTHS = st.one_of(
    st.integers(0, 40), st.sampled_from([63, 64, 65, 255, 257, 511, 4088, 4095, 4096, 4097, 8200]), st.integers(0, 9000)
)
NUMBERS = st.floats(-4, 4).map(lambda x: round(x, 3))
EXAMPLES = settings(max_examples=30)


def _drawn(n: int, seed: int, kind: str) -> Signs:
    rng = np.random.default_rng(seed)
    if kind in ("zero", "positive", "negative"):
        return np.full(n, {"zero": 0, "positive": 1, "negative": -1}[kind], np.int8)
    density = {"sparse": 0.05, "half": 0.5, "full": 1.0}[kind]
    return (rng.choice([-1, 1], n) * (rng.random(n) < density)).astype(np.int8)


def _vectors(count: st.SearchStrategy[int]) -> st.SearchStrategy[list[Signs]]:
    """One or more vectors of one length, each all zero, all of one sign, sparse, half or full."""
    kinds = st.sampled_from(["zero", "positive", "negative", "sparse", "half", "half", "full"])
    return st.tuples(LENGTHS, count).flatmap(
        lambda size: st.lists(
            st.tuples(st.integers(0, 2**32), kinds).map(lambda made: _drawn(size[0], *made)),
            min_size=size[1],
            max_size=size[1],
        )
    )


def _on_both(run: Callable[[], T]) -> T:
    """Return what ``run`` gives, after seeing that both paths give the same."""
    before, found = os.environ.get("DTHETA_NUMBA"), []
    try:
        for value in ("0", "1"):
            os.environ["DTHETA_NUMBA"] = value
            found.append(run())
    finally:
        os.environ.pop("DTHETA_NUMBA") if before is None else os.environ.update(DTHETA_NUMBA=before)
    plain, compiled = found
    assert np.array_equal(plain, compiled) if isinstance(plain, np.ndarray) else plain == compiled
    return compiled


def _valid(planes: Planes) -> Planes:
    """Return planes that pass the checks of their constructor."""
    return Planes(planes.positive, planes.negative, planes.length)


def _planes(signs: list[Signs]) -> list[Planes]:
    return [Planes.from_signs(t) for t in signs]


def _wide(signs: list[Signs]) -> NDArray[np.int64]:
    return np.stack(signs).astype(np.int64)


@given(_vectors(st.just(1)), st.data())
def test_planes_hold_a_vector_and_its_parts(signs: list[Signs], data: st.DataObject) -> None:
    (t,), (planes,) = signs, _planes(signs)
    assert np.array_equal(_on_both(planes.to_signs), t)
    assert _on_both(lambda: planes.count) == np.count_nonzero(t)
    opposite = -planes
    assert -opposite == planes and np.array_equal(opposite.to_signs(), -t)
    cuts = sorted(data.draw(st.lists(st.integers(0, t.size), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, t.size], strict=True))
    parts = [_valid(planes.part(*bound)) for bound in bounds]
    assert all(np.array_equal(part.to_signs(), t[a:b]) for part, (a, b) in zip(parts, bounds, strict=True))
    assert _valid(concatenate(parts)) == planes


@given(_vectors(st.just(2)))
def test_products_are_counts_of_elements(signs: list[Signs]) -> None:
    (s, t), (a, b) = _wide(signs), _planes(signs)
    assert _on_both(lambda: dot(a, b)) == s @ t
    assert _on_both(lambda: agreement(a, b)) == (np.sum(s * t == 1), np.sum(s * t == -1))


@EXAMPLES
@given(_vectors(st.integers(1, 6)), st.data())
def test_a_sum_is_the_dense_one_bit_for_bit(signs: list[Signs], data: st.DataObject) -> None:
    planes, n = _planes(signs), signs[0].size
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    span = data.draw(st.sampled_from([1, 5, 8, 100, 5000]))
    theta = np.random.default_rng(0).standard_normal(n).astype(dtype)
    factors: list[Any] = [data.draw(NUMBERS) for _ in signs]
    factors[0] = np.random.default_rng(1).standard_normal(-(-n // span))
    expected = theta.copy()
    for t, c in zip(signs, factors, strict=True):
        expected += (np.repeat(c, span)[:n] if np.ndim(c) else np.full(n, c)).astype(dtype) * t
    found = _on_both(lambda: add_scaled(theta.copy(), planes, factors, span=span))
    assert np.array_equal(found, expected)


@EXAMPLES
@given(_vectors(st.integers(1, 5)), st.sampled_from([None, 1, 5, 8, 100, 5000]))
def test_products_with_a_dense_vector(signs: list[Signs], span: int | None) -> None:
    planes, n = _planes(signs), signs[0].size
    g = np.random.default_rng(2).standard_normal(n).astype(np.float32)
    run = span or max(n, 1)
    starts = range(0, n, run) if span else [0]
    expected = np.array([[float(t[i : i + run] @ g[i : i + run].astype(float)) for i in starts] for t in signs])
    found = _on_both(lambda: dots(g, planes, span=span))
    size = float(np.linalg.norm(g)) * max(n, 1) ** 0.5
    assert np.abs(found.reshape(expected.shape) - expected).max(initial=0.0) <= 1e-12 * size


@EXAMPLES
@given(_vectors(st.integers(1, 20)))
def test_votes_are_those_of_counts(signs: list[Signs]) -> None:
    planes, t = _planes(signs), _wide(signs)
    p, n = (t == 1).sum(0), (t == -1).sum(0)
    elected = np.where(p >= n, p > 0, -1 * (n > 0))
    assert np.array_equal(_on_both(lambda: _valid(ties(planes))).to_signs(), elected)


@EXAMPLES
@given(_vectors(st.integers(1, 6)), st.data())
def test_weighted_ties_is_the_dense_formula_bit_for_bit(signs: list[Signs], data: st.DataObject) -> None:
    planes = _planes(signs)
    scales = [data.draw(st.floats(0, 2)) for _ in signs]
    weights = [data.draw(NUMBERS) for _ in signs]
    elect: Any = data.draw(st.sampled_from(["total", "count"]))
    divide: Any = data.draw(st.sampled_from(["count", "weights", None]))
    x = [(w * s) * t.astype(np.float64) for w, s, t in zip(weights, scales, signs, strict=True)]
    vote, a, d = np.zeros((3, signs[0].size))
    for entry in x:
        vote = vote + (entry if elect == "total" else np.sign(entry))
    sign = np.where(vote >= 0, 1.0, -1.0)
    for entry, weight in zip(x, weights, strict=True):
        a = np.where(np.sign(entry) == sign, a + entry, a)
        d = np.where(np.sign(entry) == sign, d + (1.0 if divide == "count" else weight), d)
    expected = a if divide is None else a / np.where(np.abs(d) < 1e-8, 1.0, d)
    found = _on_both(lambda: ties_dense(planes, scales, weights, elect=elect, divide=divide))
    assert np.array_equal(found, expected.astype(np.float32))


def _values(dtype: Any) -> st.SearchStrategy[NDArray[Any]]:
    """Finite floats with many equals, zeros and denormals among them."""
    width = 8 * np.dtype(dtype).itemsize
    finite = st.floats(allow_nan=False, allow_infinity=False, width=width)
    few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, float(np.finfo(dtype).smallest_subnormal)])
    return arrays(dtype, st.integers(0, 80), elements=st.one_of(few, finite))


def _largest(values: NDArray[Any], k: int) -> NDArray[np.float64]:
    order = np.argsort(-np.abs(values.astype(np.float64)), kind="stable")[:k]
    signs = np.zeros(values.size)
    signs[order] = np.sign(values[order])
    return signs


@given(st.sampled_from([np.float32, np.float64, np.float16]).flatmap(_values), st.data())
def test_the_largest_are_those_of_a_stable_sort(values: NDArray[Any], data: st.DataObject) -> None:
    k = data.draw(st.integers(0, values.size))
    found = _on_both(lambda: _valid(select(values, k)))
    assert np.array_equal(found.to_signs(), _largest(values, k))
    assert found.count == min(k, np.count_nonzero(values))
    cuts = sorted(data.draw(st.lists(st.integers(0, values.size), max_size=3)))
    parts = np.split(values, cuts)
    pieces = _on_both(lambda: [planes for _, planes in selected(parts, threshold(parts, k))])
    assert concatenate(pieces) == found  # however the source is cut


@given(_values(np.float32), st.integers(1, 9), st.data())
def test_rows_are_selected_one_by_one(values: NDArray[Any], columns: int, data: st.DataObject) -> None:
    rows = values[: values.size // columns * columns].reshape(-1, columns)
    k = data.draw(st.integers(0, columns))
    found = _on_both(lambda: _valid(select_rows(rows, k)))
    assert np.array_equal(found.to_signs(), np.concatenate([np.zeros(0), *(_largest(row, k) for row in rows)]))


@given(_values(np.float32), st.data())
def test_selecting_again_changes_nothing(values: NDArray[Any], data: st.DataObject) -> None:
    planes = select(values, data.draw(st.integers(0, values.size)))
    kept = torch.from_numpy(values * np.abs(planes.to_signs()))
    assert select(kept, planes.count) == planes
