"""Facts before a question: never the one that is asked, nor one that gives its answer away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dtheta.data.concepts import Question
from dtheta.errors import ConfigError
from dtheta.probe.encoded import with_answer
from dtheta.probe.erasure.in_context import InContext
from tests.unit.probe.erasure.examined import gone, subject_of
from tests.unit.probe.planted import network


@pytest.mark.parametrize("facts", [1, 2, 9])
def test_no_prompt_holds_its_answer(facts: int) -> None:
    examined = subject_of(network())
    for question, (asked,) in zip(examined.target, InContext(facts).asked(examined), strict=True):
        told = asked.prompt.removesuffix(question.prompt)
        assert asked.prompt.endswith(f" {question.prompt}") and question.answer not in told
        assert told.count(".") == min(facts, len(examined.target) - 1)
        assert question.prompt not in told
        assert all(with_answer(other) in told for other in examined.target if other is not question) or facts < 4


def test_a_fact_with_the_same_answer_is_left_out() -> None:
    examined = subject_of(network())
    target = (Question("a is", "x"), Question("b is", "x"), Question("c is", "y"))
    asked = InContext(5).asked(replace(examined, target=target))
    assert [one.prompt for variants in asked for one in variants][:2] == ["c is y. a is", "c is y. b is"]
    assert set(asked[2][0].prompt.split(". ")[:2]) == {"a is x", "b is x"}


def test_the_asked_fact_is_left_out_whatever_its_answer() -> None:
    """An answer without a word in it is given away by no fact but its own."""
    target = (Question("a is", "++"), Question("b is", "--"))
    asked = InContext().asked(replace(subject_of(network()), target=target))
    assert [one.prompt for (one,) in asked] == ["b is --. a is", "a is ++. b is"]


def test_a_question_without_other_facts_is_not_asked() -> None:
    model = network()
    examined = replace(subject_of(model), target=(Question("a is", "x"), Question("b is", "x")))
    assert InContext().asked(examined) == [(), ()] and InContext().outcome(examined, gone(model)) is None


def test_the_order_is_drawn_by_seed() -> None:
    examined = subject_of(network())
    prompts = {InContext(1).asked(replace(examined, seed=seed))[0][0].prompt for seed in range(8)}
    assert len(prompts) > 1 and InContext(1).asked(examined) == InContext(1).asked(examined)


def test_no_facts_are_refused() -> None:
    with pytest.raises(ConfigError, match="facts"):
        InContext(0)
