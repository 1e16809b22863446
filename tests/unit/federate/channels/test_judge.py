"""The binomial test: its tail, its rate of false alarms, and what it says."""

from __future__ import annotations

import math

import pytest

from dtheta.federate.channels.judge import binomial_tail, judge


def _plain_tail(errors: int, checked: int, rate: float) -> float:
    return math.fsum(math.comb(checked, k) * rate**k * (1 - rate) ** (checked - k) for k in range(errors, checked + 1))


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.3, 0.9])
@pytest.mark.parametrize(("errors", "checked"), [(0, 5), (1, 1), (3, 50), (20, 50), (50, 50)])
def test_tail_is_the_sum_of_its_terms(errors, checked, rate):
    assert binomial_tail(errors, checked, rate) == pytest.approx(_plain_tail(errors, checked, rate), rel=1e-9)


def test_tail_at_the_ends():
    assert binomial_tail(0, 10, 0.0) == 1 and binomial_tail(1, 10, 0.0) == 0
    assert binomial_tail(11, 10, 0.5) == 0 and binomial_tail(10, 10, 1.0) == 1
    assert binomial_tail(500_000_000, 10**9, 0.5) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("expected", [0.0, 0.001, 0.02, 0.08, 0.11])
@pytest.mark.parametrize("checked", [1, 20, 300])
@pytest.mark.parametrize("significance", [0.05, 0.001])
def test_without_an_eavesdropper_at_most_the_significance_is_given_up(expected, checked, significance):
    given_up = math.fsum(
        math.comb(checked, k) * expected**k * (1 - expected) ** (checked - k)
        for k in range(checked + 1)
        if judge(k, checked, expected, 0.11, significance).aborted
    )
    assert given_up <= significance


def test_a_verdict_says_what_it_found():
    good, bad = judge(4, 400, 0.02, 0.11, 1e-3), judge(60, 400, 0.02, 0.11, 1e-3)
    assert not good.aborted and good.reason is None
    assert bad.aborted and "15.00%" in str(bad.reason) and "expected 2.00%" in str(bad.reason)
    assert good.qber is not None and good.qber.estimate == 0.01 and good.qber.low < 0.01 < good.qber.high
    assert bad.p_value < 1e-3 < good.p_value


def test_the_bound_counts_where_the_channel_is_noisier():
    # expected 30 %: no alarm by the first test, but 25 % is clearly beyond 11 %
    found = judge(250, 1000, 0.30, 0.11, 1e-3)
    assert found.aborted and "above 11.00%" in str(found.reason)


def test_nothing_compared_is_no_pass():
    found = judge(0, 0, 0.0, 0.11, 1e-3)
    assert found.aborted and found.qber is None
