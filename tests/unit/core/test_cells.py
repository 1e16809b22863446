"""The norm of a sum, cell by cell, against the dense matrix; and that it costs what is stored, not what is claimed."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.core.block import Block
from dtheta.core.cells import sum_norm
from dtheta.core.change import Change, Dense
from dtheta.core.combination import Scaled, Sum
from dtheta.core.lowrank import LowRank
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from tests.laws.strategies import SHAPES, changes, reference, size


def draw(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, f"cells/{shape}", index))


def low(m: int, n: int, r: int, index: int = 0) -> LowRank:
    return LowRank(draw(m, r, index=index), draw(r, n, index=index))


@settings(max_examples=200)
@given(st.data())
def test_it_is_the_norm_of_the_matrix(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    terms = data.draw(st.lists(changes(shape, depth=3), min_size=1, max_size=5))
    change = Sum(tuple(terms))
    assert sum_norm(change) == pytest.approx(float(reference(change).norm()), rel=1e-9, abs=1e-12 * size(change))


def test_more_terms_than_bits_in_a_word() -> None:
    terms: list[Change] = [Block(low(2, 5, 1, index=i), 0, i % 9, (10, 5)) for i in range(70)]
    terms += [Block(Dense(draw(10, 2, index=i)), 1, i % 4, (10, 5)) for i in range(70)]
    terms += [Rows(torch.tensor([i % 10]), draw(1, 5, index=i), (10, 5)) for i in range(70)]
    change = Sum(tuple(terms))
    assert change.norm() == pytest.approx(float(reference(change).norm()), rel=1e-12)


@pytest.mark.parametrize(
    "one",
    [
        low(40, 30, 3),
        Dense(draw(40, 30)),
        Block(low(20, 30, 3), 0, 10, (40, 30)),
        Rows(torch.tensor([3, 9]), draw(2, 30), (40, 30)),
        Sum(
            (Block(Dense(draw(40, 2)), 1, 5, (40, 30)), low(40, 30, 1), Rows(torch.tensor([3]), draw(1, 30), (40, 30)))
        ),
    ],
    ids=repr,
)
def test_parts_that_cancel_leave_rounding_only(one: Change) -> None:
    assert Sum((Scaled(3.0, one), Scaled(-2.0, one), Scaled(-1.0, one))).norm() <= 1e-14 * one.norm()


def hostile(rows: int, columns: int) -> list[Change]:
    shape = (rows, columns)
    nothing = LowRank(torch.zeros(rows, 0), torch.zeros(0, columns))
    none = Rows(torch.zeros(0, dtype=torch.int64), torch.zeros(0, columns), shape)
    corner = Block(Dense(draw(1, columns)), 0, 5, shape)
    factored = Block(low(2, columns, 1), 0, 6, shape)
    far = Rows(torch.tensor([0, rows - 1]), draw(2, columns), shape)
    return [nothing, none, corner, factored, far]


@pytest.mark.parametrize("columns", [1, 7])
def test_a_claim_costs_nothing(columns: int) -> None:
    """A parameter of 2**44 rows: no vector of as many elements can be had."""
    rows = 1 << 44
    kinds = hostile(rows, columns)
    expected = float(sum(reference(c.term).norm() ** 2 for c in kinds if isinstance(c, Block)).sqrt())  # type: ignore[union-attr]
    tracemalloc.start()
    for first in kinds:
        for second in kinds:
            assert Sum((first, second)).norm() == pytest.approx((first.norm() ** 2 + second.norm() ** 2) ** 0.5) or (
                first is second
            )
    assert Sum(tuple(kinds[:4])).norm() == pytest.approx(expected)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_blocks_of_rows_and_of_columns_that_cross() -> None:
    """As one matrix of rows by columns, what these few numbers touch would be 64 GiB."""
    side = 1 << 17
    shape = (side, side + 2)
    tall, wide = low(side, 2, 1), low(2, side, 1)
    corner = Dense(draw(2, 2))

    def placed(term: Change, column: int) -> Change:
        return Block(Block(term, 0, 0, (side, term.shape[1])), 1, column, shape)

    whole = Sum((placed(tall, 0), placed(wide, 2), placed(corner, 0)))
    left = tall.dense().double()
    left[:2] += corner.values
    assert whole.norm() == pytest.approx(float(torch.hypot(left.norm(), wide.dense().double().norm())), rel=1e-6)
