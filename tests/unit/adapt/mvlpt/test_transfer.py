"""Gains over task pairs, their intervals, partners, groups and tables."""

from __future__ import annotations

import pytest
import torch

from dtheta.adapt.mvlpt.transfer import Transfer, measure_transfer
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.score import mean_interval

TASKS = ("a", "b", "c", "d", "e", "f")


def found(gain_of: dict[tuple[str, str], float], seeds: int = 3) -> Transfer:
    """A study whose mean gain of each named pair is the one given, elsewhere a small loss; seeds differ."""

    def accuracy(source: str | None, target: str, seed: int) -> float:
        if source is None:
            return 0.5
        return 0.5 + 0.5 * gain_of.get((source, target), -0.02) + 0.01 * (seed - 1)

    return measure_transfer(TASKS, range(seeds), accuracy)


def test_gains_are_shares_of_the_errors() -> None:
    alone = torch.tensor([[0.5, 0.8], [0.6, 0.8]])
    started = torch.tensor([[[9.0, 0.9], [0.75, 9.0]], [[9.0, 0.8], [0.5, 9.0]]])
    study = Transfer(("x", "y"), alone, started)
    wanted = [[[0, (0.9 - 0.8) / 0.2], [0.25 / 0.5, 0]], [[0, 0], [(0.5 - 0.6) / 0.4, 0]]]
    assert torch.allclose(study.gains, torch.tensor(wanted), atol=1e-6)
    assert torch.equal(study.affinity, study.affinity.T)
    interval, plain = study.interval("y", "x"), mean_interval([0.5, -0.25])
    assert (interval.estimate, interval.low, interval.high) == pytest.approx(
        (plain.estimate, plain.low, plain.high), abs=1e-6
    )


def test_what_was_measured_is_asked_for_once_and_never_on_the_diagonal() -> None:
    asked: list[tuple[str | None, str, int]] = []

    def accuracy(source: str | None, target: str, seed: int) -> float:
        asked.append((source, target, seed))
        return 0.5

    study = measure_transfer(("x", "y", "z"), (4, 7), accuracy)
    assert len(asked) == len(set(asked)) == 2 * (3 + 6)
    assert all(source != target for source, target, _ in asked)
    assert not study.gain.any()


def test_a_group_is_a_target_and_at_most_four_that_help() -> None:
    gain_of = {("b", "a"): 0.1, ("c", "a"): 0.4, ("d", "a"): 0.2, ("e", "a"): 0.3, ("f", "a"): 0.05, ("a", "b"): 0.2}
    study = found(gain_of)
    assert study.partners("a") == ("c", "e", "d", "b")
    assert study.group("a", most=2) == ("a", "c", "e")
    assert study.group("b") == ("b", "a")
    assert study.group("c") == ("c",)  # all others harm it
    assert study.partners("a", most=0) == ()


def test_tasks_that_help_each_other_are_one_cluster() -> None:
    pairs = [("a", "b"), ("c", "d"), ("e", "f")]
    study = found({pair: 0.3 for one, other in pairs for pair in ((one, other), (other, one))})
    assert study.clusters(3) == (("a", "b"), ("c", "d"), ("e", "f"))


def test_the_table_shows_gains_intervals_and_what_is_clear() -> None:
    study = found({("b", "a"): 0.3})
    lines = study.table().splitlines()
    assert lines[0].split() == ["from", "\\", "to", *TASKS] and len(lines) == 7
    half = study.interval("b", "a").high - 0.3
    assert f"+30.0 ±{100 * half:.1f}*" in lines[2]
    assert "-2.0 ±" in lines[1] and lines[1].split()[1] == "-"
    assert "±" not in found({("b", "a"): 0.3}, seeds=1).table()


def test_bad_input_is_refused() -> None:
    study = found({})
    with pytest.raises(ConfigError, match="no task 'g'"):
        study.partners("g")
    with pytest.raises(ConfigError, match="no source of itself"):
        study.interval("a", "a")
    with pytest.raises(ConfigError, match="at least 2"):
        found({}, seeds=1).interval("a", "b")
    with pytest.raises(ShapeMismatch, match="2 tasks"):
        Transfer(("x", "y"), torch.zeros(1, 2), torch.zeros(1, 2, 3))
    with pytest.raises(ConfigError, match="divide percentages"):
        Transfer(("x", "y"), torch.full((1, 2), 50.0), torch.zeros(1, 2, 2))
    with pytest.raises(ConfigError, match="divide percentages"):
        Transfer(("x", "y"), torch.full((1, 2), torch.nan), torch.zeros(1, 2, 2))
    with pytest.raises(ConfigError, match="y: without a source every image is right"):
        Transfer(("x", "y"), torch.tensor([[0.5, 1.0]]), torch.zeros(1, 2, 2))
    with pytest.raises(ConfigError, match="different names"):
        Transfer(("x", "x"), torch.zeros(1, 2), torch.zeros(1, 2, 2))


def test_nothing_to_gain_is_told_before_pairs_train() -> None:
    asked = []

    def accuracy(source: str | None, target: str, seed: int) -> float:
        asked.append(source)
        return 1.0 if (target, seed) == ("y", 1) else 0.5

    with pytest.raises(ConfigError, match="y: without a source every image is right"):
        measure_transfer(("x", "y"), (0, 1), accuracy)
    assert asked == [None] * 4
