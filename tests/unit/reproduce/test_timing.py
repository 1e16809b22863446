"""Ratios of times."""

from __future__ import annotations

import math

import pytest

from dtheta.reproduce.timing import cpu_seconds, geometric, in_turns


def test_the_geometric_mean_and_its_interval() -> None:
    found = geometric([2.0, 8.0, 4.0])
    assert found.estimate == pytest.approx(4.0)
    assert found.low == pytest.approx(16.0 / found.high)
    assert found.low < 2.0
    assert geometric([3.0]).low == 0.0 and geometric([3.0]).high == math.inf


def test_more_work_takes_longer_in_every_round() -> None:
    ratios = in_turns(lambda: sum(range(1000)), lambda: sum(range(300_000)), 3)
    assert len(ratios) == 3 and min(ratios) > 2.0
    assert cpu_seconds(lambda: sum(range(300_000))) > 0.0
