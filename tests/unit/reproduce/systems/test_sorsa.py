"""SORSA's rows with planted trainings, and the measurements themselves on little."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.adapt.sorsa import SORSA
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.seeds import generator
from dtheta.reproduce.experiments.adaptations import mean_log_condition, train
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import sorsa


def planted(monkeypatch: pytest.MonkeyPatch, ours: float, fast: bool = False) -> dict[str, str]:
    """Return the outcomes where SORSA is ``ours`` better than the others in everything."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        gain = ours if "SORSA" in setting and "gamma" not in setting else 0.0
        lower = 1.0 - gain + 0.01 * seed * abs(gain)
        return {
            **dict.fromkeys(("mean_loss", "final_loss", "orthonormality", "log_condition", "turned"), lower),
            "accuracy": 80.0 + 10 * gain + 0.1 * seed * abs(gain), "frozen": 70.0, "error": 0.0 if ours > 0 else 1.0,
            "parameters": 100,
        }  # fmt: skip

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in sorsa.rows(Lab("sorsa", fast=fast, seeds=3))}


def test_outcomes_follow_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = planted(monkeypatch, 0.5), planted(monkeypatch, -0.5)
    assert set(good.values()) == {"holds"} and set(bad.values()) == {"does not hold"}
    assert len(good) == 12 and len(planted(monkeypatch, 0.5, fast=True)) == 9


def test_pairs_of_which_one_diverged_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    diverged = {"accuracy": 0.0, "frozen": 70.0}

    def runs(lab: Lab, method: Any, also: Any) -> list[dict[str, float]]:
        kept = [{"turned": 0.1 * i + isinstance(method, LoRA)} for i in range(3)]
        return [diverged, *kept] if isinstance(method, SORSA) else [{"turned": 9.0}, *kept]

    monkeypatch.setattr(sorsa, "on_texts", runs)
    found = sorsa.less_turned(Lab("sorsa")).found
    assert found is not None and found.estimate == pytest.approx(-1.0)
    monkeypatch.setattr(sorsa, "on_texts", lambda *_: [diverged])
    assert sorsa.less_turned(Lab("sorsa")).outcome == "not testable here"


def test_the_regularizer_is_what_keeps_the_factors() -> None:
    kept, free = (train("toy-digits-2", name, 3e-2, 0) for name in ("SORSA", "SORSA, gamma 0"))
    assert kept.orthonormality is not None and free.orthonormality is not None
    assert kept.orthonormality < 0.7 * free.orthonormality
    assert kept.log_condition is not None and 0.0 < kept.log_condition < 5.0
    assert train("toy-digits-2", "PiSSA", 3e-2, 0).log_condition is None


def test_the_condition_is_that_of_the_product() -> None:
    layer = nn.Linear(4, 6, bias=False)
    left, right = (torch.linalg.qr(torch.randn(n, 4, generator=generator(0, "sorsa", n))).Q for n in (6, 4))
    with torch.no_grad():
        layer.weight.copy_(left @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0])) @ right.T)
    adapter = attach(nn.Sequential(layer), SORSA(3), "@linear")
    assert mean_log_condition(adapter) == pytest.approx(math.log(4.0), rel=1e-3)


def test_turned_directions_are_those_of_query_and_value_weights() -> None:
    model = nn.ModuleDict({"query": nn.Linear(20, 20), "key": nn.Linear(20, 20), "value": nn.Linear(20, 20)})
    names = [f"layer.{name}" for name in model]
    net = nn.ModuleDict({"layer": model})

    def found(moved: str) -> float:
        changes = {f"{name}.weight": Dense(torch.zeros(20, 20)) for name in names}
        changes[f"layer.{moved}.weight"] = Dense(torch.randn(20, 20, generator=generator(0, "sorsa")))
        adapted = SimpleNamespace(delta=Delta(changes, fingerprint(net)))
        return sorsa.turned(cast(Any, SimpleNamespace(net=net)), cast(Any, adapted))["turned"]

    assert found("key") < 1e-6
    assert found("value") > 0.1
