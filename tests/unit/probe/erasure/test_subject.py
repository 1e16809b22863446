"""What is examined: what the original answers, what gives an answer away, too few questions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dtheta.data.concepts import Question
from dtheta.errors import ConfigError
from dtheta.probe.erasure.subject import subject, tells
from tests.unit.probe.erasure.examined import UNRELATED, france, gone, subject_of
from tests.unit.probe.planted import Words, concepts, network


def test_the_original_is_asked_and_the_delta_is_on_in_a_block_alone() -> None:
    model = network()
    examined = subject_of(model)
    assert bool(examined.target_scores.exact.all()) and len(examined.unrelated) == len(UNRELATED)
    delta = gone(model)
    with examined.changed(delta):
        assert not bool(examined.scores(examined.target).exact.any())
    with examined.changed(delta, present=False):
        assert torch.equal(examined.scores(examined.target).logprob, examined.target_scores.logprob)


def test_questions_without_answers_are_left_out() -> None:
    concept = replace(france(), questions=(*france().questions, Question("what is it", "")))
    assert len(subject(network(), Words(), concept, UNRELATED, 0).target) == len(france().questions)


def test_a_question_that_is_given_twice_counts_once() -> None:
    concept = replace(france(), questions=france().questions * 2)
    assert subject(network(), Words(), concept, UNRELATED * 3, 0).target == france().questions
    assert subject(network(), Words(), concept, UNRELATED * 3, 0).unrelated == UNRELATED


def test_what_should_go_cannot_be_what_should_stay() -> None:
    with pytest.raises(ConfigError, match=r"'capital of france is' is asked about 'france' and about other things"):
        subject(network(), Words(), france(), (*UNRELATED, concepts()[0].questions[0]), 0)


@pytest.mark.parametrize("side", ["target", "unrelated"])
def test_too_few_questions_are_refused(side: str) -> None:
    concept = replace(france(), questions=france().questions[:1]) if side == "target" else france()
    unrelated = UNRELATED[:1] if side == "unrelated" else UNRELATED
    with pytest.raises(ConfigError, match="1 questions about"):
        subject(network(), Words(), concept, unrelated, 0)


@pytest.mark.parametrize(
    ("prompt", "answer", "asked", "given_away"),
    [
        ("The capital of France is", "Paris", "Paris", True),
        ("The Louvre, in Paris, shows", "the Mona Lisa", "paris", True),
        ("The Louvre shows", "the Mona Lisa", "Mona Lisa", True),
        ("The Louvre shows", "Mona and Lisa", "Mona Lisa", False),
        ("The parish is", "old", "Paris", False),
        ("It is", "?", "!", False),
    ],
)
def test_a_fact_tells_an_answer_whose_words_it_holds(prompt: str, answer: str, asked: str, given_away: bool) -> None:
    assert tells(Question(prompt, answer), asked) is given_away
