"""aTLAS's rows on a tiny budget, and what coefficients that do nothing do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta._version import __version__
from dtheta.compose.gradient import Composition
from dtheta.reproduce.experiments.experts import Base, Budget, first_of_each
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import atlas

TINY = atlas.Size(
    Base("minilm", 1), ("bbc", "r8"), Budget(2, 8, 8, 2, 16, 16, 24), (0.0, 1.0), {"epochs": 1, "lr": 1e-1},
    {"epochs": 1, "lr": 1e-2}, {"epochs": 1, "shortest": 1}, (2,),
)  # fmt: skip


def _planted(good: bool) -> Any:
    sign = 1 if good else -1

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        if experiment == "gradient":
            return {"error": 1e-7 if good else 1e-2}
        if experiment == "addition":
            better = [0.8 + sign * gain for gain in (0.05, 0.051, 0.052)]
            flat = {name: [0.8] * 3 for name in ("base", "searched", "learned, isotropic", "own")}
            return {"test": flat | {"aTLAS": better}}
        if experiment == "negation":
            jitter = 0.001 * len(setting)
            learned = [0.8 - sign * 0.3 - jitter, 0.78]
            return {"test": {"base": [0.8, 0.8], "searched": [0.7, 0.7], "learned": learned}}
        return {"test": {"zero-shot": 0.6, "own": 0.9, "aTLAS": 0.6 + sign * 0.1 + 0.001 * len(setting)}}

    return kept


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("good", [True, False])
def test_outcomes_follow_the_runs(good: bool, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "run", _planted(good))
    outcomes = {row.claim.name: row.outcome for row in atlas.rows(Lab("atlas", fast=fast))}
    assert outcomes.pop("selection by gradient") == "not testable here"
    assert set(outcomes.values()) == {"holds" if good else "does not hold"}


def test_real_runs_have_what_the_rows_take(minilm_tokenizer: object, tmp_path: Any) -> None:
    found = atlas.experts(TINY, "Full", 0, tmp_path)
    again = atlas.experts(TINY, "Full", 0, tmp_path)  # from the folder
    assert all(found[task].delta.digest == again[task].delta.digest for task in TINY.tasks)
    added = atlas.addition(TINY, found, 0, merges=True)
    assert set(added["test"]) == {
        "base", "searched", "searched, compressed", "TIES", "TIES, compressed", "learned, isotropic", "aTLAS", "own",
    }  # fmt: skip
    assert all(len(values) == 2 and all(0 <= v <= 1 for v in values) for values in added["test"].values())
    summed = atlas.compressed_sums(TINY, found, (atlas.DENSITY,))  # the same sums, without what is learned
    for name, there in (("searched", "searched"), ("0.1", "searched, compressed")):
        assert summed["test"][name] == added["test"][there] and summed["chosen"][name] == added["chosen"][there]
    negated = atlas.negation(TINY, found, 0, "bbc")
    assert set(negated["test"]) == {"base", "searched", "learned"}
    few = atlas.few_shot(TINY, found, 0, "r8", 2)
    assert few["validation"][1] >= few["validation"][0]


def test_the_gradient_is_autograds_and_a_wrong_one_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert atlas.gradient_error() < 1e-5
    right = Composition.backward

    def wrong(self: Composition, loss: torch.Tensor) -> None:
        right(self, 1.01 * loss)

    monkeypatch.setattr(Composition, "backward", wrong)
    assert atlas.gradient_error() > 1e-3


def test_the_first_texts_of_each_class() -> None:
    from dtheta.data.text import Texts

    found = first_of_each(Texts(tuple("abcdef"), (0, 0, 1, 0, 1, 1)), 2)
    assert found.texts == ("a", "b", "c", "e")
    assert found.labels == (0, 0, 1, 1)


def test_experts_of_another_version_are_not_taken_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs are kept by version, and so is what they are made of."""

    def seen(size: Any, kind: str, seed: int, folder: Path) -> Any:
        raise LookupError(str(folder))

    monkeypatch.setattr(atlas, "experts", seen)
    with pytest.raises(LookupError, match=f"fast-{__version__}"):
        next(iter(atlas.rows(Lab("atlas", fast=True, folder=tmp_path))))
