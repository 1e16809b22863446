"""What a comparison says where trainings diverged."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dtheta.adapt.pissa import PiSSA
from dtheta.reproduce.claim import Claim
from dtheta.reproduce.experiments import against_lora
from dtheta.reproduce.experiments.against_lora import below_lora, more_accurate
from dtheta.reproduce.lab import Lab


def test_a_training_that_diverged_leaves_no_outcome_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(lab: Lab, setting: str, method: str, rate: float, seed: int) -> dict[str, Any]:
        diverged = method == "LoRA" and seed == 1
        return {"mean_loss": math.inf if diverged else 1.0, "orthonormality": None if diverged else 0.1}

    monkeypatch.setattr(against_lora, "trained", trained)
    claim = below_lora("PiSSA", "lower", "Here", "", "toy-digits-8", "mean_loss", (1e-2, 1e-1))
    row = claim.row(Lab("planted", fast=True), range(3))
    assert row.outcome == "not testable here"
    assert row.note == "1 of 3 trainings of LoRA diverged, at rates 0.01 and 0.1."
    assert claim.row(Lab("planted", fast=True), range(2, 4)).outcome == "not shown"


def test_an_accuracy_of_zero_by_divergence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_texts(lab: Lab, method: Any, also: Any = None) -> list[dict[str, Any]]:
        lost = {"accuracy": 0.0, "frozen": 80.0, "parameters": 0}
        return [{"accuracy": 90.0, "frozen": 80.0, "parameters": 5}, lost if method.name == "LoRA" else lost | {
            "accuracy": 91.0, "parameters": 5}]  # fmt: skip

    monkeypatch.setattr(against_lora, "on_texts", on_texts)
    row = more_accurate(Lab("planted", fast=True), PiSSA(16), Claim("a", "b", "c"))
    assert row.note.endswith("; 1 of 2 trainings of LoRA diverged and counted as 0 %")
