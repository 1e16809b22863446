"""Areas and regions: boxes across meridians, weights of rows and of cells, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.sphere.grid import Grid
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble import Bias, Box, Verification
from dtheta.score.ensemble.regions import cells_of
from tests.unit.score.ensemble.plain import drawn

GRID = Grid(8, 12)  # 30 degrees of longitude


def test_a_box_holds_its_bounds_and_may_cross_a_meridian() -> None:
    columns = {
        (0, 360): set(range(12)),
        (-180, 180): set(range(12)),
        (30, 90): {1, 2, 3},
        (330, 30): {11, 0, 1},
        (-30, 30): {11, 0, 1},
        (60, 60): {2},
        (30, 270): set(range(1, 10)),
    }
    for (west, east), inside in columns.items():
        mask = Box(west=west, east=east).mask(GRID)
        assert set(mask[0].nonzero().flatten().tolist()) == inside, (west, east)
    north = Box(0, 90).mask(GRID)
    assert north[:4].all() and not north[4:].any()


def test_areas_come_from_the_grid_and_sum_to_its_cells() -> None:
    cells = cells_of(GRID, None, None, {"north": Box(0, 90)})
    torch.testing.assert_close(cells.weights[0], GRID.area_HW())
    assert float(cells.weights[1].sum()) == pytest.approx(48)
    assert cells.regions == ("global", "north")


def test_means_are_weighted_by_rows_cells_or_regions() -> None:
    x, y = drawn(1, 4, 3), torch.zeros(4, 3)
    rows, inside = torch.tensor([1.0, 2, 3, 4]), torch.rand(4, 3)
    verification = Verification([Bias()], cells=(4, 3), weights=rows, regions={"part": inside})
    verification.update(0, 6, x, y)
    result = verification.result()
    area = rows[:, None].expand(4, 3).double()
    for region, w in (("global", area), ("part", area * inside)):
        expected = float((w * x[0]).sum() / w.sum())
        assert float(result.score("bias", 6, region=region).value) == pytest.approx(expected)


def test_cells_are_named_by_where_they_are() -> None:
    cells = cells_of(GRID, None, None, None)
    assert cells.place((7, 2)).startswith("cell (7, 2) at") and cells.place((7, 2)).endswith("S, 60 E")
    assert cells_of(None, (40,), None, None).place((3,)) == "cell 3"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cells_of(None, None, None, None), ConfigError, "give grid="),
        (lambda: cells_of(GRID, (8, 13), None, None), ShapeMismatch, "not those of the grid"),
        (lambda: cells_of(GRID, None, torch.ones(3), None), ShapeMismatch, r"weights: expected .* \(8, 12\)"),
        (lambda: cells_of(GRID, None, -torch.ones(8), None), ConfigError, ">= 0"),
        (lambda: cells_of(GRID, None, torch.full((8,), math.nan), None), NonFinite, "weights"),
        (lambda: cells_of(GRID, None, None, {"global": Box()}), ConfigError, "choose another name"),
        (lambda: cells_of(GRID, None, None, {"x": Box(89.5, 90)}), ConfigError, "region 'x' has no cell"),
        (lambda: cells_of(None, (8, 12), None, {"x": Box()}), ConfigError, "needs grid"),
        (lambda: cells_of(GRID, None, None, {"x": torch.ones(8, 13)}), ShapeMismatch, "region 'x'"),
        (lambda: Box(20, 10), ConfigError, "south <= north"),
    ],
)
def test_refusals(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()
