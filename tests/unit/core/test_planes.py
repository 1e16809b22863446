"""Ternary planes: layout, what is refused, and every operation against the same on int8 elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dtheta.core.plane_products import agreement, agreements, dot, dots
from dtheta.core.plane_sums import add_scaled
from dtheta.core.plane_ties import ties_dense
from dtheta.core.plane_votes import ties
from dtheta.core.planes import Planes, concatenate
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, UnsupportedLayer

LENGTHS = [0, 1, 7, 8, 9, 63, 64, 65, 4095, 4096, 4097, 20_000]
BEYOND_A_BLOCK = 270_001  # more elements than are worked on at once


@pytest.fixture(params=["1", "0"], ids=["compiled", "numpy"], autouse=True)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("DTHETA_NUMBA", request.param)
    return request.param


def drawn(n: int, seed: int = 0, density: float = 0.6) -> NDArray[np.int8]:
    rng = np.random.default_rng([seed, n])
    return (rng.choice([-1, 1], n) * (rng.random(n) < density)).astype(np.int8)


def zeros(n: int) -> Planes:
    return Planes.from_signs(np.zeros(n, np.int8))


def several(count: int, n: int) -> tuple[list[NDArray[np.int8]], list[Planes]]:
    signs = [drawn(n, seed) for seed in range(count)]
    return signs, [Planes.from_signs(t) for t in signs]


def dense_ties(x: list[Any], weights: list[float], elect: str, divide: str | None, factor: float) -> Any:
    """The formulas of TIES on dense float64 vectors, entry by entry, sums in the order of the vectors."""
    total = [e if elect == "total" else np.sign(e) for e in x]
    sign = np.where(sum(total[1:], total[0].copy()) >= 0, 1.0, -1.0)
    a, d = np.zeros_like(x[0]), np.zeros_like(x[0])
    for entry, weight in zip(x, weights, strict=True):
        agrees = np.sign(entry) == sign
        a = a + np.where(agrees, entry, 0.0)
        d = d + np.where(agrees, {"count": 1.0, "weights": weight, None: 0.0}[divide], 0.0)
    return factor * (a / np.where(np.abs(d) >= 1e-8, d, 1.0))


# layout and construction


def test_layout_is_little_endian_bits_in_two_disjoint_planes():
    planes = Planes.from_signs(np.array([1, 0, -1, 0, 0, 0, 0, 1, -1, 1], np.int8))
    assert planes.positive.tolist() == [0b10000001, 0b10]
    assert planes.negative.tolist() == [0b00000100, 0b01]
    assert planes.mask.tolist() == [0b10000101, 0b11]
    assert (planes.length, planes.count, planes.nbytes) == (10, 5, 4)


@pytest.mark.parametrize("n", [*LENGTHS, BEYOND_A_BLOCK])
def test_signs_come_back(n: int):
    signs = drawn(n)
    planes = Planes.from_signs(signs)
    assert Planes(planes.positive, planes.negative, n) == planes  # passes its own checks
    assert np.array_equal(planes.to_signs(), signs) and planes.to_signs().dtype == np.int8
    assert planes.count == np.count_nonzero(signs)
    assert np.array_equal((-planes).to_signs(), -signs)


def test_tensors_of_any_shape_and_strides_are_read_in_storage_order_of_their_shape():
    signs = torch.from_numpy(drawn(35)).reshape(5, 7).T
    assert np.array_equal(Planes.from_signs(signs).to_signs(), signs.reshape(-1).numpy())


def test_planes_share_their_memory_with_torch():
    planes = Planes.from_signs(drawn(100))
    assert torch.from_numpy(planes.positive).data_ptr() == planes.positive.ctypes.data


@pytest.mark.parametrize(
    ("positive", "negative", "length", "kind", "said"),
    [
        ([3], [2], 8, ConfigError, "elements near 0 are both"),
        ([0, 0, 4], [0, 0, 4], 24, ConfigError, "elements near 16 are both"),
        ([8], [0], 3, ConfigError, "positive plane has bits set beyond its 3 elements"),
        ([0], [16], 4, ConfigError, "negative plane has bits set beyond"),
        ([0, 0], [0], 8, ShapeMismatch, "positive plane has 2 bytes; 8 elements take 1"),
        ([0], [0, 0], 8, ShapeMismatch, "negative plane has 2 bytes"),
        ([], [], -1, ConfigError, "-1 elements"),
    ],
)
def test_impossible_planes_are_refused(positive: list, negative: list, length: int, kind: type, said: str):
    with pytest.raises(kind, match=said):
        Planes(np.array(positive, np.uint8), np.array(negative, np.uint8), length)


@pytest.mark.parametrize(
    "plane", [np.zeros(2, np.int8), np.zeros((1, 2), np.uint8), np.zeros(4, np.uint8)[::2], torch.zeros(2).byte()]
)
def test_only_contiguous_bytes_are_planes(plane: Any):
    with pytest.raises(ConfigError, match="expected a contiguous one-dimensional NumPy array of uint8"):
        Planes(plane, np.zeros(2, np.uint8), 16)


@pytest.mark.parametrize("signs", [np.array([2], np.int8), np.array([-128], np.int8), np.array([1], np.int64)])
def test_only_signs_are_signs(signs: NDArray[Any]):
    with pytest.raises(ConfigError, match="expected"):
        Planes.from_signs(signs)


def test_equality():
    a = Planes.from_signs(drawn(20))
    assert a == Planes.from_signs(drawn(20)) and a != -a and a != zeros(20) and a != "planes"
    assert zeros(1) != zeros(2)
    with pytest.raises(TypeError):
        hash(a)


# parts and joints


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 100), (8, 16), (8, 100), (3, 4), (5, 97), (16, 21), (9, 100)])
def test_parts(start: int, stop: int):
    signs = drawn(100)
    planes = Planes.from_signs(signs)
    part = planes.part(start, stop)
    assert Planes(part.positive, part.negative, stop - start) == part
    assert np.array_equal(part.to_signs(), signs[start:stop])
    whole_bytes = start % 8 == 0 and (stop % 8 == 0 or stop == 100) and stop > start
    assert np.shares_memory(part.positive, planes.positive) is whole_bytes


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 3), (0, 11)])
def test_ranges_outside_are_refused(start: int, stop: int):
    with pytest.raises(ConfigError, match="no range inside a ternary vector of 10"):
        zeros(10).part(start, stop)


def test_parts_at_odd_bytes_work_like_any_other():
    signs = [drawn(8 * 1000, s) for s in (0, 1)]
    a, b = (Planes.from_signs(t).part(8, 8 * 1000) for t in signs)  # their 64-bit words are misaligned
    s, t = (t[8:].astype(int) for t in signs)
    assert dot(a, b) == s @ t and ties([a, b]).count == np.count_nonzero(np.abs(s) + np.abs(t))


@pytest.mark.parametrize("lengths", [[], [0], [5], [8, 16, 3], [3, 5, 8, 0, 9], [1] * 17, [1000, 7, 1000]])
def test_concatenation(lengths: list[int]):
    signs = [drawn(n, seed) for seed, n in enumerate(lengths)]
    joined = concatenate([Planes.from_signs(t) for t in signs])
    assert Planes(joined.positive, joined.negative, sum(lengths)) == joined
    assert joined.to_signs().tolist() == [e for t in signs for e in t]


# products


@pytest.mark.parametrize("n", [*LENGTHS, BEYOND_A_BLOCK])
def test_products_of_two_vectors_are_counts(n: int):
    (s, t), (a, b) = several(2, n)
    both = (s != 0) & (t != 0)
    expected = (np.sum(both & (s == t)), np.sum(both & (s != t)))
    assert agreement(a, b) == expected
    assert dot(a, b) == int(s.astype(int) @ t.astype(int))


@pytest.mark.parametrize("n", [0, 1, 65, 20_000, BEYOND_A_BLOCK])
@pytest.mark.parametrize("count", [1, 5])
def test_products_of_every_two_vectors(n: int, count: int):
    _, planes = several(count, n)
    same, opposite = agreements(planes)
    expected = np.array([[agreement(a, b) for b in planes] for a in planes])
    assert np.array_equal(np.stack([same, opposite], axis=-1), expected)
    assert [int(k) for k in np.diag(same)] == [p.count for p in planes] and not np.diag(opposite).any()


def test_vectors_of_different_length_are_refused():
    a, b = zeros(8), zeros(9)
    for operation in (lambda: dot(a, b), lambda: ties([a, b]), lambda: agreements([a, b])):
        with pytest.raises(ShapeMismatch, match="ternary vector 1 has 9 elements and the first has 8"):
            operation()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "span"), [(0, None), (1, None), (4097, None), (20_000, 1000), (999, 7), (10, 100)])
def test_products_with_a_dense_vector(dtype: type, n: int, span: int | None):
    signs, planes = several(3, n)
    g = np.random.default_rng(1).standard_normal(n).astype(dtype)
    found = dots(g, planes, span=span)
    run = span or max(n, 1)
    expected = [[math.fsum(g[i : i + run].astype(float) * t[i : i + run]) for i in range(0, n, run)] for t in signs]
    expected = np.array(expected).reshape(3, -1) if n else np.zeros((3, 1))
    size = np.linalg.norm(g) * math.sqrt(max(n, 1)) + 1e-300
    assert np.abs(found.reshape(3, -1) - expected).max() <= 1e-13 * size
    assert found.shape == ((3,) if span is None else (3, -(-n // span)))
    alone = dots(g, planes[1:2], span=span)
    assert np.array_equal(alone[0], found[1])  # the same bits, whoever else is asked


def test_products_are_the_same_bits_on_both_paths(monkeypatch: pytest.MonkeyPatch):
    _, planes = several(3, BEYOND_A_BLOCK)
    g = torch.randn(BEYOND_A_BLOCK, generator=torch.Generator().manual_seed(0))
    found = []
    for value in ("0", "1"):
        monkeypatch.setenv("DTHETA_NUMBA", value)
        found += [np.concatenate([dots(g, planes)[:, None], dots(g, planes, span=1001)], axis=1)]
    assert np.array_equal(found[0], found[1])


def test_a_nan_in_a_dense_vector_reaches_every_product():
    g = np.array([1.0, np.nan, 2.0])
    assert np.isnan(dots(g, [Planes.from_signs(np.array([1, 0, 0], np.int8)), zeros(3)])).all()


def test_products_refuse_what_does_not_fit():
    a = zeros(8)
    with pytest.raises(ShapeMismatch, match="dense vector of 9 elements with ternary vectors of 8"):
        dots(np.zeros(9), [a])
    with pytest.raises(ConfigError, match="span is 0"):
        dots(np.zeros(8), [a], span=0)
    with pytest.raises(ConfigError, match="no ternary vectors"):
        dots(np.zeros(8), [])
    with pytest.raises(UnsupportedLayer, match="bfloat16"):
        dots(torch.zeros(8, dtype=torch.bfloat16), [a])


# sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [*LENGTHS, BEYOND_A_BLOCK])
def test_sums_are_those_of_dense_vectors_bit_for_bit(dtype: torch.dtype, n: int):
    signs, planes = several(3, n)
    factors = [0.3, -1.7, 1e-3]
    theta = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=dtype)
    expected = theta.clone()
    for t, c in zip(signs, factors, strict=True):
        expected += torch.tensor(c, dtype=dtype) * torch.from_numpy(t).to(dtype)
    before, out = theta.clone(), torch.empty_like(theta)
    assert add_scaled(theta, planes, factors, out=out) is out
    assert torch.equal(theta, before) and torch.equal(out, expected)
    assert add_scaled(theta, planes, factors) is theta
    assert torch.equal(theta, expected)


@pytest.mark.parametrize(("n", "span"), [(35, 7), (36, 7), (20_000, 100), (9000, 4096), (10, 64), (0, 3)])
def test_scales_of_rows_and_blocks(n: int, span: int):
    signs, planes = several(2, n)
    scales = np.random.default_rng(0).standard_normal(-(-n // span)).astype(np.float32)
    expected = np.ones(n, np.float32)
    expected += np.repeat(scales, span)[:n] * signs[0]
    expected += np.float32(0.5) * signs[1]
    assert np.array_equal(add_scaled(np.ones(n, np.float32), planes, [scales, 0.5], span=span), expected)


def test_nan_and_infinity_pass_through_a_sum():
    planes = [Planes.from_signs(np.array([1, -1, 0], np.int8))]
    total = add_scaled(np.array([np.nan, np.inf, -np.inf]), planes, [2.0])
    assert np.isnan(total[0]) and total[1] == np.inf and total[2] == -np.inf


def test_sums_refuse_what_does_not_fit():
    a = zeros(8)
    refused: list[tuple[Callable[[], Any], type, str]] = [
        (lambda: add_scaled(np.zeros(9), [a], [1.0]), ShapeMismatch, "9 elements"),
        (lambda: add_scaled(np.zeros(8), [a], [1.0, 2.0]), ShapeMismatch, "2 factors were given for 1"),
        (lambda: add_scaled(np.zeros(8), [], []), ConfigError, "no ternary vectors"),
        (lambda: add_scaled(np.zeros(8), [a], [np.ones(2)]), ConfigError, "say by span"),
        (lambda: add_scaled(np.zeros(8), [a], [np.ones(2)], span=3), ShapeMismatch, "8 elements are 3 runs of 3"),
        (lambda: add_scaled(np.zeros(8), [a], [np.ones(8)], span=0), ConfigError, "span is 0"),
        (lambda: add_scaled(np.zeros(8), [a], [math.nan]), NonFinite, "factors 0: nan is not finite as float64"),
        (lambda: add_scaled(np.zeros(8, np.float32), [a], [1e300]), NonFinite, "not finite as float32"),
        (lambda: add_scaled(np.zeros(8), [a], [1.0], out=np.zeros(8, np.float32)), ShapeMismatch, "must agree"),
        (lambda: add_scaled(torch.zeros(2, 4).T, [a], [1.0]), ConfigError, "cannot be written in place"),
        (lambda: add_scaled(torch.zeros(8).half(), [a], [1.0]), UnsupportedLayer, "float16"),
    ]
    for operation, kind, said in refused:
        with pytest.raises(kind, match=said):
            operation()


# votes


@pytest.mark.parametrize("n", [*LENGTHS, BEYOND_A_BLOCK])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_votes(n: int, count: int):
    signs, planes = several(count, n)
    p, q = (sum((t == s).astype(int) for t in signs) for s in (1, -1))
    elected = np.where((p >= q) & (p > 0), 1, 0) - (q > p)
    found = ties(planes)
    assert Planes(found.positive, found.negative, n) == found
    assert np.array_equal(found.to_signs(), elected)


def test_two_hundred_and_fifty_five_voters():
    signs, planes = several(255, 300)
    signs[:255] = [np.where(np.arange(300) < 100, 1, t).astype(np.int8) for t in signs]  # counters full to the brim
    planes = [Planes.from_signs(t) for t in signs]
    total = sum(t.astype(int) for t in signs)
    assert np.array_equal(ties(planes).to_signs(), np.where(total >= 0, 1, -1))


def test_ties_of_equal_scales_is_the_dense_merge_exactly():
    signs, planes = several(5, 5000)
    scale = 0.0137
    dense = dense_ties([scale * t for t in signs], [1.0] * 5, "total", "count", 1.0)
    assert np.allclose(scale * ties(planes).to_signs(), dense, rtol=4e-16, atol=0)  # a dense mean rounds, ours does not
    exact = dense_ties([0.5 * t for t in signs], [1.0] * 5, "total", "count", 1.0)  # a scale whose sums do not round
    assert np.array_equal(0.5 * ties(planes).to_signs(), exact)


def test_no_voters_are_refused():
    with pytest.raises(ConfigError, match="no ternary vectors"):
        ties([])


@pytest.mark.parametrize("n", [0, 1, 9, 4097, 20_000])
@pytest.mark.parametrize("elect", ["total", "count"])
@pytest.mark.parametrize("divide", ["count", "weights", None])
def test_weighted_ties_is_the_dense_formula_bit_for_bit(n: int, elect: Any, divide: Any):
    signs, planes = several(4, n)
    scales, weights = [0.1, 0.3, 0.7, 0.2], [1.0, -0.4, 0.4, 0.3]
    dense = [w * s * t for w, s, t in zip(weights, scales, signs, strict=True)]
    expected = dense_ties(dense, weights, elect, divide, 0.9)
    for dtype in (np.float32, np.float64):
        found = ties_dense(planes, scales, weights, elect=elect, divide=divide, factor=0.9, dtype=dtype)
        assert found.dtype == dtype and np.array_equal(found, expected.astype(dtype))


def test_weighted_ties_beyond_a_block_with_scales_of_rows():
    signs, planes = several(3, BEYOND_A_BLOCK)
    rows = -(-BEYOND_A_BLOCK // 1001)
    scales = [np.random.default_rng(s).random(rows) for s in range(3)]
    dense = [np.repeat(s, 1001)[:BEYOND_A_BLOCK] * t for s, t in zip(scales, signs, strict=True)]
    expected = dense_ties(dense, [1.0] * 3, "total", "count", 1.0).astype(np.float32)
    assert np.array_equal(ties_dense(planes, scales, span=1001), expected)


def test_weights_that_cancel_divide_by_one():
    planes = [Planes.from_signs(np.array([1], np.int8))] * 2
    found = ties_dense(planes, [1.0, -2.0], [1.0, -1.0], divide="weights", dtype=np.float64)
    assert found.tolist() == [3.0]


def test_weighted_ties_refuses_what_cannot_be_meant():
    planes = [zeros(3)] * 2
    refused: list[tuple[dict[str, Any], type, str]] = [
        ({"elect": "totals"}, ConfigError, "did you mean 'total'"),
        ({"divide": "sum"}, ConfigError, "choose 'count', 'weights' or None"),
        ({"dtype": np.float16}, ConfigError, "choose float32 or float64"),
        ({"factor": math.inf}, NonFinite, "factor is inf"),
        ({"weights": [1.0]}, ShapeMismatch, "1 weights were given for 2"),
        ({"weights": [1e300, 1.0], "scales": [1e300, 1.0]}, NonFinite, "too large for float64"),
        ({"scales": [1.0, math.nan]}, NonFinite, "scales 1: nan"),
    ]
    for options, kind, said in refused:
        with pytest.raises(kind, match=said):
            ties_dense(planes, **{"scales": [1.0, 1.0], **options})
