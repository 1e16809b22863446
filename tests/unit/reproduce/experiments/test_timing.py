"""Contestants run in turns; what only their first call does is not timed."""

from __future__ import annotations

import gc

from dtheta.reproduce.experiments.timing import cpu_seconds, in_turns


def test_contestants_take_turns_after_one_call_that_does_not_count() -> None:
    calls: list[str] = []
    ratios = in_turns(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert len(ratios) == 3 and sorted(calls[:2]) == ["ours", "theirs"]
    assert calls[2:] == ["theirs", "ours"] * 3


def test_garbage_collection_is_off_for_a_call_and_on_again() -> None:
    seen: list[bool] = []
    assert cpu_seconds(lambda: seen.append(gc.isenabled())) >= 0.0
    assert seen == [False] and gc.isenabled()
