"""Balance of two layers: each relation against its definition, and inversion back and forth."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.sphere import Grid, laplacian
from dtheta.core.sphere.transform import from_planes, to_planes
from dtheta.data.flows.two_layer import HEIGHT, SPEED, TwoLayer
from dtheta.errors import ConfigError, ShapeMismatch
from tests.unit.core.sphere.test_transform import random_coefficients


@pytest.fixture
def balance() -> TwoLayer:
    return TwoLayer(Grid(24, 48), 21, 700.0, torch.float64)


def random_psi(balance: TwoLayer, members: int = 3) -> torch.Tensor:
    """Coefficients (2, members, L, O) of mean zero."""
    psi = random_coefficients(balance.scalar, 2, members)
    psi[..., 0, 0] = 0
    return psi


def planes(coefficients: torch.Tensor) -> torch.Tensor:
    return to_planes(coefficients).unflatten(-1, coefficients.shape[:2])


def test_potential_vorticity_is_its_definition(balance: TwoLayer) -> None:
    upper, lower = random_psi(balance)
    q = balance.potential_vorticity(planes(torch.stack((upper, lower))))
    stretching = (6371 / 700) ** 2 * (upper - lower)
    expected = torch.stack((laplacian(upper) - stretching, laplacian(lower) + stretching))
    torch.testing.assert_close(from_planes(q.flatten(3), (2, 3)), expected)


def test_inversion_undoes_it_and_ignores_means(balance: TwoLayer) -> None:
    psi = planes(random_psi(balance))
    q = balance.potential_vorticity(psi)
    torch.testing.assert_close(balance.invert(q), psi)
    q[0, 0, 0] += 5
    torch.testing.assert_close(balance.invert(q), psi)


def test_heights_and_stream_functions_are_one(balance: TwoLayer) -> None:
    psi = random_psi(balance)
    heights = balance.heights_of(planes(psi))
    assert heights.shape == (3, 2, 24, 48)
    torch.testing.assert_close(heights[1, 0], HEIGHT * balance.scalar.synthesize(psi[0, 1]))
    torch.testing.assert_close(balance.psi_of(heights), planes(psi))
    assert 4780 < HEIGHT < 4800 and 73.7 < SPEED < 73.8


def test_winds_are_the_turned_gradient_of_height(balance: TwoLayer) -> None:
    psi = random_psi(balance)
    u, v = balance.winds(balance.heights_of(planes(psi)))
    east, north = balance.vector.gradient(psi[1, 2])
    torch.testing.assert_close(u[2, 1], -SPEED * north)
    torch.testing.assert_close(v[2, 1], SPEED * east)


def test_solid_rotation_blows_from_the_west(balance: TwoLayer) -> None:
    """Heights that fall toward both poles, as the law of Buys Ballot has it with the f0 of both hemispheres alike."""
    lat = torch.deg2rad(torch.tensor(Grid(24, 48).latitudes.copy()))
    heights = (-100 * torch.sin(lat))[None, None, :, None].expand(1, 2, 24, 48)
    u, v = balance.winds(heights)
    torch.testing.assert_close(u[0, 0, :, 0], SPEED / HEIGHT * 100 * torch.cos(lat))
    assert v.abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(2, 24, 48), (3, 1, 24, 48), (3, 2, 24, 47)])
def test_other_shapes_are_refused(balance: TwoLayer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeMismatch, match="heights"):
        balance.psi_of(torch.zeros(shape))


def test_heights_of_another_dtype_are_refused(balance: TwoLayer) -> None:
    with pytest.raises(ConfigError, match=r"heights is torch\.float32 on cpu, and the weights are torch\.float64"):
        balance.psi_of(torch.zeros(1, 2, 24, 48))
