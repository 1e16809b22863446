"""Recall: which concepts a model knows, by the share of their questions that greedy decoding answers.

Only what a model knows can be unlearned, so a benchmark is made of the concepts whose recall is at least one half. The
interval of a concept with ten questions is wide (Wilson): 5 of 10 is 0.24 to 0.76. It is there to be looked at, the
choice goes by the share itself.

Shape legend: Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from dtheta.core.arguments import number
from dtheta.data.concepts import Concept, Question
from dtheta.errors import ConfigError
from dtheta.probe.answers import answer_scores
from dtheta.probe.encoded import BATCH, encode
from dtheta.score.interval import Interval, wilson

LEAST = 0.5


@dataclass(frozen=True)
class ConceptRecall:
    """How much of a concept a model knows.

    Attributes:
        concept: The concept.
        exact: For each of its questions, whether greedy decoding gives the answer.
        logprob: Of each answer, in nats, the sum over its tokens.
    """

    concept: Concept
    exact: tuple[bool, ...]
    logprob: tuple[float, ...]

    @property
    def recall(self) -> Interval:
        """Share of the questions that are answered, each counted once, with its 95 % interval."""
        each = {(q.prompt, q.answer): exact for q, exact in zip(self.concept.questions, self.exact, strict=True)}
        return wilson(sum(each.values()), len(each))


@dataclass(frozen=True)
class Known:
    """Which of some concepts a model knows, in their order.

    Attributes:
        rows: Recall of each concept.
        least: Recall from which on a concept counts as known.
    """

    rows: tuple[ConceptRecall, ...]
    least: float

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """The known ones."""
        return tuple(row.concept for row in self.rows if row.recall.estimate >= self.least)

    @property
    def unknown(self) -> tuple[Concept, ...]:
        """The others."""
        return tuple(row.concept for row in self.rows if row.recall.estimate < self.least)

    def __str__(self) -> str:
        found = f"{len(self.concepts)} of {len(self.rows)} concepts are known (recall of at least {self.least:.0%})"
        return found + (f"; not known: {', '.join(c.name for c in self.unknown)}" if self.unknown else "")


def known(
    model: nn.Module, tokenizer: Any, concepts: Sequence[Concept], *, least: float = LEAST, batch: int = BATCH
) -> Known:
    """Measure how much of each concept a model knows.

    Args:
        model: A transformers decoder with its language modeling head.
        tokenizer: Its tokenizer.
        concepts: With questions whose answers are known.
        least: Recall from which on a concept counts as known.
        batch: Questions at a time.

    Raises:
        ConfigError: If there is no concept, one has no questions with answers, the tokenizer has tokens for no answer,
            or ``least`` is not in [0, 1].
        NonFinite: If the model gives an answer no finite log-probability.
    """
    least = number(least, "least")
    if not 0 <= least <= 1:
        raise ConfigError(f"least={least} must lie between 0 and 1; it is a share of questions")
    _check_answerable(concepts)
    asked = [q for concept in concepts for q in concept.questions]
    scores = answer_scores(model, tokenizer, asked, batch=batch)
    if not bool(scores.exact.any()):
        _check_written(tokenizer, asked)
    rows, start = [], 0
    for concept in concepts:
        place = slice(start, start + len(concept.questions))
        rows.append(ConceptRecall(concept, tuple(scores.exact[place].tolist()), tuple(scores.logprob[place].tolist())))
        start = place.stop
    return Known(tuple(rows), least)


def _check_written(tokenizer: Any, asked: Sequence[Question]) -> None:
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is not None and all(unknown in row.ids[row.start :] for row in encode(tokenizer, asked)):
        raise ConfigError(
            f"the tokenizer has no tokens for any of the {len(asked)} answers, such as {asked[0].answer!r}: all have "
            "the one for what it does not know; load the tokenizer from the model's own folder, or ask in its words"
        )


def _check_answerable(concepts: Sequence[Concept]) -> None:
    if not concepts:
        raise ConfigError("no concepts were given; expected some, such as load_concepts('facts')")
    for concept in concepts:
        if not concept.questions or not all(question.answer.strip() for question in concept.questions):
            raise ConfigError(
                f"the concept {concept.name!r} has no questions with answers, so its recall cannot be measured; the "
                "published ConceptVectors have none: compare their texts with the original model's instead"
            )
