"""Noise: variance, spectrum and correlation of the spherical one, keys by channel, random fields."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.core.sphere import Grid, SphericalTransform, power_spectrum
from dtheta.ensemble.members import Member
from dtheta.ensemble.noise import EARTH_RADIUS_KM, RandomFields, SphericalNoise, WhiteNoise
from dtheta.ensemble.perturbation import Perturbation, Rows, Start
from dtheta.ensemble.rescaling import GlobalRescaling
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

GRID = Grid(32, 64)


def drawn(perturbation: Perturbation, state: Tensor, rows: int = 4, seed: int = 0) -> Tensor:
    members = tuple(Member(0, draw) for draw in range(rows))
    start = Start(state, state.new_empty(0, *state.shape), "0")
    return perturbation.vectors(start, Rows(members, seed, "0"), lambda x, at: x)


def test_the_variance_is_the_same_everywhere_also_at_the_poles() -> None:
    """2,000 fields: the standard error of a variance is 0.03 a point; a row of 64 has less."""
    fields = drawn(SphericalNoise(2.0, GRID, length_km=1500), torch.zeros(10, 32, 64), 200)
    by_row = fields.square().mean((0, 1, 3)) / 4
    assert float(by_row.max()) == pytest.approx(1, abs=0.08)
    assert float(by_row.min()) == pytest.approx(1, abs=0.08)
    assert float(by_row[0]) == pytest.approx(1, abs=0.08)


def test_the_spectrum_is_that_of_diffused_white_noise_without_a_mean() -> None:
    noise = SphericalNoise(1.0, GRID, length_km=1000)
    c = SphericalTransform(GRID, 31).analyze(drawn(noise, torch.zeros(20, 32, 64), 50))
    found = power_spectrum(c).mean((0, 1)).double()
    l = torch.arange(32, dtype=torch.float64)
    expected = (2 * l + 1) * torch.exp(-((1000 / EARTH_RADIUS_KM) ** 2) / 2 * l * (l + 1))
    expected[0] = 0
    expected = expected / expected.sum()
    assert float(found[0]) < 1e-10
    assert torch.allclose(found[1:20], expected[1:20], rtol=0.12)
    assert float(found.sum()) == pytest.approx(1, abs=0.03)


def test_a_series_is_stationary_with_the_correlation_asked_for() -> None:
    noise = SphericalNoise(1.0, GRID, length_km=500, correlation_hours=12)
    fields = torch.stack(list(noise.series(400, hours=6)))
    area = GRID.area_HW(torch.float32)
    assert float((fields.square() * area).mean()) == pytest.approx(1, abs=0.03)
    assert float((fields[1:] * fields[:-1] * area).mean()) == pytest.approx(math.exp(-0.5), abs=0.03)


def test_channels_without_amplitude_stay_zero_and_do_not_change_the_others() -> None:
    state = torch.zeros(3, 32, 64)
    one = drawn(SphericalNoise([0, 2.0, 0], GRID), state)
    all_ = drawn(SphericalNoise([1.0, 2.0, 3.0], GRID), state)
    assert not one[:, [0, 2]].any()
    assert torch.allclose(one[:, 1], all_[:, 1], atol=1e-6)
    assert float(torch.corrcoef(torch.stack([all_[0, 0].flatten(), all_[0, 1].flatten()]))[0, 1]) < 0.2


def test_noise_fits_states_of_one_field() -> None:
    assert drawn(SphericalNoise(1.0, GRID), torch.zeros(32, 64, dtype=torch.float64)).dtype == torch.float64


def test_equiangular_grids_with_both_poles_work() -> None:
    grid = Grid(33, 64, "equiangular")
    fields = drawn(SphericalNoise(1.0, grid, length_km=2000), torch.zeros(20, 33, 64), 50)
    assert float(fields[:, :, 0].std()) == pytest.approx(1, abs=0.06)
    assert torch.allclose(fields[:, :, 0], fields[:, :, 0, :1].expand(-1, -1, 64), atol=1e-4)  # a pole is one point


def test_white_noise_has_the_amplitude_of_each_channel() -> None:
    found = drawn(WhiteNoise([1.0, 0.0, 3.0]), torch.zeros(3, 50, 50))
    assert found[:, 0].std() == pytest.approx(1, abs=0.05) and found[:, 2].std() == pytest.approx(3, abs=0.1)
    assert not found[:, 1].any()


def test_random_fields_are_scaled_differences_of_two_states() -> None:
    climate = torch.randn(6, 2, 8)
    found = drawn(RandomFields(climate, [0.5, 2.0], GlobalRescaling()), torch.zeros(2, 8), 40)
    differences = torch.stack([a - b for a in climate for b in climate if a is not b]).flatten(1)
    scaled = found.flatten(1)
    cosines = torch.nn.functional.normalize(scaled) @ torch.nn.functional.normalize(differences).T
    assert torch.allclose(cosines.amax(1), torch.ones(40), atol=1e-5)
    assert len({tuple(row) for row in cosines.argmax(1)[:, None].tolist()}) > 10
    relative = found / torch.tensor([0.5, 2.0])[:, None]
    assert torch.allclose(relative.square().mean((1, 2)), torch.ones(40), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SphericalNoise(1.0, GRID, length_km=0), ConfigError, "length_km is 0"),
        (lambda: SphericalNoise(1.0, GRID, degree=40).transform, ConfigError, "degree 40 needs"),
        (lambda: drawn(SphericalNoise(1.0, GRID, degree=0), torch.zeros(GRID.shape)), ConfigError, "nothing left"),
        (lambda: drawn(SphericalNoise(1.0, GRID, length_km=1e6), torch.zeros(GRID.shape)), ConfigError, "shorter"),
        (lambda: drawn(SphericalNoise(1.0, GRID), torch.zeros(3, 32, 63)), ShapeMismatch, "a state has the shape"),
        (lambda: drawn(WhiteNoise([1.0, 2.0]), torch.zeros(3, 8)), ShapeMismatch, "one for each channel"),
        (lambda: drawn(WhiteNoise([1.0] * 8), torch.zeros(3, 8)), ShapeMismatch, "one for each channel"),
        (lambda: drawn(WhiteNoise(-1.0), torch.zeros(3, 8)), ConfigError, "0 or more"),
        (lambda: RandomFields(torch.ones(1, 8), 1.0), ConfigError, "two or more states"),
        (lambda: RandomFields(torch.ones(3, 8) / 0, 1.0), NonFinite, "NaN or infinity"),
        (lambda: drawn(RandomFields(torch.ones(3, 7), 1.0), torch.zeros(8)), ShapeMismatch, "expected the same"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
