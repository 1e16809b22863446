"""Paraphrases in the place of questions."""

from __future__ import annotations

from dataclasses import replace

from dtheta.probe.erasure.attacks import ATTACKS
from dtheta.probe.erasure.paraphrase import Paraphrase
from tests.unit.probe.erasure.examined import gone, subject_of
from tests.unit.probe.planted import network


def test_each_question_is_asked_in_other_words() -> None:
    model = network()
    examined = subject_of(model)
    asked = Paraphrase().asked(examined)
    for question, variants in zip(examined.target, asked, strict=True):
        assert [one.prompt for one in variants] == list(question.paraphrases) and question.prompt not in variants
        assert {one.answer for one in variants} == {question.answer}
    found = Paraphrase().outcome(examined, gone(model), present=False)
    assert found is not None and bool(found.exact.all())


def test_questions_without_any_are_not_asked() -> None:
    model = network()
    examined = subject_of(model)
    bare = replace(examined, target=tuple(replace(question, paraphrases=()) for question in examined.target))
    assert Paraphrase().outcome(bare, gone(model)) is None and "paraphrases" in Paraphrase.unasked


def test_the_attacks_are_known_by_name() -> None:
    assert {name: kind.__name__ for name, kind in ATTACKS.items()} == {name: name for name in ATTACKS}
