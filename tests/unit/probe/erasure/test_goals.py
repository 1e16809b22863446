"""Goals: on which side of a bound an estimate and its interval are."""

from __future__ import annotations

import pytest

from dtheta.probe.erasure.goals import goal
from dtheta.score.interval import Interval


@pytest.mark.parametrize(
    ("low", "value", "high", "side", "met", "clear"),
    [
        (0.0, 0.0, 0.05, "at most", True, True),
        (0.0, 0.0, 0.3, "at most", True, False),
        (0.05, 0.2, 0.4, "at most", False, False),
        (0.2, 0.3, 0.4, "at most", False, True),
        (0.2, 0.3, 0.4, "at least", True, True),
        (0.0, 0.05, 0.09, "at least", False, True),
        (0.0, 0.05, 0.2, "at least", False, False),
    ],
)
def test_sides_of_a_bound(low: float, value: float, high: float, side: str, met: bool, clear: bool) -> None:
    found = goal("x", Interval(value, low, high), 0.1, side)  # type: ignore[arg-type]
    assert (found.met, found.clear) == (met, clear)
