"""In context: other facts about the concept stand before the question, never one that gives the answer away.

What is known well enough to be reached by its neighbors is not gone. A fact is left out of the prompt of every question
whose answer's words it holds, so that no answer can be copied; the original is asked with the same prompt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from dtheta.core.arguments import whole
from dtheta.data.concepts import Question
from dtheta.data.text import keyed_order
from dtheta.probe.encoded import with_answer
from dtheta.probe.erasure.attack import Attack
from dtheta.probe.erasure.subject import Subject, tells


@dataclass(frozen=True)
class InContext(Attack):
    """Ask each question after other facts.

    Attributes:
        facts: How many, at most, in an order that is drawn by seed.
    """

    facts: int = 5
    unasked: ClassVar[str] = "fewer than two questions have another fact that does not give the answer away"

    def __post_init__(self) -> None:
        """Check the number of facts.

        Raises:
            ConfigError: If it is below 1.
        """
        whole(self.facts, "facts", least=1)

    @property
    def label(self) -> str:
        """What it is called in a report."""
        return "in-context"

    def asked(self, subject: Subject) -> list[tuple[Question, ...]]:
        """Return the questions after other facts."""
        order = keyed_order(len(subject.target), subject.seed, f"probe/context/{subject.concept.name}")
        return [self._after_facts(i, [subject.target[j] for j in order], subject) for i in range(len(subject.target))]

    def _after_facts(self, i: int, facts: list[Question], subject: Subject) -> tuple[Question, ...]:
        question = subject.target[i]
        told = [fact for fact in facts if fact is not question and not tells(fact, question.answer)][: self.facts]
        if not told:
            return ()
        context = " ".join(f"{with_answer(fact).rstrip('.')}." for fact in told)
        return (replace(question, prompt=f"{context} {question.prompt}"),)
