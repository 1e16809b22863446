"""Ternary changes against the plain matrix scale * signs, in every place where a change is used."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense
from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.products import inner
from dtheta.core.rows import Rows
from dtheta.core.seeds import generator
from dtheta.core.ternary import Ternary, device_signs, ternary
from dtheta.errors import ShapeMismatch

SHAPES = [(5, 7), (8, 16), (1, 1), (3, 4, 5), (6,), (), (0, 3), (4, 0)]


def drawn(shape: tuple[int, ...], by_row: bool, density: float = 0.4) -> tuple[Ternary, Tensor]:
    """Return a ternary change and the matrix that it stands for, made without it."""
    g = generator(0, f"ternary/{shape}/{by_row}")
    rows = shape[0] if shape else 1
    columns = math.prod(shape[1:])
    signs = torch.randint(0, 2, (rows, columns), generator=g) * 2 - 1
    signs = signs * (torch.rand(rows, columns, generator=g) < density)
    scale = torch.rand(rows, generator=g) if by_row else torch.rand((), generator=g)
    matrix = signs.float() * (scale[:, None] if by_row else scale)
    return ternary(Planes.from_signs(signs.to(torch.int8)), scale, shape), matrix


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_scale_times_signs(shape: tuple[int, ...], by_row: bool) -> None:
    change, matrix = drawn(shape, by_row)
    assert change.dense().shape == shape and change.dtype == torch.float32
    assert torch.equal(change.matrix(), matrix)
    assert change.norm() == pytest.approx(float(matrix.double().norm()), rel=1e-12)
    assert (
        change.count == int(matrix.count_nonzero())
        and change.nbytes <= 2 * (matrix.numel() // 8 + 1) + 4 * len(matrix) + 4
    )
    total = torch.ones_like(matrix, dtype=torch.float64)
    change.add_to(total, -2.0)
    assert torch.allclose(total, 1 - 2 * matrix.double(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("by_row", [False, True])
def test_windows_rows_and_columns(by_row: bool) -> None:
    change, matrix = drawn((9, 13), by_row)
    for start, stop in ((0, 9), (2, 5), (8, 9)):
        cut = change.window(0, start, stop)
        assert cut is not None and torch.equal(cut.dense(), matrix[start:stop])
    for start, stop in ((0, 13), (3, 11), (12, 13)):
        cut = change.window(1, start, stop)
        assert cut is not None and torch.equal(cut.dense(), matrix[:, start:stop])
    index = torch.tensor([7, 0, 7])
    assert torch.equal(change.rows(index), matrix.double()[index])


def test_it_adds_into_memory_that_is_not_in_one_run() -> None:
    change, matrix = drawn((4, 6), True)
    total = torch.zeros(6, 4, dtype=torch.float64).mT
    change.add_to(total, 3.0)
    assert torch.equal(total, 3 * matrix.double())
    block = Block(change, 1, 2, (4, 10))
    assert torch.equal(block.dense()[:, 2:8], matrix) and float(block.dense().abs().sum()) == float(matrix.abs().sum())


@pytest.mark.parametrize("by_row", [False, True])
def test_inner_products_with_every_kind(by_row: bool) -> None:
    change, matrix = drawn((12, 9), by_row)
    g = generator(1, "others")
    others: list[Change] = [
        drawn((12, 9), not by_row, 0.7)[0],
        drawn((12, 9), False, 0.2)[0],
        Dense(torch.randn(12, 9, generator=g)),
        Dense(torch.randn(12, 9, generator=g, dtype=torch.float64)),
        LowRank(torch.randn(12, 2, generator=g), torch.randn(2, 9, generator=g)),
        Rows(torch.tensor([1, 4]), torch.randn(2, 9, generator=g), (12, 9)),
        Block(Dense(torch.randn(12, 3, generator=g)), 1, 4, (12, 9)),
    ]
    others += [2.0 * others[0] + others[2], change]
    for other in others:
        expected = float((matrix.double() * other.dense().double()).sum())
        assert inner(change, other) == pytest.approx(expected, rel=1e-6, abs=1e-9), other
        assert inner(other, change) == pytest.approx(expected, rel=1e-6, abs=1e-9), other


def test_sums_and_multiples_are_exact() -> None:
    (a, x), (b, y) = drawn((7, 5), False), drawn((7, 5), True, 0.8)
    mixed = 0.5 * a - 3.0 * b + Dense(torch.ones(7, 5))
    assert torch.allclose(mixed.dense(), (0.5 * x.double() - 3 * y.double() + 1).float(), rtol=0, atol=1e-7)
    assert (a - a).norm() == 0.0


def test_planes_are_shared_not_copied() -> None:
    planes = Planes.from_signs(np.ones(64, np.int8))
    change = ternary(planes, torch.tensor(1.0), (8, 8))
    assert change.planes.positive.ctypes.data == planes.positive.ctypes.data
    part = change.window(0, 2, 6)
    assert isinstance(part, Ternary) and part.planes.positive.base is not None


def test_what_does_not_fit_is_refused() -> None:
    planes = Planes.from_signs(torch.zeros(35, dtype=torch.int8))
    for scale, shape in ((torch.ones(5), (7, 5)), (torch.ones(()), (6, 6)), (torch.ones(1, 1), (5, 7))):
        with pytest.raises(ShapeMismatch, match="do not fit a parameter"):
            ternary(planes, scale, shape)


@pytest.mark.parametrize("length", [0, 1, 8, 13, 4096])
def test_planes_are_unpacked_on_a_device_as_on_the_host(length: int) -> None:
    signs = torch.randint(-1, 2, (length,), generator=generator(0, "ternary/device", length), dtype=torch.int8)
    planes = Planes.from_signs(signs)
    found = device_signs(torch.from_numpy(planes.positive), torch.from_numpy(planes.negative), length)
    assert found.dtype == torch.int8 and torch.equal(found, signs)
