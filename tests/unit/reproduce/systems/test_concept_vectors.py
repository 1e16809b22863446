"""Rows of ConceptVectors on planted runs, and the count of numbers that change outside of value vectors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.data.concepts import Concept, Question
from dtheta.probe.ablation import noise
from dtheta.probe.value_vector import ValueVector
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import concept_vectors as cv
from tests.unit.probe.decoders import llama
from tests.unit.probe.memorized import known_concepts
from tests.unit.probe.word_tokens import PLAIN, word_tokenizer

CONCEPTS = [Concept(name, questions=(Question("a", "b"),)) for name in ("one", "two", "three", "four")]


def _planted(good: bool) -> Any:
    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        jitter = 0.01 * len(setting)
        if experiment == "traces":
            target = 2.0 if good else 0.1
            return {
                "traces": {
                    name: {"vectors": ["0/1/+"], "target": target + 0.1 * i, "others": 0.7, "null": [0.6, 0.6]}
                    for i, name in enumerate(("one", "two", "three"))
                }
            }
        needle = setting.endswith(cv.NEEDLE)
        return {
            "target": (3.0 if needle == good else 1.0) + jitter, "unrelated": 0.5,
            "jaccard": (0.95 if good else 0.2) + jitter / 100, "back": (0.1 if needle == good else 0.8) + jitter,
            "elsewhere": 0 if good else 5,
        }  # fmt: skip

    return kept


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("good", [True, False])
def test_outcomes_follow_the_runs(good: bool, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lab, "run", _planted(good))
    monkeypatch.setattr(cv, "concepts", lambda names, questions: CONCEPTS)
    outcomes = {row.claim.name: row.outcome for row in cv.rows(Lab("concept-vectors", fast=fast))}
    assert outcomes.pop("one vector, judged by readers") == "not testable here"
    assert set(outcomes.values()) == {"holds" if good else "does not hold"}


def test_a_training_that_changed_nothing_is_no_sign_that_traces_stay() -> None:
    """Its delta is zero, so that all tokens are the same: counted, the claim could not fail."""
    none, some = {"target": 0.0, "unrelated": 0.0, "jaccard": 1.0}, {"target": 2.0, "unrelated": 0.1, "jaccard": 0.2}
    runs = {cv.NEEDLE: [some, some, some], "GradDiff": [none, some, some | {"jaccard": 0.21}]}
    row = cv._leaves_row("here", runs, ["GradDiff"])
    assert row.outcome == "does not hold" and "Not counted: 1 of 3 trainings" in row.note
    nothing = cv._leaves_row("here", runs | {"GradDiff": [none, none]}, ["GradDiff"])
    assert nothing.outcome == "not testable here" and nothing.note == "None of 2 trainings changed the model."


def test_nothing_can_come_back_where_nothing_went() -> None:
    runs = {cv.NEEDLE: [{"back": None}, {"back": 0.1}], "GradDiff": [{"back": 0.5}, {"back": 0.6}]}
    row = cv._recovery_row("here", runs, ["GradDiff"], 5)
    assert row.outcome == "not testable here"
    assert "Fewer than two" in row.note


def test_numbers_outside_of_the_vectors_are_counted() -> None:
    model = llama()
    vectors = [ValueVector(0, 2), ValueVector(0, 5)]
    delta = noise(model, vectors, strength=1.0, seed=0)
    assert cv.elsewhere(model, delta, vectors) == 0
    assert cv.elsewhere(model, delta, vectors[:1]) > 0
    (name,) = delta
    wide = Delta({name: Dense(torch.ones(delta[name].shape))})
    rows, columns = delta[name].shape
    assert cv.elsewhere(model, wide, vectors) == rows * (columns - 2)


def test_concepts_are_traced_and_unlearned(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    listed = [replace(concept, documents=(f"{concept.name} tells",)) for concept in known_concepts(model)]
    monkeypatch.setattr(cv.Base, "pretrained", lambda self: (model, word_tokenizer(PLAIN)))
    monkeypatch.setattr(cv, "load_concepts", lambda source: listed)
    monkeypatch.setattr(cv, "COUNT", 4)
    size = replace(cv.FAST, names=("alpha", "beta", "gamma", "delta"), traced=2, layers=None, draws=1)
    chosen = cv.concepts(size.names, 4)
    assert len(chosen) == 4
    assert all(len(concept.questions) == 4 for concept in chosen)
    traces = cv.traced(chosen, size)
    assert list(traces) == [concept.name for concept in chosen[:2]]
    name = chosen[0].name
    vectors = [ValueVector.parse(text) for text in traces[name]["vectors"]]
    needle, trained = (cv.unlearned(chosen, chosen[0], vectors, way, size, 0) for way in size.methods)
    assert needle["elsewhere"] == 0
    assert needle["jaccard"] <= trained["jaccard"] <= 1
