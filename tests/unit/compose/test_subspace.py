"""One block: the map from coefficients to tensors and its transpose, for every kind of change and dtype."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dtheta.compose.partition import part_ids
from dtheta.compose.subspace import Subspace
from dtheta.compose.terms import _expanded
from dtheta.core.apply import displaced
from dtheta.core.change import Change
from dtheta.core.lowrank import LowRank
from dtheta.core.spectral import Spectral
from dtheta.core.ternary import Ternary
from tests.unit.compose.examples import KINDS, normal, signed, signed_rows

SHAPES = [(9, 14), (70, 130), (5,), (4, 2, 3, 3)]


def subspace(kind: str, weight: Tensor, parts: int = 1) -> Subspace:
    return Subspace("w", {i: KINDS[kind](weight, i) for i in (0, 2, 3)}, 4, parts, 6)


def coefficients(space: Subspace) -> Tensor:
    return normal(space.count, space.parts, name="c").double()


def reference(space: Subspace, base: Tensor, values_nK: Tensor) -> Tensor:
    ids = part_ids(space.seed, space.name, space.parts, 0, math.prod(base.shape)).reshape(base.shape)
    return base.double() + sum(values_nK[i][ids] * c.dense().double() for i, c in space.changes.items())


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_down_and_up_are_the_sum_and_its_transpose(shape: tuple[int, ...], kind: str, parts: int) -> None:
    base, gradient = normal(*shape), normal(*shape, name="gradient")
    space = subspace(kind, base, parts)
    values = coefficients(space)
    before, out = base.clone(), torch.empty_like(base)
    space.down(base, values, out)
    expected = reference(space, base, values)
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=2e-6) and torch.equal(base, before)
    found = space.up(gradient)
    c = values.clone().requires_grad_()
    (wanted,) = torch.autograd.grad((reference(space, base, c) * gradient.double()).sum(), c)
    size = float(gradient.norm()) * max(change.norm() for change in space.changes.values())
    assert found.dtype == torch.float64 and torch.allclose(found, wanted, rtol=1e-5, atol=1e-6 * size)
    assert not found[1].any()  # delta 1 does not change this block


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_gives_the_bits_of_applied(kind: str, parts: int) -> None:
    base = normal(9, 14)
    space = subspace(kind, base, parts)
    values, out = coefficients(space), torch.empty_like(base)
    space.exactly(base, values, out)
    assert torch.allclose(out.double(), reference(space, base, values), rtol=1e-6, atol=1e-7)
    if parts == 1:
        assert torch.equal(out, displaced(base, [float(values[i, 0]) * c for i, c in space.changes.items()], "w"))


def test_zero_coefficients_show_the_base_to_the_bit() -> None:
    base = normal(9, 14)
    for kind in KINDS:
        space, out = subspace(kind, base), torch.empty_like(base)
        for write in (space.down, space.exactly):
            write(base, torch.zeros(4, 1, dtype=torch.float64), out)
            assert torch.equal(out, base)


@pytest.mark.parametrize("kind", ["dense", "low-rank", "ternary", "rows"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_round_once(kind: str, dtype: torch.dtype) -> None:
    base = normal(9, 14).to(dtype)
    space = subspace(kind, base.float())
    values, out = coefficients(space), torch.empty_like(base)
    space.down(base, values, out)
    expected = reference(space, base, values)
    error = (out.double() - expected).abs().max()
    rounding = max(torch.finfo(dtype).eps, 1e-7)  # what the reference loses by dense float32 products
    assert out.dtype == dtype and float(error) <= float(expected.abs().max()) * rounding
    gradient = normal(9, 14, name="gradient").to(dtype)
    wanted = torch.tensor([float((gradient.double() * c.dense().double()).sum()) for c in space.changes.values()])
    assert torch.allclose(space.up(gradient)[[0, 2, 3], 0], wanted.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["low-rank", "ternary", "ternary by row", "spectral"])
def test_large_changes_are_never_made_dense(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = normal(100, 130)
    space = subspace(kind, base)
    values, out = coefficients(space), torch.empty_like(base)

    def refuse(self: Change) -> Tensor:
        raise AssertionError(f"{self} was made dense")

    for method in ("dense", "matrix"):
        for cls in (LowRank, Ternary, Spectral):
            monkeypatch.setattr(cls, method, refuse)
    space.down(base, values, out)
    space.up(base)


def test_layouts_do_not_matter() -> None:
    base, gradient = normal(4, 2, 3, 3), normal(4, 2, 3, 3, name="gradient")
    last = base.to(memory_format=torch.channels_last)
    space = subspace("ternary", base)
    values, out = coefficients(space), torch.empty(base.shape)
    other = torch.empty(base.shape)
    space.down(base, values, out)
    space.down(last, values, other)
    assert torch.equal(out, other)
    assert torch.equal(space.up(gradient), space.up(gradient.to(memory_format=torch.channels_last)))
    assert torch.allclose(space.up(torch.ones(()).expand(4, 2, 3, 3)), space.up(torch.ones(4, 2, 3, 3)))


def test_a_sparse_gradient_counts_as_its_dense_one() -> None:
    gradient = torch.zeros(9, 14)
    gradient[3] = normal(14)
    space = subspace("mixed", normal(9, 14))
    assert torch.allclose(space.up(gradient.to_sparse(1)), space.up(gradient))


def test_signs_are_unpacked_on_a_device_as_on_the_host() -> None:
    for make in (signed, signed_rows):
        change = make(normal(7, 13), 0)
        assert isinstance(change, Ternary) and torch.equal(_expanded(change), change.dense())
