"""Power by degree of members, mean and truth: known harmonics, the limits of independent members, parts of members."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.sphere.grid import Grid
from dtheta.core.sphere.transform import SphericalTransform
from dtheta.errors import ConfigError
from dtheta.score.ensemble import SpectrumRatio, Verification
from dtheta.score.ensemble.spectra import power
from tests.unit.score.ensemble.plain import drawn

GRID = Grid(12, 24)
TRANSFORM = SphericalTransform(GRID, 10, dtype=torch.float64)


def test_power_is_where_the_harmonic_is() -> None:
    """sin(lat) is of degree 1 with mean square 1/3; cos(lat) cos(lon) too."""
    latitude, longitude = (torch.tensor(v).deg2rad() for v in (GRID.latitudes, GRID.longitudes))
    zonal = torch.sin(latitude)[:, None].expand(12, 24)
    sectoral = torch.cos(latitude)[:, None] * torch.cos(longitude)
    for field in (zonal, sectoral):
        expected = torch.zeros(11, dtype=torch.float64)
        expected[1] = 1 / 3
        torch.testing.assert_close(power(field, TRANSFORM), expected, atol=1e-12, rtol=1e-12)


def ratios(x: torch.Tensor, y: torch.Tensor, climatology: str | None = None, **given) -> dict[str, torch.Tensor]:
    """Starts first."""
    metrics = [SpectrumRatio("members", climatology), SpectrumRatio("mean", climatology)]
    verification = Verification(metrics, grid=GRID, transform=TRANSFORM, **given)
    for start in range(len(x)):
        verification.update(start, 6, x[start], y[start])
    return {score.metric: score.value for score in verification.result(resamples=2)}


def test_ratios_are_of_means_over_starts_and_members() -> None:
    x, y = drawn(3, 5, 12, 24), drawn(3, 12, 24, seed=1)
    found = ratios(x, y)
    truth = power(y, TRANSFORM).mean(0)
    torch.testing.assert_close(found["spectrum_members"], power(x, TRANSFORM).mean((0, 1)) / truth)
    torch.testing.assert_close(found["spectrum_mean"], power(x.mean(1), TRANSFORM).mean(0) / truth)


def test_the_mean_of_independent_members_has_one_part_in_m() -> None:
    x, y = drawn(40, 8, 12, 24), drawn(40, 12, 24, seed=1)
    found = ratios(x, y)
    assert float(found["spectrum_members"].mean()) == pytest.approx(1, abs=0.05)
    assert float(found["spectrum_mean"].mean()) == pytest.approx(1 / 8, abs=0.02)


def test_a_climatology_is_taken_off_all_three() -> None:
    x, y, c = drawn(2, 4, 12, 24), drawn(2, 12, 24, seed=1), 10 * drawn(12, 24, seed=2)
    plain = ratios(x, y)
    moved = ratios(x + c, y + c, climatology="c", references={"c": c})
    for name in plain:
        torch.testing.assert_close(plain[name], moved[name], rtol=1e-9, atol=1e-12)


def test_little_memory_takes_members_in_parts_and_gives_the_same() -> None:
    x, y = drawn(2, 9, 12, 24), drawn(2, 12, 24, seed=1)
    whole, parts = ratios(x, y), ratios(x, y, memory=4 * 32 * 12 * 24)
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-12, atol=1e-12)


def test_a_transform_in_float32_takes_fields_in_float64() -> None:
    single = SphericalTransform(GRID, 10)
    assert power(drawn(12, 24), single).dtype == torch.float64


def test_degrees_without_power_in_the_truth_have_no_ratio() -> None:
    found = ratios(drawn(1, 3, 12, 24), torch.zeros(1, 12, 24, dtype=torch.float64))
    assert all(math.isnan(v) for v in found["spectrum_members"].tolist())


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="must be 'members' or 'mean'"):
        SpectrumRatio("median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="spectra need a transform"):
        Verification([SpectrumRatio()], grid=GRID).update(0, 6, drawn(2, 12, 24), drawn(12, 24))
    with pytest.raises(ConfigError, match="needs all cells of the sphere, and a mask"):
        Verification([SpectrumRatio()], grid=GRID, transform=TRANSFORM).update(
            0, 6, drawn(2, 12, 24), drawn(12, 24), mask=torch.ones(12, 24, dtype=torch.bool)
        )
    with pytest.raises(ConfigError, match="spectrum_members needs whole fields"):
        Verification([SpectrumRatio()], grid=GRID, transform=TRANSFORM).update(
            0, 6, drawn(2, 3, 24), drawn(3, 24), rows=(0, 3)
        )
