"""Grids: exact quadrature, order of rows, area means, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial.legendre import leggauss

from dtheta.core.sphere import Grid
from dtheta.errors import ConfigError, ShapeMismatch


@pytest.mark.parametrize("nlat", [2, 3, 24, 32, 64, 97])
def test_gauss_rows_and_weights_are_those_of_numpy(nlat: int) -> None:
    nodes, weights = leggauss(nlat)
    grid = Grid(nlat, 8)
    np.testing.assert_allclose(np.sin(np.deg2rad(grid.latitudes)), nodes[::-1], atol=4e-16)
    np.testing.assert_allclose(grid.weights, weights[::-1], atol=1e-15)


@pytest.mark.parametrize(("kind", "exact"), [("gauss", lambda n: 2 * n - 1), ("equiangular", lambda n: n - 1)])
@pytest.mark.parametrize("nlat", [4, 9, 24, 73])
def test_quadrature_is_exact_to_its_degree(kind: str, exact, nlat: int) -> None:
    grid = Grid(nlat, 8, kind)
    mu = np.cos(grid.colatitudes)
    for power in range(exact(nlat) + 1):
        integral = 0.0 if power % 2 else 2 / (power + 1)
        assert grid.weights @ mu**power == pytest.approx(integral, abs=2e-15)


def test_gauss_weights_stay_exact_on_large_grids() -> None:
    grid = Grid(720, 1440)
    mu = np.cos(grid.colatitudes)
    assert grid.weights @ mu**2 == pytest.approx(2 / 3, abs=1e-14)
    assert grid.weights @ np.exp(mu) == pytest.approx(np.e - 1 / np.e, abs=1e-14)


@pytest.mark.parametrize("kind", ["gauss", "equiangular"])
def test_rows_run_from_north_to_south_and_are_symmetric(kind: str) -> None:
    grid = Grid(24, 48, kind)
    assert np.all(np.diff(grid.latitudes) < 0)
    np.testing.assert_allclose(grid.latitudes, -grid.latitudes[::-1], atol=1e-13)
    np.testing.assert_array_equal(grid.weights, grid.weights[::-1])
    assert (abs(grid.latitudes[0]) == 90) == (kind == "equiangular")
    assert grid.longitudes[0] == 0 and grid.longitudes[1] == 7.5


@pytest.mark.parametrize("kind", ["gauss", "equiangular"])
def test_area_weights_have_mean_one_and_give_the_mean_over_the_sphere(kind: str) -> None:
    grid = Grid(25, 48, kind)
    area = grid.area_HW()
    assert area.shape == (25, 48) and area.mean().item() == pytest.approx(1)
    mu = torch.from_numpy(np.cos(grid.colatitudes))[:, None].expand(25, 48)
    field = torch.stack((mu**2, torch.ones_like(mu)))
    torch.testing.assert_close(grid.mean(field), torch.tensor([1 / 3, 1.0], dtype=torch.float64))
    torch.testing.assert_close((area * field).mean((-2, -1)), grid.mean(field))


def test_a_grid_is_a_value() -> None:
    assert Grid(24, 48) == Grid(24, 48) and hash(Grid(24, 48)) == hash(Grid(24, 48)) and Grid(24, 48) != Grid(24, 49)
    assert Grid(**Grid(9, 4, "equiangular").to_dict()) == Grid(9, 4, "equiangular")
    with pytest.raises(ValueError, match="read-only"):
        Grid(24, 48).weights[0] = 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 8), "nlat is 1; expected a whole number, 2 or more"),
        ((8, 0), "nlon is 0"),
        ((8.5, 8), "nlat is 8.5"),
        ((8, 8, "healpix"), "gauss, equiangular, got 'healpix'"),
    ],
)
def test_refused_grids(arguments: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Grid(*arguments)


def test_a_field_of_another_grid_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"\(3, 48, 24\); expected \(\.\.\., 24, 48\)"):
        Grid(24, 48).mean(torch.zeros(3, 48, 24))
