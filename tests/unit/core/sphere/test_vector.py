"""Vector analysis: analytic flows, identities of vector calculus, and round trips, on both kinds of grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dtheta.core.sphere import Grid, SphericalTransform, VectorTransform, inverse_laplacian, laplacian
from dtheta.errors import ConfigError, ShapeMismatch
from tests.unit.core.sphere.test_transform import random_coefficients

GRIDS = [Grid(32, 64), Grid(43, 64, "equiangular")]


@pytest.fixture(params=GRIDS, ids=lambda grid: grid.kind)
def vector(request: pytest.FixtureRequest) -> VectorTransform:
    return VectorTransform(SphericalTransform(request.param, 21, dtype=torch.float64))


def mesh(grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
    lat, lon = np.meshgrid(np.deg2rad(grid.latitudes), np.deg2rad(grid.longitudes), indexing="ij")
    return torch.from_numpy(lat), torch.from_numpy(lon)


def test_gradient_of_a_plane_wave_in_space(vector: VectorTransform) -> None:
    lat, lon = mesh(vector.scalar.grid)
    field = torch.cos(lat) * torch.cos(lon) * torch.sin(lat)  # x z
    east, north = vector.gradient(vector.scalar.analyze(field))
    torch.testing.assert_close(east, -torch.sin(lon) * torch.sin(lat))
    torch.testing.assert_close(north, torch.cos(2 * lat) * torch.cos(lon))


def test_solid_rotation_has_vorticity_two_sine_of_latitude(vector: VectorTransform) -> None:
    lat, _ = mesh(vector.scalar.grid)
    u = torch.cos(lat)
    vorticity, divergence = vector.vorticity_divergence(u, torch.zeros_like(u))
    torch.testing.assert_close(vector.scalar.synthesize(vorticity), 2 * torch.sin(lat))
    assert divergence.abs().max() < 1e-13
    back, none = vector.winds(vorticity)
    torch.testing.assert_close(back, u)
    assert none.abs().max() < 1e-13


def test_flow_over_the_poles_is_no_exception(vector: VectorTransform) -> None:
    lat, lon = mesh(vector.scalar.grid)
    u, v = -torch.sin(lat) * torch.cos(lon), torch.sin(lon)  # solid rotation about the x axis
    vorticity, divergence = vector.vorticity_divergence(u, v)
    torch.testing.assert_close(vector.scalar.synthesize(vorticity), 2 * torch.cos(lat) * torch.cos(lon))
    assert divergence.abs().max() < 1e-13
    torch.testing.assert_close(torch.stack(vector.winds(vorticity)), torch.stack((u, v)))


def test_winds_and_their_vorticity_and_divergence_are_one(vector: VectorTransform) -> None:
    vorticity, divergence = random_coefficients(vector.scalar, 2, 3)
    vorticity[..., 0, 0] = divergence[..., 0, 0] = 0
    found = vector.vorticity_divergence(*vector.winds(vorticity, divergence))
    torch.testing.assert_close(torch.stack(found), torch.stack((vorticity, divergence)))


def test_vorticity_of_a_gradient_is_zero_and_its_divergence_the_laplacian(vector: VectorTransform) -> None:
    c = random_coefficients(vector.scalar)
    vorticity, divergence = vector.vorticity_divergence(*vector.gradient(c))
    assert vorticity.abs().max() < 1e-10
    torch.testing.assert_close(divergence, laplacian(c))


def test_the_laplacian_and_its_inverse() -> None:
    vector = VectorTransform(SphericalTransform(Grid(24, 48), 21, dtype=torch.float64), radius=2.0)
    c = random_coefficients(vector.scalar, 2)
    back = inverse_laplacian(laplacian(c, 2.0), 2.0)
    assert not back[..., 0, 0].any()
    back[..., 0, 0] = c[..., 0, 0]
    torch.testing.assert_close(back, c)
    torch.testing.assert_close(laplacian(c, 2.0)[..., 3, 2], -3 * c[..., 3, 2])
    east, north = vector.gradient(c)
    unit = VectorTransform(vector.scalar).gradient(c)
    torch.testing.assert_close((2 * east, 2 * north), unit)


def test_the_jacobian_conserves_energy_and_enstrophy() -> None:
    """int a J(a, b) = int b J(a, b) = int J(a, b) = 0, exact where the quadrature holds cubic products."""
    vector = VectorTransform(SphericalTransform(Grid(32, 64), 21, dtype=torch.float64))
    a, b = random_coefficients(vector.scalar, 2)
    jacobian = vector.jacobian(a, b)
    grid, scale = vector.scalar.grid, jacobian.abs().max()
    for factor in (torch.ones_like(jacobian), vector.scalar.synthesize(a), vector.scalar.synthesize(b)):
        assert abs(grid.mean(factor * jacobian)) < 1e-12 * scale * factor.abs().max()
    torch.testing.assert_close(vector.jacobian(b, a), -jacobian)


def test_gradients_are_differentiable() -> None:
    vector = VectorTransform(SphericalTransform(Grid(5, 9), 4, dtype=torch.float64))
    c = random_coefficients(vector.scalar).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: torch.stack(vector.gradient(x)), c)


def test_refusals() -> None:
    scalar = SphericalTransform(Grid(24, 48), 21)
    with pytest.raises(ConfigError, match="radius must be positive, got 0"):
        VectorTransform(scalar, radius=0)
    with pytest.raises(ShapeMismatch, match=r"u has the shape \(2, 24, 48\) and v \(24, 48\)"):
        VectorTransform(scalar).vorticity_divergence(torch.zeros(2, 24, 48), torch.zeros(24, 48))
