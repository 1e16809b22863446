"""Pairs before and after, against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.probe.erasure.paired import bounded_mean, means, ratio_of_loss, recovery, share, shares
from dtheta.score.interval import wilson

BEFORE, AFTER = torch.tensor([1, 1, 1, 0, 1], dtype=torch.bool), torch.tensor([0, 1, 0, 0, 0], dtype=torch.bool)


def test_shares_are_of_the_same_questions() -> None:
    found = shares(BEFORE, AFTER)
    assert found.before == wilson(4, 5) == share(BEFORE) and found.after == wilson(1, 5)
    assert found.change.estimate == pytest.approx(-0.6) and found.change.low < -0.6 < found.change.high


def test_means_are_paired() -> None:
    before, after = torch.tensor([-1.0, -5.0, -9.0]), torch.tensor([-2.0, -6.1, -9.9])
    found = means(before, after)
    assert (found.before.estimate, found.after.estimate, found.change.estimate) == pytest.approx((-5.0, -6.0, -1.0))
    assert found.change.high < 0.0 < found.after.high - found.before.low  # apart only because they are paired


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=2, max_size=12))
def test_recovery_is_the_part_of_what_went_that_came_back(rows: list[tuple[bool, bool, bool]]) -> None:
    before, after, attacked = (torch.tensor(column) for column in zip(*rows, strict=True))
    a, b, c = (sum(column) for column in zip(*rows, strict=True))
    found = recovery(before, after, attacked)
    if a <= b:
        assert found is None  # nothing went, so nothing can come back
    elif found is not None:
        assert math.isclose(found.estimate, (c - b) / (a - b), abs_tol=1e-9)
        assert found.low <= found.estimate <= found.high and math.isfinite(found.low) and math.isfinite(found.high)


@pytest.mark.parametrize("back", [True, False])
def test_where_all_questions_agree_few_of_them_are_no_certainty(back: bool) -> None:
    known, attacked = torch.tensor([True] * 4 + [False]), torch.tensor([back] * 4 + [False])
    assert recovery(known, torch.tensor([False] * 5), attacked) == wilson(4 * back, 4)


def test_one_question_is_too_few_for_a_ratio() -> None:
    assert ratio_of_loss(torch.ones(1), torch.ones(1), torch.zeros(1)) is None


def test_a_mean_of_shares_stays_a_share() -> None:
    found = bounded_mean(torch.tensor([0.0, 1.0, 1.0]))
    assert found.low == 0.0 and found.high == 1.0 and found.estimate == pytest.approx(2 / 3)
