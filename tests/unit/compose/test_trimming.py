"""Trimming range by range keeps what a stable sort of the whole keeps, and draws that depend on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dtheta.compose.trimming import Chance, Nothing, Trim, Whole, by_magnitude, without_outliers
from dtheta.core.seeds import generator
from tests.unit.compose.checkpoints import crumbs, largest

ENTRIES = st.lists(st.integers(-3, 3), min_size=1, max_size=40)
SHARES = st.floats(0, 1)


def _pieces(values: list[int], size: int) -> list[Tensor]:
    return list(torch.tensor(values, dtype=torch.float32).split(size))


def _trimmed(trim: Trim, pieces: list[Tensor]) -> Tensor:
    visit = trim.visit()
    return torch.cat([visit(piece.clone()) for piece in pieces])


@given(ENTRIES, SHARES, st.integers(1, 41))
def test_the_largest(values: list[int], density: float, size: int) -> None:
    pieces = _pieces(values, size)
    trim = by_magnitude(pieces, len(values), density)
    for _ in range(2):
        assert torch.equal(_trimmed(trim, pieces), largest(density)(torch.cat(pieces)))


@given(ENTRIES, SHARES, st.floats(0, 0.5), st.integers(1, 41))
def test_without_outliers(values: list[int], density: float, gamma: float, size: int) -> None:
    pieces = _pieces(values, size)
    trim = without_outliers(pieces, len(values), density, gamma)
    assert torch.equal(_trimmed(trim, pieces), crumbs(density, gamma)(torch.cat(pieces)))


@pytest.mark.parametrize("find", [by_magnitude, partial(without_outliers, gamma=0.1)])
def test_everything_and_nothing_need_no_visit(find: Callable[..., Trim]) -> None:
    assert isinstance(find(iter(()), 10, 1.0), Whole)
    assert isinstance(find(iter(()), 10, 0.0), Nothing)
    assert isinstance(find(iter(()), 0, 0.5), Whole)


def test_chance_keeps_its_share_and_repeats() -> None:
    pieces = list(torch.randn(4, 50_000, generator=generator(0, "chance")))
    kept = _trimmed(Chance(0.3, 1, "a"), pieces)
    assert abs(float((kept != 0).float().mean()) - 0.3) < 5 * (0.21 / kept.numel()) ** 0.5
    assert torch.equal(kept, _trimmed(Chance(0.3, 1, "a"), pieces))
    first, second = (kept != 0).reshape(4, -1)[:2]
    assert not torch.equal(first, second)  # each range has draws of its own
    for other in (Chance(0.3, 2, "a"), Chance(0.3, 1, "b")):
        both = (_trimmed(other, pieces) != 0) & (kept != 0)
        assert abs(float(both.float().mean()) - 0.09) < 5 * (0.09 / kept.numel()) ** 0.5
