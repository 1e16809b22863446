"""Recall: what a model answers is counted, and what it does not know is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dtheta.data.concepts import Concept, Question, load_concepts
from dtheta.errors import ConfigError
from dtheta.models.load import load_model
from dtheta.probe.answers import answer_scores
from dtheta.probe.encoded import answered
from dtheta.probe.recall import known
from dtheta.score.interval import wilson
from tests.unit.probe.decoders import llama
from tests.unit.probe.memorized import forgotten, known_concepts
from tests.unit.probe.word_tokens import word_tokenizer


@pytest.fixture
def model() -> Any:
    return llama(eos_token_id=None)


def test_a_concept_is_known_from_the_least_share_on(model: Any) -> None:
    alpha, beta, gamma, delta = known_concepts(model)
    concepts = [alpha, forgotten(beta, 3), forgotten(gamma, 4), forgotten(delta, 6)]
    found = known(model, word_tokenizer(), concepts)
    assert [row.recall for row in found.rows] == [wilson(right, 6) for right in (6, 3, 2, 0)]
    assert [concept.name for concept in found.concepts] == ["alpha", "beta"]
    assert [concept.name for concept in found.unknown] == ["gamma", "delta"]
    assert str(found) == "2 of 4 concepts are known (recall of at least 50%); not known: gamma, delta"
    assert len(known(model, word_tokenizer(), concepts, least=0).concepts) == 4
    assert len(known(model, word_tokenizer(), concepts, least=1).concepts) == 1


def test_rows_are_the_scores_of_their_own_questions(model: Any) -> None:
    concepts = [forgotten(concept, i) for i, concept in enumerate(known_concepts(model))]
    for row in known(model, word_tokenizer(), concepts, batch=5).rows:
        alone = answer_scores(model, word_tokenizer(), row.concept.questions)
        assert row.exact == tuple(alone.exact.tolist())
        assert row.logprob == pytest.approx(alone.logprob.tolist(), rel=1e-5, abs=1e-5)


def test_a_token_for_what_the_tokenizer_does_not_know_is_no_answer() -> None:
    """Before, a model that writes that token knew every concept whose words the tokenizer does not have."""
    writes_w0 = llama(eos_token_id=None, tie_word_embeddings=False)
    with torch.no_grad():
        writes_w0.get_output_embeddings().weight.zero_()  # type: ignore[operator]
    tokenizer = word_tokenizer()
    tokenizer.unk_token = "w0"
    asked = Question("w3 w4", "Paris")
    assert not answer_scores(writes_w0, tokenizer, [asked]).exact.any()
    found = known(
        writes_w0, tokenizer, [Concept("France", questions=(asked,)), Concept("two", questions=(Question("w5", "w2"),))]
    )
    assert not found.concepts
    with pytest.raises(ConfigError, match="has no tokens for any of the 1 answers, such as 'Paris'"):
        known(writes_w0, tokenizer, [Concept("France", questions=(asked,))])


def test_a_question_that_is_given_twice_counts_once(model: Any) -> None:
    """Before, twice the same ten questions made an interval as narrow as that of twenty."""
    one = known_concepts(model)[0]
    twice = replace(one, questions=one.questions * 2)
    rows = [known(model, word_tokenizer(), [concept]).rows[0] for concept in (one, twice)]
    assert rows[0].recall == rows[1].recall and len(rows[1].exact) == 2 * len(rows[0].exact)
    assert answered(twice) == answered(one)


@pytest.mark.parametrize(
    "concept", [Concept("bare"), Concept("open", questions=(Question("w1", "w2"), Question("w3", "")))]
)
def test_a_concept_without_answers_is_refused(model: Any, concept: Concept) -> None:
    with pytest.raises(ConfigError, match=f"'{concept.name}' has no questions with answers"):
        known(model, word_tokenizer(), [concept])


def test_bad_arguments_are_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="no concepts were given"):
        known(model, word_tokenizer(), [])
    with pytest.raises(ConfigError, match="between 0 and 1"):
        known(model, word_tokenizer(), known_concepts(model), least=1.5)


def test_smollm2_knows_countries_and_not_halloween(smollm2_tokenizer: Any) -> None:
    wanted = [concept for concept in load_concepts("facts") if concept.name in ("France", "Halloween")]
    with torch.inference_mode():
        found = known(load_model("smollm2"), smollm2_tokenizer, wanted)
    assert [concept.name for concept in found.concepts] == ["France"]
    assert [concept.name for concept in found.unknown] == ["Halloween"]
