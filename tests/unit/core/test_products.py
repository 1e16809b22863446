"""Inner products that the laws do not single out: other shapes, new vectors, blocks of unbound spectral changes."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.block import Block
from dtheta.core.change import Dense, New
from dtheta.core.lowrank import LowRank
from dtheta.core.products import inner
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.spectral import Spectral
from dtheta.errors import ConfigError, ShapeMismatch, UnsupportedLayer


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "products", index))


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeMismatch, match="shapes"):
        inner(Dense(normal(2, 3)), Dense(normal(3, 2)))


def test_a_new_vector_has_no_product_with_a_displacement() -> None:
    new = New(normal(2, 3))
    assert inner(new, new) == pytest.approx(new.norm() ** 2)
    with pytest.raises(UnsupportedLayer, match="new vector"):
        inner(new, Dense(normal(2, 3)))


def test_blocks_that_do_not_meet_are_orthogonal() -> None:
    a, b = Block(Dense(normal(2, 4)), 0, 0, (6, 4)), Block(Dense(normal(2, 4)), 0, 2, (6, 4))
    assert inner(a, b) == 0.0
    across = Block(LowRank(normal(6, 1), normal(1, 2)), 1, 1, (6, 4))
    assert inner(a, across) == pytest.approx(float((a.dense() * across.dense()).sum()), rel=1e-6)


def test_convolutions_are_seen_as_matrices() -> None:
    shape = (4, 2, 3, 3)
    a = Block(LowRank(normal(2, 2), normal(2, 18), full_shape=(2, 2, 3, 3)), 0, 1, shape)
    b = Dense(normal(*shape))
    few = Rows(torch.tensor([0, 2]), normal(2, 18), shape)
    for x, y in [(a, b), (a, few), (few, b)]:
        assert inner(x, y) == pytest.approx(float((x.dense() * y.dense()).sum()), rel=1e-5)


def test_unbound_spectral_changes_have_products_with_each_other_only() -> None:
    a, b = Spectral(normal(3), (5, 4)), Spectral(normal(3, index=1), (5, 4))
    assert inner(a, b) == pytest.approx(float(a.shift @ b.shift))
    x, y = Block(a, 0, 5, (15, 4)), Block(b, 0, 5, (15, 4))
    assert inner(x, y) == pytest.approx(float(a.shift @ b.shift))
    with pytest.raises(ConfigError, match=r"delta\.bind"):
        inner(a, Dense(normal(5, 4)))


def test_large_dense_products_are_summed_in_float64() -> None:
    """Ten million ones times one ten-millionth: float32 accumulation would stop growing."""
    ones = Dense(torch.ones(10_000, 1000))
    assert inner(ones, 1e-7 * ones) == pytest.approx(1.0, rel=1e-12)
    assert ones.norm() == pytest.approx(10_000_000**0.5, rel=1e-12)


def test_no_number_of_threads_shows_in_a_product_of_dense_changes() -> None:
    a, b = Dense(normal(300_000)), Dense(normal(300_000, index=1))
    threads, found = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3, 4):
            torch.set_num_threads(count)
            found.add(inner(a, b))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1
