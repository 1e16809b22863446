"""DePT's rows with planted runs, and the measurements themselves on little."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.reproduce.experiments.classifications import Size
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.experiments.prompt_steps import TOKENS, batch_of, kept_bytes, methods, step
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import dept
from dtheta.reproduce.systems.dept import Budget, padding_error


def planted(monkeypatch: pytest.MonkeyPatch, good: bool) -> dict[str, str]:
    """Return the outcomes where DePT is as claimed, or the reverse."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        gain = 5.0 if good else -5.0
        ratio = 1.5 if good else 1.1
        return {
            "accuracy": 80.0 + (gain + 0.1 * seed) * ("DePT" in setting), "ratios": [ratio, ratio + 0.01, ratio + 0.02],
            "DePT": 100, "PromptTuning": 100 * ratio, "error": 1e-7 if good else 0.4,
        }  # fmt: skip

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in dept.rows(Lab("dept", seeds=2))}


def test_outcomes_follow_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = planted(monkeypatch, True), planted(monkeypatch, False)
    assert len(good) == 10
    for found in (good, bad):
        assert found.pop("no more weights") == "holds"
        assert found.pop("saves more in larger models") == "not testable here"
    assert set(good.values()) == {"holds"} and set(bad.values()) == {"does not hold"}


@pytest.mark.usefixtures("minilm_tokenizer")
def test_one_real_comparison() -> None:
    budget = Budget(Base("minilm", 1), ("bbc",), Size(10, 10, 8, 1, 4), (16,), 1, 2)
    rows = list(dept.accurate(Lab("dept", seeds=2), budget))
    assert [row.claim for row in rows] == [dept.ABOVE, dept.NO_WORSE, dept.TWO_RATES]
    assert all(row.found is not None and row.found.low <= row.found.estimate <= row.found.high for row in rows)


def test_padding_is_seen_where_offsets_go_by_column() -> None:
    assert padding_error(DePT(4, 3, 16)) < 1e-5
    assert padding_error(DePT(4, 3, 16, index="column")) > 0.05


def test_every_method_is_within_the_budget() -> None:
    short = methods(384, 32)["DePT"]
    assert isinstance(short, DePT)
    assert 0.95 * TOKENS * 384 < short.parameters(384) <= TOKENS * 384
    assert dept.FULL.size.length == 32


def test_kept_bytes_are_those_of_activations(minilm: nn.Module) -> None:
    few, many = (kept_bytes(minilm, PromptTuning(length), batch_of(16, 2)) for length in (4, 44))
    hidden = 2 * 40 * 384 * 4  # one tensor of hidden states of the 40 more columns
    assert 6 * 5 * hidden < many - few < 6 * 60 * hidden
    assert few < sum(p.numel() for p in minilm.parameters())  # the weights are not among them
    assert not any(p.requires_grad and p.grad is not None for p in minilm.parameters())


def test_a_step_moves_the_parameters_it_is_given() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20000, 4)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.table(input_ids),)

    net = Net()
    before = net.table.weight.detach().clone()
    step(net, net.parameters(), batch_of(6, 2))()
    moved = ((net.table.weight - before).abs() > 5e-4).any(1).nonzero().flatten().tolist()
    assert set(moved) == set(batch_of(6, 2)["input_ids"].flatten().tolist())
