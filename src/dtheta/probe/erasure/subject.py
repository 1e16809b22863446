"""What an erasure is measured on: a model with its tokenizer, a concept, what is asked, and what the original answers.

Shape legend: Q questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.probe.answers import AnswerScores, answer_scores
from dtheta.probe.encoded import each_once, with_answer
from dtheta.probe.erasure.paired import LEAST
from dtheta.score.text import words


@dataclass(frozen=True, eq=False)
class Subject:
    """What is examined; ``subject`` makes it.

    Attributes:
        model: The decoder as it was, without any delta.
        tokenizer: Its tokenizer.
        concept: What is to be gone.
        target: The questions about it whose answers are known.
        unrelated: Questions about other things.
        target_scores: What the original answers to the first.
        unrelated_scores: What it answers to the others.
        seed: Of all draws.
    """

    model: nn.Module
    tokenizer: Any
    concept: Concept
    target: tuple[Question, ...]
    unrelated: tuple[Question, ...]
    target_scores: AnswerScores
    unrelated_scores: AnswerScores
    seed: int

    @contextmanager
    def changed(self, delta: Delta, present: bool = True) -> Iterator[None]:
        """Run a block on the model with the delta, or, where it is not ``present``, as it was."""
        if not present:
            yield
            return
        with applied(self.model, delta):
            yield

    def scores(self, questions: Sequence[Question]) -> AnswerScores:
        """Score answers in the state that the model is in."""
        return answer_scores(self.model, self.tokenizer, questions)


def subject(model: nn.Module, tokenizer: Any, concept: Concept, unrelated: Sequence[Question], seed: int) -> Subject:
    """Ask the original and return what is examined.

    Raises:
        ConfigError: If the concept or the unrelated have fewer than two questions with answers, a question is on both
            sides, or the tokenizer is another model's.
        NonFinite: If the model gives an answer no finite log-probability.
    """
    target = _answerable(concept.questions, f"about {concept.name!r}")
    others = _answerable(unrelated, "about other things")
    asked = {(question.prompt, question.answer) for question in target}
    if both := next((q for q in others if (q.prompt, q.answer) in asked), None):
        raise ConfigError(
            f"{both.prompt!r} is asked about {concept.name!r} and about other things; what should go cannot be what "
            "should stay"
        )
    known, kept = (answer_scores(model, tokenizer, asked) for asked in (target, others))
    return Subject(model, tokenizer, concept, target, others, known, kept, seed)


def tells(fact: Question, answer: str) -> bool:
    """Tell whether a fact, prompt and answer, gives another answer away: holds its words in a row."""
    said, wanted = words(with_answer(fact)), words(answer)
    return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in range(len(said)))


def _answerable(questions: Sequence[Question], about: str) -> tuple[Question, ...]:
    """Return the questions with answers, each once: asked twice it would make the intervals too narrow."""
    found = tuple(each_once(questions))
    if len(found) < LEAST:
        raise ConfigError(
            f"{len(found)} questions {about} have answers; an interval takes {LEAST}, a useful one ten or more"
        )
    return found
