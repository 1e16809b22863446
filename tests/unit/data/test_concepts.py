"""Concepts: the shipped facts, one's own files, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.data.concepts import (
    FACTS,
    Completion,
    Concept,
    Question,
    concept_from,
    concept_record,
    load_concepts,
    read_facts,
)
from dtheta.errors import ConfigError, FormatError
from dtheta.score.text import words

FULL: dict[str, Any] = {
    "name": "France",
    "kind": "country",
    "documents": ["France is a country. Its capital is Paris."],
    "questions": [{"prompt": "The capital of France is", "answer": "Paris", "paraphrases": ["France's capital is"]}],
    "completions": [{"first": "France is", "second": "a country."}],
    "unrelated": [{"prompt": "The capital of Italy is", "answer": "Rome"}],
    "vector": [29, 864],
}
TEXT = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=12).filter(str.strip)
QUESTION = st.builds(Question, TEXT, st.one_of(st.just(""), TEXT), st.lists(TEXT, max_size=2).map(tuple))
CONCEPTS = st.builds(
    Concept,
    name=TEXT,
    kind=st.one_of(st.just(""), TEXT),
    documents=st.lists(TEXT, max_size=2).map(tuple),
    questions=st.lists(QUESTION, max_size=3).map(tuple),
    completions=st.lists(st.builds(Completion, TEXT, TEXT), max_size=2).map(tuple),
    unrelated=st.lists(QUESTION, max_size=2).map(tuple),
    vector=st.one_of(st.none(), st.tuples(st.integers(0, 99), st.integers(0, 9999))),
)


def written(folder: Path, *records: Any, name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_the_facts_are_questions_about_many_concepts() -> None:
    concepts = load_concepts("facts")
    assert len(concepts) >= 45
    assert {concept.kind for concept in concepts} >= {
        "country",
        "religion",
        "animal",
        "sport",
        "body",
        "food",
        "person",
    }
    for concept in concepts:
        assert len(concept.questions) == 10, concept.name
        for question in concept.questions:
            forms = (question.prompt, *question.paraphrases)
            assert len(forms) >= 2
            assert len(set(forms)) == len(forms)
            assert all(form == form.strip() for form in (*forms, question.answer))


def test_no_prompt_of_the_facts_asks_twice_or_gives_its_answer_away() -> None:
    concepts = load_concepts()
    prompts = Counter(q.prompt for concept in concepts for q in concept.questions)
    assert max(prompts.values()) == 1
    for concept in concepts:
        for question in concept.questions:
            for form in (question.prompt, *question.paraphrases):
                assert not set(words(question.answer)) <= set(words(form)), (form, question.answer)


def test_a_document_of_the_facts_holds_the_answers_and_no_paraphrase() -> None:
    for concept in load_concepts():
        (document,) = concept.documents
        for question in concept.questions:
            assert f"{question.prompt} {question.answer}." in document
            assert not any(form in document for form in question.paraphrases)


def test_a_row_of_the_facts_needs_all_its_fields(tmp_path: Path) -> None:
    path = tmp_path / "facts.tsv"
    path.write_text(FACTS.read_text(encoding="utf-8").splitlines()[0] + "\ncountry\tFrance\tThe capital is\t\tIt is\n")
    with pytest.raises(FormatError, match="line 2: 'answer' is empty"):
        read_facts(path)


def test_one_file_of_ones_own_holds_a_concept_a_line(tmp_path: Path) -> None:
    full, bare = load_concepts(written(tmp_path, FULL, {"name": "Italy"}))
    assert full == Concept(
        "France",
        "country",
        ("France is a country. Its capital is Paris.",),
        (Question("The capital of France is", "Paris", ("France's capital is",)),),
        (Completion("France is", "a country."),),
        (Question("The capital of Italy is", "Rome"),),
        (29, 864),
    )
    assert bare == Concept("Italy")


@given(CONCEPTS)
def test_a_concept_survives_json(concept: Concept) -> None:
    assert concept_from(json.loads(json.dumps(concept_record(concept))), "here") == concept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "line 2: 'name' is empty"),
        ({"vektor": [1, 2]}, "no field 'vektor'.* did you mean 'vector'"),
        ({"documents": "one text"}, "documents: expected a list of texts"),
        ({"questions": {"prompt": "a"}}, "questions: expected a list"),
        ({"questions": ["a"]}, "questions 1: expected a question as a JSON object, found 'a'"),
        ({"questions": [{"prompt": "a", "reply": "b"}]}, "questions 1: a question has no field 'reply'"),
        ({"questions": [{"prompt": "a", "answer": 3}]}, "questions 1: 'answer' must be a string, found int"),
        ({"questions": [{"prompt": "a", "answer": "b", "paraphrases": "c"}]}, "paraphrases: expected a list of texts"),
        ({"completions": [{"first": "a", "second": ""}]}, "completions 1: 'second' is empty"),
        ({"vector": [1]}, "vector: expected layer and column"),
        ({"vector": [1, -2]}, "vector: expected layer and column"),
        ({"vector": [1, True]}, "vector: expected layer and column"),
        ({"kind": 3}, "'kind' must be a string"),
    ],
)
def test_a_line_that_is_no_concept_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(FormatError, match=f"own.jsonl, line 2.*{said}|{said}"):
        load_concepts(written(tmp_path, {"name": "first"}, {**FULL, **change}))


def test_a_prompt_and_a_name_are_required(tmp_path: Path) -> None:
    for record in ({"kind": "x"}, {"name": "x", "questions": [{"answer": "y"}]}):
        with pytest.raises(ConfigError, match=r"no column 'name'|no column 'prompt'"):
            load_concepts(written(tmp_path, record))


def test_two_concepts_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="two concepts 'France'"):
        load_concepts(written(tmp_path, FULL, FULL))


def test_an_unknown_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no concepts 'fact'.*did you mean 'facts'"):
        load_concepts("fact")
    with pytest.raises(ConfigError, match="there is no file"):
        load_concepts(tmp_path / "missing.jsonl")
