"""Ternary factors: everything equals the product of the dense factors."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.products import inner
from dtheta.core.seeds import generator
from dtheta.core.ternary import Ternary, ternary
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.errors import ShapeMismatch


def factor(m: int, n: int, by_row: bool = False, index: int = 0) -> Ternary:
    draw = generator(0, f"factor/{m}/{n}", index)
    signs = torch.randint(-1, 2, (m, n), generator=draw, dtype=torch.int8)
    scale = torch.rand(m, generator=draw) if by_row else torch.tensor(0.5)
    return ternary(Planes.from_signs(signs), scale, (m, n))


def made(by_row: bool = False) -> TernaryFactors:
    return TernaryFactors(factor(6, 3, by_row), factor(3, 8, by_row), (6, 2, 4))


@pytest.mark.parametrize("by_row", [False, True])
def test_it_is_the_low_rank_change_of_its_dense_factors(by_row: bool) -> None:
    change = made(by_row)
    plain = LowRank(change.left.dense(), change.right.dense(), full_shape=(6, 2, 4))
    assert change.rank == 3 and change.shape == (6, 2, 4)
    torch.testing.assert_close(change.dense(), plain.dense())
    assert change.norm() == pytest.approx(plain.norm())
    other = LowRank(torch.ones(6, 1), torch.ones(1, 8), full_shape=(6, 2, 4))
    assert inner(change, other) == pytest.approx(inner(plain, other))
    assert inner(change, change) == pytest.approx(plain.norm() ** 2)
    torch.testing.assert_close(change.rows(torch.tensor([4, 1])), plain.rows(torch.tensor([4, 1])))
    torch.testing.assert_close((2.0 * change + plain).dense(), 3 * plain.dense())


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize(("axis", "start", "stop"), [(0, 1, 5), (0, 0, 6), (1, 3, 7)])
def test_a_window_is_a_window_of_the_matrix(by_row: bool, axis: int, start: int, stop: int) -> None:
    change = made(by_row)
    window = change.window(axis, start, stop)
    torch.testing.assert_close(window.dense(), change.matrix().narrow(axis, start, stop - start))


def test_its_tensors_are_those_of_the_factors() -> None:
    change = made()
    assert set(change.tensors()) == {f"{f}.{n}" for f in ("left", "right") for n in ("positive", "negative", "scale")}
    assert set(change.digests) == set(change.tensors())
    assert change.meta()["left"]["kind"] == "ternary" and change.nbytes == 2 * 3 + 2 * 3 + 8
    moved = change.map(lambda tensor: tensor.clone())
    assert isinstance(moved, TernaryFactors) and moved.digests == change.digests


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"left \(6, 3\), right \(4, 8\)"):
        TernaryFactors(factor(6, 3), factor(4, 8), (6, 8))
    with pytest.raises(ShapeMismatch):
        TernaryFactors(factor(6, 3), factor(3, 8), (8, 6))
