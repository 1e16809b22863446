"""Legendre tables against SciPy's spherical harmonics, finite differences and quadrature."""

from __future__ import annotations

import numpy as np
import pytest

from dtheta.core.sphere import Grid
from dtheta.core.sphere.legendre import derivatives, legendre

special = pytest.importorskip("scipy.special")


def scipy_table(degree: int, order: int, colatitudes: np.ndarray) -> np.ndarray:
    n, m = np.arange(degree + 1)[None, :, None], np.arange(order + 1)[:, None, None]
    found = special.sph_harm_y(n, m, colatitudes, 0.0).real * np.sqrt(4 * np.pi)
    return np.where(m <= n, found, 0.0)


@pytest.mark.parametrize(("degree", "order"), [(0, 0), (1, 1), (21, 21), (42, 42), (60, 7)])
def test_tables_are_those_of_scipy(degree: int, order: int) -> None:
    theta = np.concatenate((Grid(37, 4).colatitudes, [0.0, np.pi / 2, np.pi]))
    np.testing.assert_allclose(legendre(degree, order, theta), scipy_table(degree, order, theta), atol=2e-12)


def test_high_degrees_stay_orthonormal() -> None:
    grid = Grid(301, 4)
    table = legendre(300, 300, grid.colatitudes)
    for m in (0, 1, 57, 150, 299):
        gram = (table[m, m:] * grid.weights / 2) @ table[m, m:].T
        np.testing.assert_allclose(gram, np.eye(301 - m), atol=3e-12)


def test_derivatives_are_those_of_finite_differences() -> None:
    theta, step = Grid(20, 4).colatitudes, 1e-5
    east, north = derivatives(24, 24, theta)
    values, m = legendre(24, 24, theta), np.arange(25)[:, None, None]
    np.testing.assert_allclose(east, m * values / np.sin(theta), atol=1e-11)
    numeric = (legendre(24, 24, theta - step) - legendre(24, 24, theta + step)) / (2 * step)
    np.testing.assert_allclose(north, numeric, atol=2e-5)


def test_derivatives_are_finite_and_right_at_the_poles() -> None:
    poles, near = np.array([0.0, np.pi]), np.array([1e-6, np.pi - 1e-6])
    for at_pole, beside in zip(derivatives(12, 12, poles), derivatives(12, 12, near), strict=True):
        np.testing.assert_allclose(at_pole, beside, atol=1e-3)
        assert np.any(np.abs(at_pole[1]) > 1) and np.all(np.abs(at_pole[[0, *range(2, 13)]]) < 1e-12)


def test_a_cut_in_order_is_a_cut_of_the_full_table() -> None:
    theta = Grid(24, 4).colatitudes
    np.testing.assert_array_equal(legendre(21, 5, theta), legendre(21, 21, theta)[:6])
    for cut, full in zip(derivatives(21, 5, theta), derivatives(21, 21, theta), strict=True):
        np.testing.assert_array_equal(cut, full[:6])
