"""Paraphrases: the same question in other words, which no unlearning was shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from dtheta.data.concepts import Question
from dtheta.probe.erasure.attack import Attack
from dtheta.probe.erasure.subject import Subject


@dataclass(frozen=True)
class Paraphrase(Attack):
    """Ask the paraphrases of each question in its place; one without any is not asked."""

    unasked: ClassVar[str] = "fewer than two questions have paraphrases"

    def asked(self, subject: Subject) -> list[tuple[Question, ...]]:
        """Return the paraphrases as questions."""
        return [tuple(replace(q, prompt=prompt, paraphrases=()) for prompt in q.paraphrases) for q in subject.target]
