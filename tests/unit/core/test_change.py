"""Changes one by one: shapes, dtypes, refusals, and how sums and multiples keep their form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New, matrix_shape, slabs
from dtheta.core.combination import Scaled, Sum, add, scale
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import ShapeMismatch, UnsupportedLayer


def normal(*shape: int, index: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(0, "change", index))


@pytest.mark.parametrize(
    ("shape", "matrix"), [((), (1, 1)), ((5,), (5, 1)), ((4, 6), (4, 6)), ((3, 2, 5, 5), (3, 50)), ((0, 3), (0, 3))]
)
def test_matrix_in_which_a_parameter_is_seen(shape: tuple[int, ...], matrix: tuple[int, int]) -> None:
    assert matrix_shape(shape) == matrix


def test_slabs_cover_all_rows_once() -> None:
    for rows, columns in [(0, 5), (7, 0), (10_000, 1), (5, 10**6), (3000, 1000)]:
        parts = list(slabs(rows, columns))
        assert [i for a, b in parts for i in range(a, b)] == list(range(rows))
        assert all((b - a) * columns <= 1 << 18 or b - a == 1 for a, b in parts)


def test_narrow_dtypes_are_widened_and_complex_is_refused() -> None:
    assert Dense(normal(2, 2).bfloat16()).dtype == torch.float32
    assert Dense(torch.tensor([1, 2])).values.dtype == torch.float64
    assert Dense(normal(2).double()).dense().dtype == torch.float64
    with pytest.raises(UnsupportedLayer, match="complex"):
        Dense(torch.zeros(2, dtype=torch.complex64))


def test_low_rank_keeps_its_parts_and_checks_them() -> None:
    left, right, core = normal(6, 2), normal(2, 18), normal(2)
    change = LowRank(left, right, core, (6, 2, 3, 3))
    assert change.shape == (6, 2, 3, 3) and change.rank == 2
    assert change.tensors()["left"] is left and change.tensors()["core"] is core
    assert torch.allclose(change.dense(), ((left * core) @ right).reshape(6, 2, 3, 3), atol=1e-6)
    assert change.nbytes == 4 * (12 + 36 + 2)
    for bad in [
        lambda: LowRank(left, right.T),
        lambda: LowRank(left, right, normal(3)),
        lambda: LowRank(left, right, None, (6, 3)),
        lambda: LowRank(normal(6), right),
        lambda: LowRank(torch.tensor(1.0), right),
    ]:
        with pytest.raises(ShapeMismatch, match="expected"):
            bad()


def test_low_rank_of_rank_zero_is_zero() -> None:
    change = LowRank(torch.zeros(3, 0), torch.zeros(0, 4))
    assert change.rank == 0 and change.norm() == 0 and torch.equal(change.dense(), torch.zeros(3, 4))
    assert (change + Dense(torch.ones(3, 4))).norm() == pytest.approx(math.sqrt(12))


def test_trained_less_initial_factors_keep_their_digits() -> None:
    """W x + c (B A - B0 A0) x: the two products are 1000 times larger than what is left of them."""
    B0, A0 = 30 * normal(64, 8), normal(8, 48, index=1)
    B, A = B0 + 1e-3 * normal(64, 8, index=2), A0 + 1e-4 * normal(8, 48, index=3)
    exact = B.double() @ A.double() - B0.double() @ A0.double()
    change = LowRank(torch.cat([B, B0], 1), torch.cat([A, A0]), torch.tensor([1.0] * 8 + [-1.0] * 8))
    assert float((change.dense() - exact).norm() / exact.norm()) < 1e-7
    assert change.norm() == pytest.approx(float(exact.norm()), rel=1e-9)


def test_a_core_is_multiplied_exactly() -> None:
    """S R less S0 R0 with singular values that differ in the fifth digit: rounding U * S to float32 would show."""
    U, V = normal(64, 4), normal(4, 48, index=1)
    S0 = torch.tensor([37.1, 11.7, 5.3, 0.9])
    S = S0 * (1 + 1e-5)
    exact = (U.double() * (S.double() - S0.double())) @ V.double()
    change = LowRank(torch.cat([U, U], 1), torch.cat([V, V]), torch.cat([S, -S0]))
    assert float((change.dense() - exact).norm() / exact.norm()) < 1e-7
    assert change.norm() == pytest.approx(float(exact.norm()), rel=1e-9)
    assert torch.allclose(change.rows(torch.tensor([3, 60])), exact[[3, 60]], rtol=1e-9, atol=1e-12)


def test_norm_of_rows_inside_blocks_plus_factors() -> None:
    """The rows of a block are counted from its start; what they do not touch is left to the factors."""
    few = Rows(torch.tensor([0, 2]), normal(2, 5), (4, 5))
    low = LowRank(normal(10, 2), normal(2, 5))
    for change in (Block(few, 0, 6, (10, 5)) + low, 2 * Block(few, 0, 3, (10, 5)) - low):
        assert change.norm() == pytest.approx(float(change.dense().double().norm()), rel=1e-6)
    across = Block(Rows(torch.tensor([1, 9]), normal(2, 2), (10, 2)), 1, 3, (10, 5)) + low
    assert across.norm() == pytest.approx(float(across.dense().double().norm()), rel=1e-6)


def test_dense_form_does_not_depend_on_precision_flags() -> None:
    change = LowRank(normal(64, 8), normal(8, 64))
    before = torch.get_float32_matmul_precision()
    exact = change.dense()
    try:
        torch.set_float32_matmul_precision("medium")
        assert torch.equal(change.dense(), exact)
    finally:
        torch.set_float32_matmul_precision(before)


def test_dense_form_in_slabs_is_that_of_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    change = 0.5 * LowRank(normal(40, 3), normal(3, 7)) + Rows(torch.tensor([0, 9, 39]), normal(3, 7), (40, 7))
    change = (
        change + Block(Dense(normal(5, 7)), 0, 10, (40, 7)) - Block(LowRank(normal(40, 1), normal(1, 2)), 1, 3, (40, 7))
    )
    whole = change.dense()
    monkeypatch.setattr("dtheta.core.change._SLAB", 20)
    assert torch.equal(change.dense(), whole)


def test_rows_must_be_increasing_and_inside() -> None:
    values = normal(2, 3)
    change = Rows(torch.tensor([1, 4]), values, (6, 3))
    assert torch.equal(change.dense()[[1, 4]], values) and int((change.dense() != 0).any(1).sum()) == 2
    assert change.window(0, 2, 4) is None
    for index in ([4, 1], [1, 1], [-1, 2], [1, 6]):
        with pytest.raises(ShapeMismatch, match="increasing"):
            Rows(torch.tensor(index), values, (6, 3))
    with pytest.raises(ShapeMismatch, match="expected"):
        Rows(torch.tensor([1]), values, (6, 3))
    assert Rows(torch.empty(0, dtype=torch.int64), torch.empty(0, 3), (6, 3)).norm() == 0


def test_block_must_fit() -> None:
    inner = Dense(normal(2, 4))
    assert torch.equal(Block(inner, 0, 3, (6, 4)).dense()[3:5], inner.values)
    for axis, start, shape in [(0, 5, (6, 4)), (0, -1, (6, 4)), (1, 0, (6, 4)), (0, 0, (6, 5)), (2, 0, (6, 4))]:
        with pytest.raises(ShapeMismatch):
            Block(inner, axis, start, shape)  # type: ignore[arg-type]


def test_block_of_a_convolution_keeps_the_inner_shape() -> None:
    inner = LowRank(normal(2, 1), normal(1, 18), full_shape=(2, 2, 3, 3))
    block = Block(inner, 0, 1, (4, 2, 3, 3))
    assert torch.allclose(block.dense()[1:3], inner.dense())
    assert block.rank == 1 and block.norm() == pytest.approx(inner.norm())


def test_multiples_and_sums_do_not_nest() -> None:
    a, b = LowRank(normal(4, 1), normal(1, 3)), Dense(normal(4, 3))
    assert isinstance(2 * (3 * a), Scaled) and (2 * (3 * a)).factor == 6 and (2 * (3 * a)).term is a
    assert 0.5 * (2 * a) is a and -1 * (-a) is a
    total = 2 * (a + b) + (a + a)
    assert isinstance(total, Sum) and len(total.terms) == 4
    for _ in range(100):
        total = 0.5 * (total + a)
    assert isinstance(total, Sum) and all(not isinstance(leaf, (Sum, Scaled)) for leaf in total.leaves())
    assert all(isinstance(t, (LowRank, Dense)) or isinstance(t.term, (LowRank, Dense)) for t in total.terms)  # type: ignore[attr-defined]


def test_sums_of_other_shapes_or_nothing_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="one shape"):
        Dense(normal(2, 3)) + Dense(normal(3, 2))
    with pytest.raises(ShapeMismatch):
        add([])
    with pytest.raises(ShapeMismatch):
        Sum(())


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_factors_must_be_finite(factor: float) -> None:
    with pytest.raises(UnsupportedLayer, match="finite"):
        factor * Dense(normal(2))
    with pytest.raises(UnsupportedLayer, match="finite"):
        Scaled(factor, Dense(normal(2)))
    with pytest.raises(UnsupportedLayer, match="finite"):
        scale(1e300 * Dense(normal(2)), 1e300)


def test_factors_beyond_float32_do_not_overflow_on_the_way() -> None:
    tiny = Dense(torch.full((2, 2), 1e-30))
    assert float((1e40 * tiny).dense()[0, 0]) == pytest.approx(1e10)
    assert float((1e40 * LowRank(torch.full((2, 1), 1e-20), torch.full((1, 2), 1e-10))).dense()[0, 0]) == pytest.approx(
        1e10
    )


def test_numpy_and_tensor_scalars_are_scalars() -> None:
    change = Dense(normal(2, 2))
    for half in (np.float32(0.5), np.float64(0.5), torch.tensor(0.5)):
        assert isinstance(half * change, Scaled) and isinstance(change * half, Scaled)
    with pytest.raises(TypeError):
        change + 1  # type: ignore[operator]
    with pytest.raises(TypeError):
        change * change  # type: ignore[operator]


def test_new_vectors_are_a_space_of_their_own() -> None:
    a, b = New(normal(2, 3)), New(normal(2, 3, index=1))
    assert isinstance(0.5 * a + b, New)
    assert torch.allclose((0.5 * a + b).dense(), 0.5 * a.values + b.values)
    for mixed in (
        lambda: a + Dense(normal(2, 3)),
        lambda: Block(a, 0, 0, (4, 3)),
        lambda: Scaled(2.0, a),
        lambda: Sum((a, a)),
    ):
        with pytest.raises(UnsupportedLayer, match="new vector"):
            mixed()


def test_non_finite_numbers_are_found_anywhere() -> None:
    good = LowRank(normal(3, 1), normal(1, 3))
    bad = Dense(torch.full((3, 3), math.nan))
    assert good.is_finite() and not (good + 2 * Block(bad, 0, 0, (3, 3))).is_finite()


def test_digests_are_taken_once_and_shared_by_multiples_and_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    from dtheta.core import change as module

    taken = []

    def counted(tensor: Tensor) -> str:
        taken.append(tensor)
        return original(tensor)

    original = module.tensor_digest
    monkeypatch.setattr(module, "tensor_digest", counted)
    a, b = Dense(normal(4, 3)), LowRank(normal(4, 1), normal(1, 3))
    for change in (a, b, 2 * a, a + b, 3 * (a + 2 * b), Block(a, 0, 0, (5, 3))):
        assert set(change.digests) == set(change.tensors())
    assert len(taken) == 3


def test_map_reaches_every_tensor() -> None:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.clone()

    a = 2 * (LowRank(normal(4, 1), normal(1, 3), normal(1)) + Rows(torch.tensor([1]), normal(1, 3), (4, 3)))
    a = (
        a
        + Block(Dense(normal(4, 1)), 1, 1, (4, 3))
        + Spectral(normal(1), (4, 3), normal(4, 1), normal(1, 3), normal(4))
    )
    b = a.map(moved)
    assert b.meta() == a.meta() and b.digests == a.digests
    places = {t.data_ptr() for t in a.stored().values()}
    assert all(t.data_ptr() not in places for t in b.stored().values())


@pytest.mark.parametrize("change", [Dense(torch.zeros(2, 3)), LowRank(torch.zeros(2, 1), torch.zeros(1, 3))])
def test_changes_say_what_they_are(change: Change) -> None:
    assert repr(change).startswith(type(change).__name__ + "(2, 3)")
    assert ("rank 1" in repr(change)) == isinstance(change, LowRank)
