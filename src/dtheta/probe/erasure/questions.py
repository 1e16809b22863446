"""Questions before and after: how many are answered, how many of those once answered still are, how likely answers are.

accuracy  share of the questions that greedy decoding answers
kept      of those that the original answers, the share that is answered still
logprob   mean over questions of log P(answer | prompt), in nats, the sum over the answer's tokens
"""

from __future__ import annotations

from dataclasses import dataclass

from dtheta.probe.answers import AnswerScores
from dtheta.probe.erasure.paired import Paired, means, share, shares
from dtheta.score.interval import Interval


@dataclass(frozen=True)
class QuestionChange:
    """What a delta did to answers.

    Attributes:
        asked: How many questions.
        known: How many of them the original answers.
        accuracy: Share that is answered, in [0, 1].
        kept: Share of the known ones that is answered still; None where none was known.
        logprob: Mean log-probability of the answers, in nats.
    """

    asked: int
    known: int
    accuracy: Paired
    kept: Interval | None
    logprob: Paired


def question_change(before: AnswerScores, after: AnswerScores) -> QuestionChange:
    """Compare scores of the same two or more questions."""
    known = before.exact
    kept = share(after.exact[known]) if bool(known.any()) else None
    accuracy, logprob = shares(before.exact, after.exact), means(before.logprob, after.logprob)
    return QuestionChange(len(before), int(known.sum()), accuracy, kept, logprob)
