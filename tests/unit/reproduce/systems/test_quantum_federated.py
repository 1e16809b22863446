"""Rows of quantum federated learning on few rounds, and what a broken circuit does to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import quantum_federated as qf

TINY = qf.TableSize(2, 2, 2, 0.05, 8, 2)


def _planted(good: bool) -> Any:
    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        jitter = 0.001 * seed
        if experiment == "table":
            federated = (0.95 if good else 0.3) + jitter
            return {"federated": federated, "pooled": 0.95, "alone": 0.6, "qubits": 6 if good else 7}
        dense = setting.endswith("dense")
        bits = 1000.0 if dense else (10.0 if good else 100.0) + seed
        return {"accuracy": (0.9 if dense or good else 0.5) + (0 if dense else jitter), "bits_up": bits}

    return kept


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("good", [True, False])
def test_outcomes_follow_the_runs(good: bool, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "run", _planted(good))
    outcomes = {row.claim.name: row.outcome for row in qf.rows(Lab("quantum-federated", fast=fast))}
    assert outcomes.pop("on a device") == "not testable here"
    laws = ("one circuit for every operator", "derivatives by measurement", "listeners are noticed")
    assert [outcomes.pop(name) for name in laws] == ["holds"] * 3
    assert set(outcomes.values()) == {"holds" if good else "does not hold"}


def test_the_chip_is_checked_against_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    error, attempts = qf.chip_error(1, 2)
    assert error < 1e-12
    assert abs(attempts - 4) < 1e-9
    right = qf.teleport_circuit
    monkeypatch.setattr(qf, "teleport_circuit", lambda O, psi: right(O.T, psi))
    assert qf.chip_error(1, 2)[0] > 1e-3


def test_derivatives_are_checked_against_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    assert qf.derivative_error() < 1e-6
    right = qf.branch_gradient

    def half(branches: Tensor, psi: Tensor, observable: Tensor) -> Tensor:
        return right(branches, psi, observable) / 2

    monkeypatch.setattr(qf, "branch_gradient", half)
    assert qf.derivative_error() > 1e-3


def test_a_table_is_trained_in_all_three_ways() -> None:
    found = qf.trained_table("iris", TINY, 0)
    assert set(found) == {"federated", "pooled", "alone", "qubits"}
    assert all(0 <= found[name] <= 1 for name in ("federated", "pooled", "alone"))
    assert found["qubits"] == 3  # four numbers and a constant


def test_ternary_answers_of_texts_take_fewer_bits(minilm_tokenizer: object) -> None:
    size = qf.TextSize(Base("minilm", 1), ("bbc",), 48, 20, 8, 2, 1, 1)
    dense, ternary = (qf.trained_texts(size, "bbc", 0, codec) for codec in ("dense", qf.TERNARY))
    assert dense["bits_up"] > 30 * ternary["bits_up"]
    assert 0 <= ternary["accuracy"] <= 1


def test_who_listens_is_seen_in_the_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("quantum-federated", fast=True)
    assert qf._tapped_row(lab).outcome == "holds"
    right = qf.exchange
    monkeypatch.setattr(
        qf, "exchange", lambda count, passed, error, share, draws: right(count, passed, error, 0.0, draws)
    )
    assert qf._tapped_row(lab).outcome == "does not hold"
    assert torch.is_grad_enabled()
