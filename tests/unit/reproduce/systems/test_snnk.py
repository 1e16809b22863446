"""SNNK's rows with planted runs, and the measurements themselves on little."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dtheta.kernels.closed_form import solve_head
from dtheta.reproduce.experiments import snnk_layers
from dtheta.reproduce.experiments.classifications import Size
from dtheta.reproduce.experiments.snnk_layers import bundle_error, estimate_error
from dtheta.reproduce.experiments.solved_heads import descended, head_times, objective
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import snnk
from dtheta.reproduce.systems.snnk import BOTTLENECK, LORA, SQUARE, Budget


def planted(monkeypatch: pytest.MonkeyPatch, good: bool) -> dict[str, str]:
    """Return the outcomes where SNNK is as claimed, or the reverse."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        ours = "SNNK" in setting
        accuracy = 80.0 + 0.1 * seed * ours - 5.0 * (ours and not good)
        parameters = (1000 if good else 9000) if ours else 10_000
        fast, error = (3.0 + 0.01 * seed, 1e-15) if good else (0.3 + 0.01 * seed, 1.0)
        return {
            "accuracy": accuracy, "frozen": 70.0, "parameters": parameters, "ratios": [fast, 1.1 * fast, 1.2 * fast],
            "error": error, "solved": 1.0, "descent": fast, "reached": True, "256": 1.0, "1024": 1.0 / fast,
        }  # fmt: skip

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in snnk.rows(Lab("snnk", seeds=2))}


def test_outcomes_follow_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = planted(monkeypatch, True), planted(monkeypatch, False)
    assert len(good) == 10
    assert set(good.values()) == {"holds"} and set(bad.values()) == {"does not hold"}


def test_a_method_that_always_diverged_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "run", lambda *_: {"accuracy": 0.0, "frozen": 70.0, "parameters": 0})
    (row,) = snnk.adapters(Lab("snnk"), Budget())
    assert row.outcome == "not testable here" and SQUARE in row.note


@pytest.mark.usefixtures("minilm_tokenizer")
def test_one_real_comparison_of_adapters() -> None:
    budget = Budget(("bbc",), (SQUARE, BOTTLENECK, LORA), Size(10, 10, 8, 1, 4), 1, 16, 10)
    found = {row.claim.name: row for row in snnk.adapters(Lab("snnk", seeds=2), budget)}
    assert found["5 times fewer weights"].outcome == "holds"
    row = found[f"{SQUARE} against {BOTTLENECK}"]
    assert "5.7 times fewer" in row.claim.says and row.found is not None
    assert row.found.low <= row.found.estimate <= row.found.high


def test_a_bundle_of_other_layers_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snnk_layers, "D", 12)
    monkeypatch.setattr(snnk_layers, "HIDDEN", 20)
    assert bundle_error()["error"] < 1e-12
    whole = snnk_layers.bundle
    monkeypatch.setattr(snnk_layers, "bundle", lambda pair: nn.Sequential(whole(pair), nn.Tanh()))
    assert bundle_error()["error"] > 0.01


def test_the_estimate_gets_nearer() -> None:
    errors = [[estimate_error(m, seed) for seed in range(8)] for m in (64, 256)]
    ratio = sum(errors[1]) / sum(errors[0])
    assert 0.15 < ratio < 0.4


def test_descent_reaches_the_solution_and_says_when_it_does_not() -> None:
    P, labels = torch.randn(40, 6), torch.arange(40) % 3
    head = solve_head(P, labels, "mse", 0.5)
    value = objective(P, F.one_hot(labels, 3).float(), labels, "mse", 0.5)
    best = float(value(head.weight.float(), head.bias.float()))
    steps = descended(value, (3, 6), 1.001 * best, 3e-2, 2000)
    assert steps is not None and steps > 10
    assert descended(value, (3, 6), 0.99 * best, 3e-2, 300) is None


def test_heads_are_timed() -> None:
    found = head_times(0, 24, 30)
    assert 0 < found["solved"] and 0 < found["descent"] and found["accuracy"] > 0.5
    assert found["reached"] is False  # 30 steps do not suffice
