"""Benchmarks: what is drawn depends on the seed and the names, and a saved one is read back whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dtheta.core.fingerprint import fingerprint
from dtheta.data.concepts import Completion, Concept, Question
from dtheta.errors import ConfigError, FormatError
from dtheta.probe.benchmark import build_benchmark, halves, load_benchmark, unrelated_questions
from tests.unit.probe.decoders import llama
from tests.unit.probe.memorized import forgotten, known_concepts
from tests.unit.probe.word_tokens import word_tokenizer

SENTENCE = "one two three four five six seven eight nine."
MANY = [Concept(f"thing{i}", questions=(Question(f"It is {i} of", f"those{i}"),)) for i in range(12)]


@pytest.fixture
def model() -> Any:
    return llama(eos_token_id=None)


def test_a_benchmark_holds_what_the_model_knows(model: Any) -> None:
    alpha, beta, gamma, delta = known_concepts(model)
    alpha = replace(alpha, documents=(SENTENCE,))
    made = build_benchmark(model, word_tokenizer(), [alpha, forgotten(beta, 5), gamma, delta], others=2)
    assert [concept.name for concept in made.concepts] == ["alpha", "gamma", "delta"]
    assert made.unknown == ("beta",)
    assert made.base == fingerprint(model).digest
    assert made["alpha"].questions == alpha.questions
    assert made["alpha"].completions == (Completion("one two three four five", "six seven eight nine."),)
    assert set(made["alpha"].unrelated) == {*gamma.questions, *delta.questions}
    assert len(made) == 3


def test_what_a_concept_brings_along_is_kept(model: Any) -> None:
    own = {"unrelated": (Question("w1", "w2"),), "completions": (Completion("w1", "w2"),)}
    concepts = [replace(concept, documents=(SENTENCE,), **own) for concept in known_concepts(model)]
    made = build_benchmark(model, word_tokenizer(), concepts)
    assert list(made.concepts) == concepts


def drawn(concept: Concept, concepts: list[Concept], **more: int) -> list[str]:
    return [question.answer for question in unrelated_questions(concept, concepts, **more)]


def test_unrelated_questions_are_those_of_five_others_whatever_the_order() -> None:
    found = drawn(MANY[0], MANY)
    assert len(set(found)) == 5
    assert "those0" not in found
    assert drawn(MANY[0], MANY[::-1]) == found
    assert drawn(MANY[0], MANY, seed=1) != found
    assert drawn(MANY[1], MANY) != found
    assert drawn(MANY[0], MANY, others=2) == found[:2]


def test_one_concept_more_changes_at_most_one_of_the_five() -> None:
    for concept in MANY[:-1]:
        assert len(set(drawn(concept, MANY)) - set(drawn(concept, MANY[:-1]))) <= 1


def test_questions_that_speak_of_the_concept_are_no_unrelated_ones() -> None:
    dogs = Concept("dogs")
    others = [
        Concept("cats", questions=(Question("The enemy of the cat is the", "dog"), Question("A cat has", "fur"))),
        Concept("fish", questions=(Question("Unlike Dogs, fish have", "gills"), Question("Fish live in", "water"))),
        Concept("bees", questions=(Question("Bees are", "insects", ("Unlike dogs, bees are",)),)),
    ]
    assert set(drawn(dogs, [dogs, *others])) == {"fur", "water"}
    einstein = Concept("Albert Einstein")
    assert drawn(einstein, [einstein, Concept("bomb", questions=(Question("Einstein feared the", "bomb"),))]) == []


def test_sentences_are_cut_in_the_middle_and_short_ones_left_out() -> None:
    concept = Concept("x", documents=(f"Too short. {SENTENCE} {SENTENCE}\nA heading\n" + "w " * 7 + "end!",))
    assert halves(concept) == (
        Completion("one two three four five", "six seven eight nine."),
        Completion("w w w w", "w w w end!"),
    )
    assert halves(concept, 0) == ()


def test_completions_are_drawn_by_seed_and_stand_in_order() -> None:
    sentences = [f"{i} " + " ".join("abcdefgh") + "." for i in range(30)]
    concept = Concept("x", documents=(" ".join(sentences),))
    numbers = [int(completion.first.split()[0]) for completion in halves(concept, 10)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 10
    assert halves(concept, 10) == halves(concept, 10, 0)
    assert halves(concept, 10, 1) != halves(concept, 10, 0)


def test_a_saved_benchmark_is_read_back(model: Any, tmp_path: Path) -> None:
    concepts = [replace(concept, documents=(SENTENCE,), vector=(1, 2)) for concept in known_concepts(model)]
    made = build_benchmark(model, word_tokenizer(), [*concepts[:3], forgotten(concepts[3], 6)], seed=3)
    made.save(tmp_path / "set.json")
    assert load_benchmark(tmp_path / "set.json") == made


def test_a_concept_that_is_not_there_is_said_to_be_unknown_or_misspelled(model: Any) -> None:
    alpha, beta, gamma, _ = known_concepts(model)
    made = build_benchmark(model, word_tokenizer(), [alpha, beta, forgotten(gamma, 6)])
    with pytest.raises(ConfigError, match="does not know 'gamma': it answers less than 50%"):
        made["gamma"]
    with pytest.raises(ConfigError, match="no concept 'alfa'; did you mean 'alpha'"):
        made["alfa"]


def test_a_model_that_knows_too_little_is_refused(model: Any) -> None:
    alpha, *others = known_concepts(model)
    with pytest.raises(ConfigError, match=r"two concepts or more .* but 1 of 4 concepts are known"):
        build_benchmark(model, word_tokenizer(), [alpha, *(forgotten(concept, 6) for concept in others)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "is no benchmark"),
        ({"concepts": None}, "damaged benchmark"),
        ({"concepts": []}, "holds no concepts"),
        ({"concepts": [{"name": 3}]}, "concept 1: 'name' must be a string"),
        ({"least": "much"}, "damaged benchmark"),
        ({"unknown": 3}, "unknown: expected a list of texts"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    record = {
        "format": "dtheta-concepts/1",
        "base": "x",
        "seed": 0,
        "least": 0.5,
        "unknown": [],
        "concepts": [{"name": "a"}],
    }
    (tmp_path / "set.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(FormatError, match=said):
        load_benchmark(tmp_path / "set.json")
    with pytest.raises(ConfigError, match="no file"):
        load_benchmark(tmp_path / "other.json")
