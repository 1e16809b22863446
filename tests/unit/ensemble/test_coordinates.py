"""Areas of rows on the globe and in regions, and labels of cells that must be the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dtheta.core.sphere import Grid
from dtheta.ensemble.coordinates import Coordinates, areas_of_rows, checked_coordinates, require_same_labels
from dtheta.errors import ConfigError, ShapeMismatch


@pytest.mark.parametrize("kind", ["gauss", "equiangular"])
def test_rows_of_the_globe_reach_the_poles(kind: Any) -> None:
    grid = Grid(24, 48, kind)
    weights = Coordinates(np.array(grid.latitudes), np.array(grid.longitudes)).weights
    assert weights.sum() == pytest.approx(2)
    np.testing.assert_allclose(weights / 2, np.array(grid.weights) / np.sum(grid.weights), atol=5e-4)


@pytest.mark.parametrize("rows", [np.arange(60, 34, -1.0), np.arange(35.0, 61), np.arange(-89.0, 90)])
def test_rows_of_a_region_end_half_a_row_beyond_the_last(rows: np.ndarray) -> None:
    south, north = np.deg2rad(rows - 0.5), np.deg2rad(rows + 0.5)
    np.testing.assert_allclose(areas_of_rows(rows), np.sin(north) - np.sin(south))


def test_a_single_row_has_all_the_area() -> None:
    assert areas_of_rows(np.array([50.0])).tolist() == [2.0]


@pytest.mark.parametrize(
    ("latitudes", "longitudes", "said"),
    [
        ([0.0, 90.0, 180.0], [0.0], "from 0 to 180; expected degrees from -90 to 90"),
        ([10.0, 30.0, 20.0], [0.0], "neither rise nor fall"),
        ([10.0, np.nan], [0.0], "expected degrees from -90"),
        ([10.0, 20.0], [0.0, 180.0, 360.0], "a meridian is there twice"),
        ([10.0, 20.0], [0.0, np.nan], "or has no number"),
    ],
)
def test_degrees_that_no_grid_has_are_refused(latitudes: list, longitudes: list, said: str) -> None:
    with pytest.raises(ConfigError, match=f"the truth: .*{said}"):
        checked_coordinates(latitudes, longitudes, "the truth")


@pytest.mark.parametrize(
    ("ours", "other", "said"),
    [
        ([500, 850], [850, 500], "the order is reversed: flip one by .isel(level=slice(None, None, -1))"),
        (["a", "b", "c"], ["b", "a", "c"], "the order is another one: sort both by level"),
        ([500, 850], [500, 700], "select those of level that both have"),
        ([0.995, 0.98], [0.995, 0.97], "select those of level"),
        ([500, 850], ["500", "850"], "sort both by level"),
    ],
)
def test_labels_that_differ_are_refused(ours: list, other: list, said: str) -> None:
    with pytest.raises(ShapeMismatch) as caught:
        require_same_labels("level", np.array(ours), np.array(other), "the truth")
    assert said in str(caught.value)
    require_same_labels("level", np.array(ours), np.array(ours), "the truth")
