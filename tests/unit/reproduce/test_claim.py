"""Outcomes follow from intervals and bounds alone."""

from __future__ import annotations

import json
import math

import pytest

from dtheta.errors import ConfigError
from dtheta.reproduce.claim import Claim, Row, Side, alone, exact, geometric, over_seeds, paired, percent
from dtheta.score.interval import Interval

CLAIM = Claim("below", "Ours is below theirs.", "a large model")


def row(low: float, high: float, side: Side = "above", bound: float = 0.0) -> Row:
    return Row(CLAIM, "a small model", Interval((low + high) / 2, low, high), "points", bound, side)


@pytest.mark.parametrize(
    ("low", "high", "side", "outcome"),
    [
        (0.1, 0.5, "above", "holds"),
        (0.1, 0.5, "below", "does not hold"),
        (-0.5, -0.1, "above", "does not hold"),
        (-0.5, -0.1, "below", "holds"),
        (-0.1, 0.5, "above", "not shown"),
        (-0.1, 0.5, "below", "not shown"),
        (0.0, 0.5, "above", "not shown"),
    ],
)
def test_the_outcome_is_the_side_of_the_interval(low: float, high: float, side: Side, outcome: str) -> None:
    assert row(low, high, side).outcome == outcome
    assert row(low + 7, high + 7, side, bound=7.0).outcome == outcome


def test_what_was_not_run_is_not_testable_and_must_say_why() -> None:
    assert Row(CLAIM, note="no package carries it").outcome == "not testable here"
    with pytest.raises(ConfigError, match="the note must say why"):
        Row(CLAIM)
    with pytest.raises(ConfigError, match="must say what was run"):
        Row(CLAIM, found=exact(1.0))


def test_one_run_shows_nothing_whatever_it_is() -> None:
    assert Row(CLAIM, "one run", alone(1e9)).outcome == "not shown"
    assert over_seeds([3.0]) == alone(3.0) and paired([3.0], [1.0]) == alone(2.0)


def test_seeds_are_averaged_and_paired() -> None:
    found = over_seeds([1.0, 2.0, 3.0])
    assert found.estimate == 2.0 and math.isclose(found.high - 2.0, 4.302653 / math.sqrt(3), rel_tol=1e-5)
    difference = paired([1.0, 2.0, 3.0], [0.5, 1.5, 2.5])
    assert (difference.estimate, difference.low, difference.high) == (0.5, 0.5, 0.5)


def test_an_interval_of_percents_is_cut_to_what_a_percent_can_be() -> None:
    found, uncut = percent([80.0, 99.0, 98.0]), over_seeds([80.0, 99.0, 98.0])
    assert uncut.high > 100.0 == found.high and found.low == uncut.low
    assert percent([1.0, 0.0]).low == 0.0
    assert percent([50.0]) == alone(50.0)


def test_the_geometric_mean_and_its_interval() -> None:
    found = geometric([2.0, 8.0, 4.0])
    assert found.estimate == pytest.approx(4.0) and found.low == pytest.approx(16.0 / found.high) and found.low < 2.0
    assert geometric([3.0]).low == 0.0 and geometric([3.0]).high == math.inf
    assert geometric([1e300, 1e-300]).high == math.inf


def test_a_row_becomes_json_without_infinities() -> None:
    record = json.loads(json.dumps(Row(CLAIM, "one run", alone(2.0), "points").to_dict(), allow_nan=False))
    assert record["estimate"] == 2.0 and record["interval"] == [None, None] and record["outcome"] == "not shown"
    nothing = Row(CLAIM, note="why").to_dict()
    assert nothing["estimate"] is None and nothing["interval"] is None
