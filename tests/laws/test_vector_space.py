"""Laws of the vector space: sums, multiples, inner products and norms equal those of the dense displacements."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.core.change import Change, Dense
from dtheta.core.combination import add
from dtheta.core.delta import Delta, total
from dtheta.core.lowrank import LowRank
from dtheta.core.products import inner
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from tests.laws.strategies import FACTORS, SHAPES, change_pairs, changes, low_rank, reference, size, unbound

# Errors are relative to the parts that go in: a sum of parts that cancel is only as exact as the parts.
ROUNDING = 2e-6  # of stored float32 results
EXACT = 1e-12  # of what is accumulated in float64


def _normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "law", index))


def _close(found: float, expected: float, scale: float, tolerance: float = EXACT) -> None:
    assert abs(found - expected) <= tolerance * scale + 1e-300


@given(change_pairs())
def test_dense_form_is_the_definition(pair: tuple[Change, Change]) -> None:
    for change in pair:
        found = change.dense()
        assert found.shape == torch.Size(change.shape) and found.dtype == change.dtype
        assert float((found.double() - reference(change)).norm()) <= ROUNDING * size(change)


@given(change_pairs(), FACTORS, FACTORS)
def test_weighted_sum_in_factored_form_is_the_dense_sum(pair: tuple[Change, Change], x: float, y: float) -> None:
    a, b = pair
    expected = x * reference(a) + y * reference(b)
    combined = x * a + y * b
    scale = abs(x) * size(a) + abs(y) * size(b)
    assert float((combined.dense().double() - expected).norm()) <= ROUNDING * scale
    factors = combined.factors()
    if factors is not None:
        assert float((factors[0].double() @ factors[1].double()).reshape(a.shape).sub(expected).norm()) <= (
            10 * ROUNDING * scale
        )


@given(change_pairs())
def test_order_of_a_sum_does_not_matter(pair: tuple[Change, Change]) -> None:
    a, b = pair
    assert float((a + b).dense().sub((b + a).dense()).norm()) <= ROUNDING * (size(a) + size(b))
    nested = add([a, add([b, a])]).dense() - add([add([a, a]), b]).dense()
    assert float(nested.norm()) <= ROUNDING * (2 * size(a) + size(b))


@given(change_pairs())
def test_difference_with_itself_is_zero(pair: tuple[Change, Change]) -> None:
    for change in pair:
        nothing = change - change
        assert nothing.norm() <= EXACT * size(change) + 1e-300
        assert float(nothing.dense().double().norm()) <= EXACT * size(change) + 1e-300


@given(change_pairs())
def test_one_times_a_change_is_the_change_itself(pair: tuple[Change, Change]) -> None:
    a, b = pair
    assert 1.0 * a is a and a * 1 is a
    delta = Delta({"w": a, "v": b})
    assert 1.0 * delta is delta and total([delta]) == delta
    assert total([delta]).digest == delta.digest


@given(change_pairs())
def test_norm_and_inner_product_are_the_dense_ones(pair: tuple[Change, Change]) -> None:
    a, b = pair
    x, y = reference(a).flatten(), reference(b).flatten()
    scale = size(a) * size(b)
    _close(inner(a, b), float(x @ y), scale, 1e-6)  # bases of spectral changes are orthonormal to float32 only
    _close(inner(a, b), inner(b, a), scale)
    _close(a.norm(), float(x.norm()), size(a), 1e-6)
    _close(inner(a, a), a.norm() ** 2, size(a) ** 2, 1e-6)


@given(change_pairs())
def test_cosine_obeys_cauchy_schwarz(pair: tuple[Change, Change]) -> None:
    a, b = Delta({"w": pair[0]}), Delta({"w": pair[1]})
    x, y = reference(pair[0]).flatten(), reference(pair[1]).flatten()
    cosine = a.cosine(b)
    if a.norm() == 0 or b.norm() == 0:
        assert math.isnan(cosine)
        return
    assert -1.0 <= cosine <= 1.0
    assert abs(a.inner(b)) <= a.norm() * b.norm() * (1 + 1e-6) + 1e-6 * size(pair[0]) * size(pair[1])
    if float(x.norm()) > 1e-3 * size(pair[0]) and float(y.norm()) > 1e-3 * size(pair[1]):  # no cancellation
        assert cosine == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-5)


@given(change_pairs(), FACTORS)
def test_inner_product_is_bilinear(pair: tuple[Change, Change], factor: float) -> None:
    a, b = pair
    scale = abs(factor) * size(a) * size(b) + size(b) ** 2
    _close(inner(factor * a + b, b), factor * inner(a, b) + inner(b, b), scale, 1e-9)


@given(st.data())
def test_windows_and_rows_are_those_of_the_dense_form(data: st.DataObject) -> None:
    change = data.draw(changes(data.draw(SHAPES)))
    matrix = reference(change).reshape(change.matrix().shape)
    axis = data.draw(st.sampled_from([0, 1]))
    start = data.draw(st.integers(0, matrix.shape[axis] - 1))
    stop = data.draw(st.integers(start + 1, matrix.shape[axis]))
    cut = change.window(axis, start, stop)
    expected = matrix.narrow(axis, start, stop - start)
    found = torch.zeros_like(expected) if cut is None else cut.matrix().double()
    assert float((found - expected).norm()) <= ROUNDING * size(change)
    index = torch.tensor(data.draw(st.lists(st.integers(0, matrix.shape[0] - 1), max_size=4)), dtype=torch.int64)
    assert float((change.rows(index) - matrix[index]).norm()) <= ROUNDING * size(change)


@given(change_pairs())
def test_unbound_spectral_changes_still_have_norm_rank_and_digest(pair: tuple[Change, Change]) -> None:
    for change in pair:
        loose = unbound(change)
        assert loose.rank == change.rank and loose.meta() == change.meta() and loose.digests == change.digests
        assert Delta({"w": loose}) == Delta({"w": change})
        assert repr(loose)


@pytest.fixture
def _no_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Change) -> torch.Tensor:
        raise AssertionError("a low-rank change was made dense")

    monkeypatch.setattr(Change, "dense", refuse)
    monkeypatch.setattr(Change, "matrix", refuse)


@pytest.mark.usefixtures("_no_dense")
def test_low_rank_products_are_never_made_dense() -> None:
    """At this size a dense form would take 8 GB, so the test could not pass by accident either."""
    m, n = 100_000, 10_000
    a = LowRank(_normal(m, 3), _normal(3, n), _normal(3))
    b = LowRank(_normal(m, 2), _normal(2, n))
    few = Rows(torch.tensor([5, 99]), _normal(2, n), (m, n))
    x = Delta({"w": 0.5 * a - 2 * b + few})
    y = Delta({"w": b + few})
    assert x.inner(y) == pytest.approx(y.inner(x))
    assert x.norm() ** 2 == pytest.approx(x.inner(x))
    assert abs(x.cosine(y)) <= 1


@settings(max_examples=25)
@given(st.data())
def test_weighted_sum_of_loras_has_no_cross_terms(data: st.DataObject) -> None:
    """Adding factors element by element would give (sum w B)(sum w A); the sum of the products is what is meant."""
    shape = (6, 5)
    count = data.draw(st.integers(2, 4))
    loras = [data.draw(low_rank(shape)) for _ in range(count)]
    weights = [data.draw(FACTORS) for _ in loras]
    combined = total([w * Delta({"w": c}) for w, c in zip(weights, loras, strict=True)])["w"]
    expected = sum((w * reference(c) for w, c in zip(weights, loras, strict=True)), torch.zeros(shape))
    scale = sum(abs(w) * size(c) for w, c in zip(weights, loras, strict=True))
    assert float((combined.dense().double() - expected).norm()) <= ROUNDING * scale
    assert combined.rank == sum(c.rank or 0 for c in loras)


def test_weighted_sum_of_loras_differs_from_the_sum_of_factors() -> None:
    """The case that is wrong in common use: a 'linear' combination that mixes the factors of different adapters."""
    B1, A1, B2, A2 = (_normal(*shape, index=i) for i, shape in enumerate([(6, 2), (2, 5), (6, 2), (2, 5)]))
    mixed = (0.7 * B1 + 0.3 * B2) @ (A1 + A2)
    ours = (0.7 * LowRank(B1, A1) + 0.3 * LowRank(B2, A2)).dense()
    assert torch.allclose(ours, 0.7 * B1 @ A1 + 0.3 * B2 @ A2, atol=1e-6)
    assert not torch.allclose(ours, mixed, atol=0.1)


def test_dense_values_are_not_copied() -> None:
    values = _normal(3, 4)
    assert Dense(values).dense().data_ptr() == values.data_ptr()
