"""Bias, RMSE, spread and ACC against their definitions, and what they are for calibrated and paired ensembles."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.score.ensemble import ACC, RMSE, Bias, Spread, SpreadError, Verification
from tests.unit.score.ensemble.plain import drawn, scored


def test_scores_of_the_mean_are_their_definitions() -> None:
    x, y, c, w = drawn(5, 12), drawn(12, seed=1), drawn(12, seed=2), torch.rand(12, dtype=torch.float64)
    mean, w = x.mean(0), w / w.sum()
    expected = {
        Bias(): float((w * (mean - y)).sum()),
        RMSE(): math.sqrt(float((w * (mean - y) ** 2).sum())),
        Spread(): math.sqrt(6 / 5 * float((w * x.var(0)).sum())),
        SpreadError(): math.sqrt(6 / 5 * float((w * x.var(0)).sum()) / float((w * (mean - y) ** 2).sum())),
        ACC("c"): float((w * (mean - c) * (y - c)).sum())
        / math.sqrt(float((w * (mean - c) ** 2).sum()) * float((w * (y - c) ** 2).sum())),
    }
    for metric, value in expected.items():
        found = scored(metric, x, y, weights=w, references={"c": c})
        assert float(found.value) == pytest.approx(value, rel=1e-12), metric.name


def test_means_over_starts_come_before_roots_and_ratios() -> None:
    verification = Verification([RMSE(), SpreadError(), ACC("c")], cells=(6,), references={"c": torch.zeros(6)})
    x, y = drawn(3, 4, 6), drawn(3, 6, seed=1)  # starts, members, cells
    for start in range(3):
        verification.update(start, 6, x[start] * (start + 1), y[start])
    result = verification.result()
    scale = torch.arange(1.0, 4.0, dtype=torch.float64)[:, None]
    mean = x.mean(1) * scale
    square = ((mean - y) ** 2).mean()
    assert float(result.score("rmse", 6).value) == pytest.approx(math.sqrt(float(square)))
    variance = (x.var(1) * scale**2).mean()
    assert float(result.score("spread_error", 6).value) == pytest.approx(math.sqrt(5 / 4 * float(variance / square)))
    acc = (mean * y).mean() / ((mean**2).mean() * (y**2).mean()).sqrt()
    assert float(result.score("acc", 6).value) == pytest.approx(float(acc))


@pytest.mark.parametrize("members", [2, 5])
def test_spread_over_error_is_one_for_exchangeable_members(members: int) -> None:
    everything = drawn(members + 1, 200_000)
    found = float(scored(SpreadError(), everything[1:], everything[0]).value)
    assert found == pytest.approx(1, abs=0.006)


def paired(correlation: float, pairs: int, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Members and a truth from one law, pairs of members with this correlation, different pairs independent."""
    first, second = drawn(pairs, cells), drawn(pairs, cells, seed=1)
    other = correlation * first + math.sqrt(1 - correlation**2) * second
    return torch.stack((first, other), 1).flatten(0, 1), drawn(cells, seed=2)


def test_pairs_of_opposite_sign_inflate_the_spread() -> None:
    pairs, truth = paired(-1.0, 2, 200_000)
    free, _ = paired(0.0, 2, 200_000)
    ratio = float(scored(Spread(), pairs, truth).value) / float(scored(Spread(), free, truth).value)
    assert ratio == pytest.approx(math.sqrt(4 / 3), abs=0.006)


@pytest.mark.parametrize("correlation", [-1.0, -0.5, 0.0, 0.7])
def test_the_spread_of_pairs_is_the_error_of_their_mean_whatever_their_correlation(correlation: float) -> None:
    x, y = paired(correlation, 3, 200_000)
    assert float(scored(SpreadError(pairs=True), x, y).value) == pytest.approx(1, abs=0.006)
    if correlation == -1.0:
        assert float(scored(SpreadError(), x, y).value) > 1.15


def test_the_spread_of_pairs_is_its_formula() -> None:
    x, y = drawn(6, 9), drawn(9, seed=1)
    means, halves = (x[::2] + x[1::2]) / 2, (x[::2] - x[1::2]) / 2
    expected = float((4 / 3 * means.var(0) + halves.square().mean(0)).mean().sqrt())
    assert float(scored(Spread(pairs=True), x, y).value) == pytest.approx(expected)
    with pytest.raises(ConfigError, match="pairs of members are asked for, and there are 5"):
        scored(Spread(pairs=True), x[:5], y)
    with pytest.raises(ConfigError, match="needs at least 4 members, found 2"):
        scored(Spread(pairs=True), x[:2], y)


def test_moments_do_not_cancel_far_from_zero_in_float32() -> None:
    x, y = 1e5 + drawn(50, 40).round(), 1e5 + drawn(40, seed=1).round()
    for metric in (Bias(), RMSE(), Spread()):
        wide, narrow = (float(scored(metric, x.to(d), y.to(d)).value) for d in (torch.float64, torch.float32))
        assert narrow == pytest.approx(wide, rel=1e-12)


def test_spread_needs_two_members_and_rmse_one() -> None:
    x, y = drawn(1, 4), drawn(4, seed=1)
    assert float(scored(RMSE(), x, y).value) == pytest.approx(float((x[0] - y).square().mean().sqrt()))
    with pytest.raises(ConfigError, match="spread_error needs at least 2 members, found 1"):
        scored(SpreadError(), x, y)


def test_scores_in_the_unit_of_the_data_say_so() -> None:
    verification = Verification([RMSE(), SpreadError()], cells=(4,), channels=["z"], units={"z": "m"})
    verification.update(0, 6, drawn(3, 1, 4), drawn(1, 4, seed=1))
    assert {score.metric: score.unit for score in verification.result()} == {"rmse": "m", "spread_error": "1"}
