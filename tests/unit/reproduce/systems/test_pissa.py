"""PiSSA's rows with planted trainings, and the measurements themselves on little."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.method import Method
from dtheta.adapt.pissa import PiSSA
from dtheta.adapt.qpissa import NF4, QPiSSA
from dtheta.core.seeds import generator
from dtheta.reproduce.experiments import against_lora
from dtheta.reproduce.experiments.adaptations import SETTINGS
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import pissa


def planted(monkeypatch: pytest.MonkeyPatch, ours: float, fast: bool) -> dict[str, str]:
    """Return the outcomes where PiSSA is ``ours`` better than LoRA in everything."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        gain = ours if "PiSSA" in setting else 0.0
        loss = 1.0 - gain + 0.01 * seed * abs(gain)
        accuracy = 80.0 + 10 * gain + 0.1 * seed * abs(gain)
        return {
            "mean_loss": loss, "final_loss": loss, "orthonormality": None, "accuracy": accuracy, "frozen": 70.0,
            "parameters": 100,
            "reductions": [10 * gain, 11 * gain, 12 * gain], "error": 0.0 if ours > 0 else 1.0,
        }  # fmt: skip

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in pissa.rows(Lab("pissa", fast=fast, seeds=3))}


def test_outcomes_follow_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(planted(monkeypatch, 0.5, False).values()) == {"holds"}
    bad = planted(monkeypatch, -0.5, False)
    assert set(bad.values()) == {"does not hold"}
    assert len(bad) == 11  # names are unique
    assert "faster, language model" not in planted(monkeypatch, 0.5, True)


def test_a_training_on_the_toy_is_kept_and_taken_again() -> None:
    lab = Lab("pissa", fast=True)
    first = against_lora.trained(lab, "toy-digits-2", "PiSSA", 3e-2, 0)
    assert first["final_loss"] < 0.5 * first["mean_loss"]  # it learned
    assert against_lora.trained(lab, "toy-digits-2", "PiSSA", 3e-2, 0) is first
    assert first["setting"] == "toy-digits-2 PiSSA lr 0.03"  # the key, not a field of the training


def test_the_toy_is_pissas() -> None:
    posed = SETTINGS["toy-digits-8"].problem(0)
    assert [tuple(p.shape) for p in posed.model.parameters()] == [(128, 8), (5, 128)]
    features_ND, labels_N = posed.batches[0]
    assert features_ND.shape[1] == 8 and set(labels_N.tolist()) == {0, 1, 2, 3, 4}


class Blocks(nn.Module):
    """A linear layer with strong principal directions."""

    def __init__(self) -> None:
        super().__init__()
        U, V = (torch.linalg.qr(torch.randn(64, 64, generator=generator(0, "pissa", i))).Q for i in (0, 1))
        self.layer = nn.Linear(64, 64)
        with torch.no_grad():
            self.layer.weight.copy_((U * torch.arange(1, 65) ** -0.8) @ V)


def test_what_qpissa_saves_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "pretrained", lambda self: (Blocks(), None))
    lab = Lab("pissa", fast=True)
    (reduction,) = pissa.saved(lab, Base(), QPiSSA(8))
    assert 20 < reduction < 100
    assert pissa.saved(lab, Base(), NF4()) == [0.0]


def test_a_start_that_moves_the_outputs_is_seen(monkeypatch: pytest.MonkeyPatch, minilm: nn.Module) -> None:
    row = against_lora.unchanged_start(Lab("pissa"), PiSSA(2), pissa.START)
    assert row.outcome == "holds"

    def moved(model: nn.Module, method: Method) -> Any:
        adapter = attach(model, method)
        with torch.no_grad():
            next(iter(adapter.trainable().values())).mul_(1.5)
        return adapter

    attach = against_lora.attach
    monkeypatch.setattr(against_lora, "attach", moved)
    assert against_lora.unchanged_start(Lab("pissa"), PiSSA(2), pissa.START).outcome == "does not hold"
