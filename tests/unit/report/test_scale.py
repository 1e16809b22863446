"""Axes: round ticks inside the range, labels that can be told apart."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtheta.errors import NonFinite
from dtheta.report.charts.scale import linear_scale, log_scale, round_step, spread

numbers = st.floats(-1e9, 1e9).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(st.lists(numbers, min_size=1, max_size=5))
def test_linear_axis_covers_the_values_with_few_round_ticks(values: list[float]) -> None:
    scale = linear_scale(values, 10, 210)
    slack = 1e-9 * max(1.0, *map(abs, values))
    assert scale.low - slack <= min(values) and max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= 8
    assert all(a < b for a, b in zip(scale.ticks, scale.ticks[1:], strict=False))
    assert all(10 - 1e-6 <= scale(tick) <= 210 + 1e-6 for tick in scale.ticks)


@given(st.floats(1e-5, 1e5), st.floats(1e-3, 1))
def test_labels_of_one_axis_differ(center: float, width: float) -> None:
    labels = linear_scale([center, center * (1 + width)], 0, 100).labels()
    assert len(set(labels)) == len(labels)


@given(st.floats(1e-8, 1e8), st.floats(1, 1e6))
def test_log_axis_has_a_tick_and_keeps_order(low: float, factor: float) -> None:
    scale = log_scale([low, low * factor], 0, 100)
    assert 1 <= len(scale.ticks) <= 9 and all(scale.low <= tick <= scale.high for tick in scale.ticks)
    assert 0 <= scale(low) <= scale(low * factor) <= 100


def test_zero_and_bounds() -> None:
    assert linear_scale([3, 7], 0, 1, zero=True).low == 0
    assert linear_scale([0.97, 0.999], 0, 1, bounds=(0, 1)).high == 1
    assert linear_scale([1, 118], 0, 1, tight=True).high == 118
    assert linear_scale([0.0], 0, 1, zero=True).low == 0


def test_percent_labels_share_their_decimals() -> None:
    assert linear_scale([0.9, 0.95], 0, 1, ticks=3).labels(percent=True) == ["90.0", "92.5", "95.0"]


def test_whole_ticks() -> None:
    assert linear_scale([0, 12], 0, 1, ticks=6, tight=True).ticks == (0, 2.5, 5, 7.5, 10)
    assert linear_scale([0, 12], 0, 1, ticks=6, tight=True, whole=True).ticks == (0, 5, 10)
    assert linear_scale([1, 3], 0, 1, ticks=6, tight=True, whole=True).ticks == (1, 2, 3)


@pytest.mark.parametrize(("rough", "step"), [(0.9, 1), (1, 1), (1.1, 2), (2.2, 2.5), (3, 5), (6, 10), (0.03, 0.05)])
def test_steps_are_round(rough: float, step: float) -> None:
    assert round_step(rough) == pytest.approx(step)


def test_spread_asks_for_a_log_axis() -> None:
    assert spread([1, 100]) and not spread([1, 20]) and not spread([0, 100]) and not spread([])


@pytest.mark.parametrize("make", [linear_scale, log_scale])
@pytest.mark.parametrize("values", [[], [math.nan, 1.0], [math.inf]])
def test_what_is_not_finite_has_no_axis(make, values) -> None:
    with pytest.raises(NonFinite):
        make(values, 0, 1)


def test_log_axis_refuses_zero() -> None:
    with pytest.raises(NonFinite, match="positive"):
        log_scale([0, 1], 0, 1)
