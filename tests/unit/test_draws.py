"""Draws keyed by a seed, all over the package: the same numbers whatever dtype and device torch has by default."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.term import FactoredTerm
from dtheta.compose.pool import Pool
from dtheta.compose.trimming import Chance
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.ensemble.members import Member
from dtheta.ensemble.perturbation import Rows, draw_normal
from dtheta.federate.attack import Noise
from dtheta.kernels.infinite.weights import Draw, drawn
from dtheta.kernels.sketches import Sketch
from dtheta.scout.derivatives import units_of
from dtheta.scout.head import directions

STEP = torch.ones(500)
TERM = FactoredTerm(torch.ones(4, 2), torch.ones(2, 5))
ROWS = Rows((Member(0, 0), Member(1, 2)), 0, "x")
DELTA = Delta({"w": Dense(torch.ones(4, 5))})


def _weights() -> Tensor:
    with torch.device("meta"):
        module = nn.Linear(4, 3, dtype=torch.float32)
    return nn.utils.parameters_to_vector(drawn(module, Draw(0, "x")).parameters())


@pytest.mark.parametrize(
    "draw",
    [
        lambda: Chance(0.5, 0, "x").visit()(STEP),
        lambda: directions(9, 4, 0),
        lambda: torch.tensor(units_of(TERM), dtype=torch.float64),
        _weights,
        lambda: draw_normal(ROWS, "x", STEP),
        lambda: Noise().twisted(DELTA, 0, "x")["w"].dense(),
    ],
    ids=["trimming", "directions", "units", "infinite", "ensemble", "attack"],
)
def test_of_another_default_dtype(draw: Callable[[], Tensor]) -> None:
    expected = draw()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = draw()
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: Chance(0.5, 0, "x").visit()(STEP),
        lambda: Pool(STEP).order(0, 1),
        lambda: directions(9, 4, 0),
        lambda: Sketch(8)._draw("x", 30)[0],
        _weights,
    ],
    ids=["trimming", "pool", "directions", "sketch", "infinite"],
)
def test_on_another_default_device(draw: Callable[[], Tensor]) -> None:
    expected = draw()
    with torch.device("meta"):
        found = draw()
    assert found.device.type == "cpu" and torch.equal(found, expected)
