"""Both paths over ternary vectors give the bits of core's loops, and these those of the dense formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.compose import signs
from dtheta.core.plane_products import dots
from dtheta.core.plane_sums import add_scaled
from dtheta.core.planes import Planes
from dtheta.errors import ShapeMismatch
from tests.unit.compose.examples import normal

LENGTHS = [1, 7, 4095, 4096, 4097, 12_288, 70_001]


def vectors(n: int, count: int = 5) -> tuple[Tensor, list[Planes]]:
    drawn = torch.stack([normal(n, index=i, name="signs") for i in range(count)])
    signs_Mn = (drawn.sign() * (drawn.abs() > 0.7)).to(torch.int8)
    return signs_Mn, [Planes.from_signs(s) for s in signs_Mn]


@pytest.mark.parametrize("compiled", ["1", "0"])
@pytest.mark.parametrize("n", LENGTHS)
def test_bits_are_those_of_core(n: int, compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signs_Mn, planes = vectors(n)
    x, c = normal(n), normal(5, name="c").tolist()
    expected, sums = x.clone(), dots(x, planes)
    for factor, t in zip(c, signs_Mn, strict=True):
        expected += torch.tensor(factor) * t
    monkeypatch.setenv("DTHETA_NUMBA", compiled)
    out = torch.full_like(x, float("nan"))
    signs.add(x, planes, c, out)
    assert torch.equal(out, expected) and torch.equal(out, add_scaled(x.clone(), planes, c))
    assert np.array_equal(signs.inner(x, planes), sums)
    assert np.allclose(sums, signs_Mn.double() @ x.double(), rtol=1e-12, atol=1e-9)
    signs.add(x, planes, c, x)
    assert torch.equal(x, expected)


def test_float64_goes_through_core() -> None:
    _signs_Mn, planes = vectors(5000)
    x, c = normal(5000).double(), [0.1] * 5
    out = torch.empty_like(x)
    signs.add(x, planes, c, out)
    assert torch.equal(out, add_scaled(x.clone(), planes, c))
    assert np.array_equal(signs.inner(x, planes), dots(x, planes))


def test_parts_of_planes_that_begin_inside_a_byte() -> None:
    """Such a part is a copy; one that begins at a byte shares memory and has an address of its own."""
    signs_Mn, planes = vectors(9000, 2)
    for start in (8, 13):
        cut = [p.part(start, 9000) for p in planes]
        x = normal(9000 - start)
        assert np.allclose(signs.inner(x, cut), signs_Mn[:, start:].double() @ x.double(), atol=1e-9)


def test_lengths_must_agree() -> None:
    _, planes = vectors(100)
    with pytest.raises(ShapeMismatch):
        signs.inner(normal(99), planes)
    with pytest.raises(ShapeMismatch):
        signs.add(normal(99), planes, [1.0] * 5, torch.empty(99))
