"""An attack: another way to ask, or something done to the weights, that may bring back what seemed gone.

An attack has up to three parts. Everything is asked of the model with the delta and, in the same way, of the original:

    asked    variants of each question; a question counts as answered if any of them is, as an attacker would count
    state    what is done to the model before it is asked
    control  the same done with things that have nothing to do with the concept

    recovery = (attacked - plain) / (original - plain)       plain: with the delta and without the attack

over the same questions, of accuracy and of log-probability (the best of a question's variants). 0: the attack brings
nothing back, 1: all that went. It is above 1 where the attack helps the original too, as facts in the prompt do.

Shape legend: Q questions that could be asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.delta import Delta
from dtheta.core.record import record_of
from dtheta.data.concepts import Question
from dtheta.probe.answers import AnswerScores
from dtheta.probe.erasure.paired import LEAST, Paired, means, ratio_of_loss, recovery, shares
from dtheta.probe.erasure.subject import Subject
from dtheta.score.interval import Interval


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a model answers under an attack.

    Attributes:
        places: Which of the target questions could be asked, int64 (Q,).
        exact: Whether any variant was answered, bool (Q,).
        logprob: The best log-probability of the answer among the variants, in nats, float64 (Q,).
    """

    places: Tensor
    exact: Tensor
    logprob: Tensor


@dataclass(frozen=True)
class Attack:
    """An attack. Fields are its settings."""

    #: Whether what it does to the original depends on the delta as well.
    follows_delta: ClassVar[bool] = False
    #: Said where no two questions can be asked.
    unasked: ClassVar[str] = "fewer than two questions could be asked"

    @property
    def label(self) -> str:
        """What it is called in a report."""
        return type(self).__name__.lower()

    def asked(self, subject: Subject) -> list[tuple[Question, ...]]:
        """Return the variants of each target question; none of one that cannot be asked."""
        return [(question,) for question in subject.target]

    @contextmanager
    def state(self, subject: Subject, delta: Delta, present: bool) -> Iterator[None]:
        """Run a block on the attacked model: the one with the delta or, where it is not ``present``, the original."""
        with subject.changed(delta, present):
            yield

    def outcome(self, subject: Subject, delta: Delta, present: bool = True) -> Outcome | None:
        """Attack the model with the delta, or the original; None where no two questions can be asked."""
        return self._ask(subject, lambda: self.state(subject, delta, present))

    def control(self, subject: Subject, delta: Delta) -> Outcome | None:
        """Attack the model with the delta by what has nothing to do with the concept; None where there is no such."""
        return None

    def remark(self, subject: Subject) -> str:
        """Return what a reader of the result has to know."""
        return ""

    def settings(self) -> dict[str, Any]:
        """Return the settings."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return record_of({n: value.to_dict() if hasattr(value, "to_dict") else value for n, value in values.items()})

    def _ask(self, subject: Subject, state: Any) -> Outcome | None:
        variants = self.asked(subject)
        places = [i for i, asked in enumerate(variants) if asked]
        if len(places) < LEAST:
            return None
        with state():
            scores = subject.scores([question for i in places for question in variants[i]])
        return _best(scores, places, [len(variants[i]) for i in places])


def _best(scores: AnswerScores, places: list[int], sizes: list[int]) -> Outcome:
    exact = torch.stack([part.any() for part in scores.exact.split(sizes)])
    logprob = torch.stack([part.max() for part in scores.logprob.split(sizes)])
    return Outcome(torch.tensor(places), exact, logprob)


@dataclass(frozen=True)
class Control:
    """What the same attack does with things that have nothing to do with the concept.

    Attributes:
        accuracy: Share of the questions that is answered after it.
        recovery: By accuracy.
        recovery_logprob: By log-probability.
        excess: Recovery of the attack less that of the control, by accuracy.
    """

    accuracy: Interval
    recovery: Interval | None
    recovery_logprob: Interval | None
    excess: Interval | None


@dataclass(frozen=True)
class AttackResult:
    """What an attack brings back. Numbers are None where no two questions could be asked; ``note`` says why.

    Attributes:
        name: Of the attack.
        settings: Of the attack.
        asked: How many questions could be asked.
        note: What a reader has to know.
        accuracy: Share that is answered under the attack: by the original, and with the delta.
        logprob: Mean best log-probability of the answers under the attack, likewise, in nats.
        plain: Of the same questions without the attack: by the original, and with the delta.
        recovery: Part of what went that the attack brings back, by accuracy; None where nothing went.
        recovery_logprob: The same by log-probability, which sees more.
        control: Of attacks that have one.
    """

    name: str
    settings: Mapping[str, Any]
    asked: int
    note: str = ""
    accuracy: Paired | None = None
    logprob: Paired | None = None
    plain: Paired | None = None
    recovery: Interval | None = None
    recovery_logprob: Interval | None = None
    control: Control | None = None


def attack_result(
    attack: Attack, subject: Subject, plain: AnswerScores, original: Outcome | None, delta: Delta
) -> AttackResult:
    """Attack the model with a delta and compare.

    Args:
        attack: The attack.
        subject: What is examined.
        plain: Scores of the target questions with the delta, without an attack.
        original: What the original answers under the attack.
        delta: The delta.
    """
    attacked = attack.outcome(subject, delta)
    if attacked is None or original is None:
        return AttackResult(attack.label, attack.settings(), 0, attack.unasked)
    exact, logprob = (_at(attacked.places, subject.target_scores, plain, name) for name in ("exact", "logprob"))
    return AttackResult(
        attack.label,
        attack.settings(),
        len(attacked.places),
        attack.remark(subject),
        accuracy=shares(original.exact, attacked.exact),
        logprob=means(original.logprob, attacked.logprob),
        plain=shares(*exact),
        recovery=recovery(*exact, attacked.exact),
        recovery_logprob=recovery(*logprob, attacked.logprob),
        control=_controlled(attack.control(subject, delta), attacked, exact, logprob),
    )


_Sides = tuple[Tensor, Tensor]  # of the original, and with the delta


def _at(places: Tensor, original: AnswerScores, changed: AnswerScores, name: str) -> _Sides:
    return getattr(original, name)[places], getattr(changed, name)[places]


def _controlled(found: Outcome | None, attacked: Outcome, exact: _Sides, logprob: _Sides) -> Control | None:
    if found is None:
        return None
    accuracy = shares(exact[1], found.exact).after
    excess = ratio_of_loss(attacked.exact.double() - found.exact.double(), *exact)
    return Control(accuracy, recovery(*exact, found.exact), recovery(*logprob, found.logprob), excess)
