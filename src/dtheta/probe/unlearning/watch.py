"""Watching an unlearning: what is still known of the concept, and of other things, as it goes on.

    target      of the questions about the concept that the original answers, the share still answered
    unrelated   the same for questions about other concepts, none of which is trained on

An unlearning that has gone too far is worth nothing, and on default settings most go too far. So the state that is kept
is the best that was seen of those that hold the unrelated share, the untouched model included:

    score = 1 - target - p / 10        where unrelated >= keep
            -1 - (keep - unrelated)    elsewhere, which is below the untouched model's -0.1

p: mean probability of the answers, relative to the original's, which tells apart states of equal shares.
Shape legend: Q questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from dtheta.core.arguments import number
from dtheta.data.concepts import Question
from dtheta.errors import ConfigError
from dtheta.probe.answers import AnswerScores, answer_scores


@dataclass(frozen=True)
class Checkup:
    """What a model knows at one moment.

    Attributes:
        target: Share of the concept's known questions that are still answered.
        unrelated: Share of the other known questions that are still answered.
        probability: Mean probability of the concept's answers, relative to the original's.
        unrelated_logprob: Mean change of the log-probability of the other answers, in nats.
    """

    target: float
    unrelated: float
    probability: float
    unrelated_logprob: float

    def score(self, keep: float) -> float:
        """Return how good this is; see the module's text."""
        if self.unrelated < keep:
            return -1.0 - (keep - self.unrelated)
        return 1.0 - self.target - 0.1 * min(self.probability, 2.0)

    def to_dict(self) -> dict[str, float]:
        """Return the numbers."""
        return asdict(self)


@dataclass
class Watch:
    """Looks at a model when it is called, keeps what it saw, and says how good it was.

    Attributes:
        tokenizer: Of the model.
        target: Questions about the concept.
        unrelated: Questions about other things, not trained on.
        keep: Least share of these that must stay answered.
        goal: Share of the concept's questions at which there is no need to go on.
        seen: Every checkup so far, the first of the original.
    """

    tokenizer: Any
    target: Sequence[Question]
    unrelated: Sequence[Question]
    keep: float = 0.95
    goal: float = 0.1
    seen: list[Checkup] = field(default_factory=list)
    _original: tuple[AnswerScores, AnswerScores] | None = None

    def __post_init__(self) -> None:
        """Check the shares.

        Raises:
            ConfigError: If one lies outside [0, 1], or there are no questions.
        """
        for name in ("keep", "goal"):
            if not 0.0 <= number(getattr(self, name), name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a share from 0 to 1")
        for name in ("target", "unrelated"):
            if not getattr(self, name):
                raise ConfigError(f"no {name} questions were given; expected some whose answers the model knows")

    def start(self, model: Any) -> Checkup:
        """Look at the original.

        Raises:
            ConfigError: If it answers none of the questions about the concept, or none of the others.
        """
        self._original = self._scores(model)
        for name, scores in zip(("about the concept", "about other things"), self._original, strict=True):
            if not bool(scores.exact.any()):
                raise ConfigError(
                    f"the model answers none of the {len(scores)} questions {name}, so that nothing can be seen to go "
                    "or to stay; choose concepts that it knows (dtheta.probe.recall.known)"
                )
        self.seen = [Checkup(1.0, 1.0, 1.0, 0.0)]
        return self.seen[0]

    def look(self, model: Any) -> Checkup:
        """Look at a changed model and keep what was seen."""
        if self._original is None:
            raise ConfigError("look at the original first: start(model)")
        (target, other), (target0, other0) = self._scores(model), self._original
        found = Checkup(
            _still(target, target0),
            _still(other, other0),
            float(target.logprob.exp().mean() / target0.logprob.exp().mean()),
            float((other.logprob - other0.logprob).mean()),
        )
        self.seen.append(found)
        return found

    def __call__(self, model: Any) -> float:
        """Look, and return the score: a metric of ``fit`` that brings its own data."""
        return self.look(model).score(self.keep)

    def reached(self, step: Any = None) -> bool:
        """Tell whether the last look was at the goal: a callback of ``fit``."""
        last = self.seen[-1]
        return last.target <= self.goal and last.unrelated >= self.keep

    def left(self, model: Any, places: Sequence[int]) -> float:
        """Return the share of some of the concept's known questions, by their places, that is still answered.

        It is 0 where none of them was known.
        """
        if self._original is None:
            raise ConfigError("look at the original first: start(model)")
        known = [place for place in places if bool(self._original[0].exact[place])]
        if not known:
            return 0.0
        return float(answer_scores(model, self.tokenizer, [self.target[i] for i in known]).exact.double().mean())

    def _scores(self, model: Any) -> tuple[AnswerScores, AnswerScores]:
        return tuple(answer_scores(model, self.tokenizer, asked) for asked in (self.target, self.unrelated))  # type: ignore[return-value]


def _still(now: AnswerScores, original: AnswerScores) -> float:
    known: torch.Tensor = original.exact
    return float((now.exact & known).sum() / known.sum())
