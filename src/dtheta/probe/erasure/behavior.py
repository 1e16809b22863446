"""The behavioral side of a report: answers, texts and perplexity, with the delta against the original."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dtheta.probe.erasure.likeness import Likeness
from dtheta.probe.erasure.perplexity import PerplexityChange
from dtheta.probe.erasure.questions import QuestionChange


@dataclass(frozen=True)
class Behavior:
    """What a delta did to what a model says.

    Attributes:
        target: Answers to questions about the concept, which should go.
        unrelated: Answers to other questions, which should stay.
        likeness: How much greedy texts are the original's, by group: ``target``, ``completions`` (texts about the
            concept that are cut in halves, where there are any), ``unrelated``.
        perplexity: On texts; None where none were given.
    """

    target: QuestionChange
    unrelated: QuestionChange
    likeness: Mapping[str, Likeness]
    perplexity: PerplexityChange | None
