"""Attacks in general: variants, what both models answer, recovery, questions that cannot be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.data.concepts import Question
from dtheta.probe.answers import answer_scores
from dtheta.probe.erasure.attack import Attack, attack_result
from dtheta.probe.erasure.subject import Subject
from tests.unit.probe.erasure.examined import gone, hidden, subject_of
from tests.unit.probe.planted import Words, network


@dataclass(frozen=True)
class Twice(Attack):
    """Asks the first three questions in a way that fails, and as they are."""

    def asked(self, subject: Subject) -> list[tuple[Question, ...]]:
        wrong = Question("is of", "pad")
        return [(Question(wrong.prompt, q.answer), q) if i < 3 else () for i, q in enumerate(subject.target)]


@dataclass(frozen=True)
class Undoing(Attack):
    """Takes the delta off again: everything comes back."""

    def outcome(self, subject: Subject, delta: Delta, present: bool = True) -> object:  # type: ignore[override]
        return super().outcome(subject, delta, present=False)

    def control(self, subject: Subject, delta: Delta) -> object:  # type: ignore[override]
        return super().outcome(subject, delta)


@dataclass(frozen=True)
class Once(Attack):
    """Can ask one question alone."""

    def asked(self, subject: Subject) -> list[tuple[Question, ...]]:
        return [(question,) if i == 0 else () for i, question in enumerate(subject.target)]


def measured(attack: Attack, make: Any) -> Any:
    model = network()
    examined, delta = subject_of(model), make(model)
    with examined.changed(delta):
        plain = examined.scores(examined.target)
    original = attack.outcome(examined, delta, present=False)
    return attack_result(attack, examined, plain, original, delta)


def test_a_question_counts_as_answered_if_any_variant_is() -> None:
    model = network()
    examined = subject_of(model)
    found = Twice().outcome(examined, gone(model), present=False)
    assert found is not None and found.places.tolist() == [0, 1, 2] and bool(found.exact.all())
    plain = answer_scores(model, Words(), examined.target[:3]).logprob
    torch.testing.assert_close(found.logprob, plain)
    with applied(model, gone(model)):
        assert not bool(examined.scores(examined.target[:3]).exact.any())


def test_what_comes_back_as_a_whole_has_recovery_one() -> None:
    found = measured(Undoing(), gone)
    assert found.recovery.estimate == found.recovery_logprob.estimate == pytest.approx(1.0)
    assert (found.accuracy.before.estimate, found.accuracy.after.estimate, found.plain.after.estimate) == (1, 1, 0)
    assert found.control.recovery.estimate == 0.0 and found.control.accuracy.estimate == 0.0
    assert found.control.excess.estimate == 1.0


def test_without_an_attack_nothing_comes_back() -> None:
    found = measured(Attack(), hidden)
    assert found.recovery.estimate == 0.0 and found.control is None and found.asked == 5
    assert found.recovery_logprob.estimate == pytest.approx(0.0, abs=1e-6)


def test_too_few_questions_are_told_and_not_scored() -> None:
    found = measured(Once(), gone)
    assert (found.asked, found.accuracy, found.recovery) == (0, None, None) and "fewer than two" in found.note
