"""Answers before and after, from given scores."""

from __future__ import annotations

import pytest
import torch

from dtheta.probe.answers import AnswerScores
from dtheta.probe.erasure.questions import question_change
from dtheta.score.interval import wilson


def scores(exact: list[bool], logprob: list[float]) -> AnswerScores:
    return AnswerScores(
        torch.tensor(logprob, dtype=torch.float64), torch.ones(len(exact), dtype=torch.int64), torch.tensor(exact)
    )


def test_kept_are_those_once_known_alone() -> None:
    before = scores([True, True, True, False], [-1.0, -1.0, -1.0, -8.0])
    after = scores([True, False, False, True], [-1.0, -9.0, -5.0, -1.0])
    found = question_change(before, after)
    assert (found.asked, found.known, found.kept) == (4, 3, wilson(1, 3))
    assert found.accuracy.after == wilson(2, 4)
    assert found.logprob.change.estimate == pytest.approx((0 - 8 - 4 + 7) / 4)


def test_of_nothing_known_nothing_is_kept() -> None:
    nothing = scores([False, False], [-8.0, -9.0])
    assert question_change(nothing, scores([True, True], [-1.0, -1.0])).kept is None
