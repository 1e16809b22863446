"""ComPEFT's rows on a tiny budget, and what a broken compression does to them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.reproduce.experiments.experts import Base
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import compeft

TINY = compeft.Size(2, 8, 8, 16, 24, (0.2,), (1.0, 4.0))


def _run(searched: float, float16: float = 20.0, bits: float = 1.02) -> dict[str, Any]:
    size = {"float16": float16, "bits": 0.9 * bits, "entropy": 0.9}
    return {
        "test": {"original": 0.9, "head only": 0.6, "searched": searched, "STC": 0.9},
        "sizes": {"searched": size, "STC": size}, "chosen": {"density": 0.2, "alpha": 2.0},
    }  # fmt: skip


def _outcomes(
    monkeypatch: pytest.MonkeyPatch, fast: bool, runs: list[dict[str, Any]], wrong: int = 0
) -> dict[str, str]:
    drawn = itertools.cycle(runs)

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        return {"wrong": wrong, "entries": 9} if experiment == "decoded" else next(drawn)

    monkeypatch.setattr(Lab, "run", kept)
    return {row.claim.name: row.outcome for row in compeft.rows(Lab("compeft", fast=fast))}


@pytest.mark.parametrize("fast", [True, False])
def test_outcomes_follow_the_runs(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    good = _outcomes(monkeypatch, fast, [_run(0.91), _run(0.915), _run(0.912)])
    assert set(good.values()) == {"holds", "not testable here"}
    bad = _outcomes(monkeypatch, fast, [_run(0.7, 5.0, 1.2), _run(0.71, 5.1, 1.2), _run(0.69, 5.2, 1.2)], wrong=3)
    assert set(bad.values()) == {"does not hold", "not testable here"}


def test_bits_are_counted_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = itertools.cycle([_run(0.91, bits=1.01), _run(0.91, bits=1.02), _run(0.91, bits=1.03)])
    kept = lambda self, experiment, *_: {"wrong": 0, "entries": 9} if experiment == "decoded" else next(drawn)  # noqa: E731
    monkeypatch.setattr(Lab, "run", kept)
    rows = {row.claim.name: row for row in compeft.rows(Lab("compeft", fast=True))}
    found = rows["bits of the formula"].found
    assert found is not None
    assert found.high - found.estimate == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)


def test_one_real_run_has_what_the_rows_take(monkeypatch: pytest.MonkeyPatch, minilm_tokenizer: object) -> None:
    found = compeft.run(Base("minilm", 1), TINY, "bbc", "LoRA", 0)
    assert set(found["test"]) == {"original", "head only", "searched", "STC"}
    assert all(0.0 <= score <= 1.0 for score in found["test"].values())
    assert found["sizes"]["searched"]["float16"] > 8
    assert found["sizes"]["searched"]["bits"] >= found["sizes"]["searched"]["entropy"]
    monkeypatch.setattr(Lab, "run", lambda *_, **__: found | {"wrong": 0, "entries": 9})
    rows = list(compeft.rows(Lab("compeft", fast=True)))
    assert all(row.found is None or row.found.low <= row.found.estimate <= row.found.high for row in rows)


def test_decoding_counts_entries_that_are_wrong() -> None:
    delta = Delta({"a": Dense(torch.randn(40, 30)), "b": Dense(torch.randn(7))})
    assert compeft.decoded_wrong(delta) == 0
    values = torch.arange(1.0, 11.0)
    kept = torch.zeros(10)
    kept[-1] = float((3 * values.double().std()).float())
    assert compeft._differs(values, kept, 0.1, 3.0) == 0
    assert compeft._differs(values, -kept, 0.1, 3.0) == 1
    assert compeft._differs(values, kept.roll(1), 0.1, 3.0) == 2


def test_the_ratio_is_the_geometric_mean() -> None:
    found = compeft._ratios([_run(0.9, 10.0), _run(0.9, 40.0)])
    assert math.isclose(found.estimate, 20.0)
    assert found.low < 8 < found.high
