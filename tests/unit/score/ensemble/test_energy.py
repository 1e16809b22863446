"""Energy score against sums over pairs; it is the CRPS for one cell, and sees patterns that the CRPS does not."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble import Box, EnergyScore, Verification, crps, energy_score
from tests.unit.score.ensemble import plain
from tests.unit.score.ensemble.plain import drawn, scored


@pytest.mark.parametrize("fair", [True, False])
def test_products_give_the_sum_over_pairs(fair: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, w = drawn(7, 4, 3), drawn(4, 3, seed=1), torch.rand(4, 3, dtype=torch.float64)
    expected = plain.energy(x.flatten(1), y.flatten(), w.flatten(), fair)
    assert energy_score(x, y, w, fair=fair) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr("dtheta.score.ensemble.energy._BLOCK", 3)
    assert energy_score(x, y, w, fair=fair) == pytest.approx(expected, rel=1e-12)
    assert float(scored(EnergyScore(fair), x, y, weights=w).value) == pytest.approx(expected, rel=1e-12)


def test_of_one_cell_it_is_the_crps() -> None:
    x, y = drawn(6, 1), drawn(1, seed=1)
    assert energy_score(x, y) == pytest.approx(float(crps(x, y)))


def test_equal_members_are_not_apart_by_rounding() -> None:
    x, y = (1e4 + drawn(1, 50)).expand(5, 50), 1e4 + drawn(50, seed=1)
    assert energy_score(x, y, fair=False) == pytest.approx(float((x[0] - y).square().mean().sqrt()), rel=1e-6)


def test_it_prefers_members_with_the_right_pattern() -> None:
    """Truth and good members are constant fields; the others have the same margins and no pattern."""
    truth = drawn(400, 1).expand(400, 20)
    good, bad = drawn(10, 400, 1, seed=1).expand(10, 400, 20), drawn(10, 400, 20, seed=2)
    assert float(crps(good, truth).mean()) == pytest.approx(float(crps(bad, truth).mean()), abs=0.03)
    scores = [sum(energy_score(x[:, n], truth[n]) for n in range(400)) / 400 for x in (good, bad)]
    assert scores[0] < scores[1] - 0.05


def test_regions_have_their_own_scores_and_starts_average(monkeypatch: pytest.MonkeyPatch) -> None:
    from dtheta.core.sphere.grid import Grid

    grid = Grid(6, 8)
    verification = Verification([EnergyScore()], grid=grid, regions={"north": Box(0, 90)})
    x, y = drawn(2, 5, 6, 8), drawn(2, 6, 8, seed=1)
    for start in range(2):
        verification.update(start, 6, x[start], y[start])
    north = torch.zeros(6, 8, dtype=torch.float64)
    north[:3] = 1
    for region, inside in (("global", torch.ones(6, 8, dtype=torch.float64)), ("north", north)):
        w = (grid.area_HW() * inside).flatten()
        expected = sum(plain.energy(x[s].flatten(1), y[s].flatten(), w, True) for s in range(2)) / 2
        assert float(verification.result().score("energy", 6, region=region).value) == pytest.approx(expected)


def test_a_start_whose_mask_leaves_nothing_of_a_region_does_not_count_there() -> None:
    inside = torch.tensor([1.0, 1, 0, 0])
    verification = Verification([EnergyScore()], cells=(4,), regions={"left": inside})
    x, y = drawn(2, 5, 4), drawn(2, 4, seed=1)
    verification.update(0, 6, x[0], y[0], mask=torch.tensor([False, False, True, True]))
    verification.update(1, 6, x[1], y[1])
    result = verification.result()
    left = plain.energy(x[1][:, :2], y[1][:2], torch.ones(2), True)
    assert float(result.score("energy", 6, region="left").value) == pytest.approx(left)
    parts = [plain.energy(x[0][:, 2:], y[0][2:], torch.ones(2), True), plain.energy(x[1], y[1], torch.ones(4), True)]
    assert float(result.score("energy", 6).value) == pytest.approx((2 * parts[0] + 4 * parts[1]) / 6)


@pytest.mark.parametrize(
    ("x", "y", "w", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4), None, ShapeMismatch, r"found \(2, 3\), \(4,\), \(4,\)"),
        (torch.zeros(1, 3), torch.zeros(3), None, ConfigError, "at least 2 members"),
        (torch.zeros(2, 3), torch.zeros(3), torch.zeros(3), ConfigError, "positive sum"),
        (torch.full((2, 3), math.nan), torch.zeros(3), None, NonFinite, "NaN or infinite"),
    ],
)
def test_refusals(x, y, w, error, message) -> None:
    with pytest.raises(error, match=message):
        energy_score(x, y, w)
