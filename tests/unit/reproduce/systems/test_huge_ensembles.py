"""Rows of Huge Ensembles on one short trajectory, and what bad ensembles do to them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dtheta.reproduce.claim import Row, over_seeds
from dtheta.reproduce.experiments.atmosphere import Atmosphere
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import huge_ensembles as hens


@pytest.fixture(scope="module")
def world() -> Atmosphere:
    made = Atmosphere(1, 34, (24,), networks=2)
    states = [made.flow.spin_up(1, seed=3, steps=30)]
    for _ in range(made.steps):
        states.append(made.flow.step(states[-1]))
    made.__dict__["states"] = torch.stack(states, 1)
    return made


def _rows(monkeypatch: pytest.MonkeyPatch, fast: bool, quality: float, wrong: int) -> dict[str, Row]:
    """Return the rows of planted scores; ``quality`` above 1 is a good ensemble."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        if experiment == "alone":
            return {"wrong": wrong}
        found: dict[str, list[Any]] = {}
        for i in range(8 if fast else 64):
            jitter = 1 + 0.01 * math.cos(3.0 * i)
            for lead in (4, 20):
                late = quality if lead == 20 else 1.0
                one = {
                    "crps": (10.0 - quality * (setting == hens.BOTH)) * jitter,
                    "variance": 0.95 * max(quality, 0.1) * jitter, "error": 1.0,
                    "power": [0.97 * quality * jitter, 0.9 / late * jitter, 1.0],
                    "auc": [0.8 + 0.1 * quality * jitter, 0.8],
                    "outside": {"2": 0.6 * jitter, "8": 0.6 - 0.3 * quality, "64": 0.6 - 0.5 * quality},
                }  # fmt: skip
                for name, value in one.items():
                    found.setdefault(f"{name} {lead}", []).append(value)
        return {"scores": found}

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row for row in hens.rows(Lab("huge-ensembles", fast=fast))}


@pytest.mark.parametrize("fast", [True, False])
def test_outcomes_follow_the_scores(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    good = _rows(monkeypatch, fast, 1.1, wrong=0)
    assert {row.outcome for row in good.values()} == {"holds", "not testable here"}
    assert all(row.found is None or row.found.low <= row.found.estimate <= row.found.high for row in good.values())
    bad = _rows(monkeypatch, fast, -0.5, wrong=2)
    held = {name for name, row in bad.items() if row.outcome == "holds"}
    better = {claim.name for claim in hens.BETTER.values()}
    assert not held & ({"members stay rough", "extremes", "fewer outliers"} | better)
    assert bad["any member again"].outcome == "does not hold"
    assert bad["extremes"].outcome == "does not hold"


def test_scores_of_a_real_run(world: Atmosphere) -> None:
    ensemble = world.ensemble(2, world.bred(), 4)
    found = hens.judged(world, ensemble, [0], [1, 4])
    assert set(found) == {f"{name} {lead}" for name in ("crps", "variance", "error", "power", "auc", "outside")
                          for lead in (1, 4)}  # fmt: skip
    assert 0 < found["crps 1"][0] < found["crps 4"][0]
    rough, smooth, true = found["power 4"][0]
    assert smooth < rough and 0.5 < rough / true < 2
    assert found["outside 4"][0]["4"] <= found["outside 4"][0]["2"] <= 1


def test_members_alone_are_the_same_and_others_are_not(world: Atmosphere, monkeypatch: pytest.MonkeyPatch) -> None:
    ensemble = world.ensemble(2, world.bred(), 2)
    assert hens.differing(world, ensemble, [1]) == 0
    first = ensemble.only([0])
    monkeypatch.setattr(type(ensemble), "only", lambda self, which: first)
    assert hens.differing(world, ensemble, [1]) > 0  # the last member is not the first


def test_discrimination_is_the_share_of_pairs_in_the_right_order(world: Atmosphere) -> None:
    truth = world.states[0, 3, 0]
    assert hens.discrimination(world, truth[None], truth) == 1.0
    assert hens.discrimination(world, torch.full_like(truth, -1e9)[None], truth) == 0.5


def test_starts_of_one_trajectory_count_as_one() -> None:
    two_dates = Atmosphere(3, dates=(40, 160))
    assert hens._by_trajectory([1.0, 2.0, 3.0, 5.0, 6.0, 7.0], two_dates) == [3.0, 4.0, 5.0]
    found = hens._ratio([2.0, 4.0], [1.0, 2.0])
    assert found.estimate == found.low == found.high == 2.0


def test_starts_of_a_trajectory_count_as_one_for_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps = [0.1 + 0.01 * (i % 32) + 0.2 * (i // 32) for i in range(64)]  # 32 trajectories, date by date
    gaps[0] = gaps[1] = gaps[33] = math.nan  # no extremes at one start of the first, and at neither of the second
    found = {
        "crps 4": [1.0] * 64, "crps 20": [1.0] * 64, "variance 20": [1.0] * 64, "error 20": [1.0] * 64,
        "power 4": [[1.0, 1.0, 1.0]] * 64, "power 20": [[1.0, 1.0, 1.0]] * 64,
        "auc 20": [[gap, 0.0] for gap in gaps], "outside 20": [{"8": 0.5, "64": 0.1}] * 64,
    }  # fmt: skip
    monkeypatch.setattr(Lab, "run", lambda self, *_: {"wrong": 0, "scores": found})
    rows = {row.claim.name: row for row in hens.rows(Lab("huge-ensembles"))}
    means = [0.3] + [0.2 + 0.01 * i for i in range(2, 32)]
    wanted = over_seeds(means)
    shown = rows["extremes"].found
    assert shown is not None
    assert (shown.estimate, shown.low, shown.high) == pytest.approx((wanted.estimate, wanted.low, wanted.high))
