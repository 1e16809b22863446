"""Rules: what is kept, and when a run stops."""

from __future__ import annotations

import pytest

from dtheta.compose.rules import Best, Forget, Last, best_or_last
from dtheta.errors import ConfigError, NonFinite


def test_best_keeps_the_earlier_of_equal_scores() -> None:
    rule = Best(lambda model: model)
    assert rule.scores(3) == {"score": 3.0} and not rule.stop({"score": 0}, {"score": 9})
    assert rule.better({"score": 2}, {"score": 1}) and not rule.better({"score": 1}, {"score": 1})
    lower = Best(float, "lower")
    assert lower.better({"score": 1}, {"score": 2}) and not lower.better({"score": 2}, {"score": 2})


def test_forget_wants_a_low_target_and_stops_below_the_floor() -> None:
    rule = Forget(lambda model: model[0], lambda model: model[1], keep=0.9)
    assert rule.scores((1, 2)) == {"target": 1.0, "control": 2.0}
    assert rule.better({"target": 1, "control": 0}, {"target": 2, "control": 9})
    start = {"target": 5.0, "control": 0.5}
    assert rule.stop({"target": 0, "control": 0.45}, start) == ""
    assert "below 0.45" in rule.stop({"target": 0, "control": 0.4499}, start)


def test_last_measures_nothing() -> None:
    assert Last().scores(None) == {} and Last().better({}, {}) and not Last().stop({}, {})


def test_what_cannot_be_meant() -> None:
    with pytest.raises(ConfigError, match="higher or lower"):
        Best(float, "up")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keep"):
        Forget(float, float, keep=1.5)
    with pytest.raises(NonFinite, match="target metric"):
        Forget(lambda model: float("nan"), float).scores(1)


def test_a_share_of_a_negative_score_means_nothing() -> None:
    rule = Forget(float, float, keep=0.95)  # -1 * 0.95 lies above -1: any epoch would break the control
    with pytest.raises(ConfigError, match="the control metric is -1 on the base"):
        rule.stop({"target": 0.0, "control": -1.0}, {"target": 0.0, "control": -1.0})
    assert rule.stop({"target": 0.0, "control": 0.0}, {"target": 0.0, "control": 0.0}) == ""


def test_a_metric_gives_a_number() -> None:
    for metric in (lambda model: None, lambda model: "0.9", lambda model: [1.0, 2.0]):
        with pytest.raises(ConfigError, match=r"what the metric gives for this model is .*; expected a number"):
            Best(metric).scores(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the target metric is 3; expected a function"):
        Forget(3, float).scores(1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="keep"):
        Forget(float, float, keep="most")  # type: ignore[arg-type]


def test_a_direction_needs_a_metric() -> None:
    assert isinstance(best_or_last(None, "higher"), Last)
    assert best_or_last(float, "lower") == Best(float, "lower")
    with pytest.raises(ConfigError, match="better='lower' is said of no metric"):
        best_or_last(None, "lower")
