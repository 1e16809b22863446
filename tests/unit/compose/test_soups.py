"""Soups: means that are exact, a greedy choice that is as the recipe says, scores that must be numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dtheta.compose.coefficients import Coefficients
from dtheta.compose.compose import compose
from dtheta.compose.soups import Trial, greedy_soup, uniform_soup
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.lowrank import LowRank
from dtheta.errors import BaseMismatch, ConfigError, NonFinite, ShapeMismatch
from tests.unit.compose.examples import delta, normal
from tests.unit.compose.merges import arguments, of_every_kind


def points(*places: tuple[float, float]) -> list[Delta]:
    return [Delta({"w": Dense(torch.tensor(place, dtype=torch.float64))}) for place in places]


def near(x: float, y: float) -> Callable[[Delta], float]:
    """A score: minus the distance to a point."""
    return lambda one: -math.dist(one["w"].dense().tolist(), (x, y))


def test_the_uniform_soup_is_the_mean(tiny_mlp: nn.Module) -> None:
    three = of_every_kind(tiny_mlp)
    found = uniform_soup(three)
    for name in three[0]:
        mean = sum(one[name].dense().double() for one in three if name in one) / 3
        assert torch.allclose(found[name].dense().double(), torch.as_tensor(mean), atol=1e-7)
    assert uniform_soup(three[:1]) == three[0]
    factored = uniform_soup([delta(tiny_mlp, "low-rank", i) for i in range(4)])
    assert all(isinstance(leaf, LowRank) for c in factored.changes.values() for leaf in c.leaves())


def test_the_greedy_soup_takes_what_makes_it_better() -> None:
    # 1 is best; 2 makes the mean better; 3 and 0 would make it worse
    four = points((9.0, 9.0), (1.0, 0.0), (-1.5, 0.0), (5.0, 5.0))
    soup = greedy_soup(four, near(0.0, 0.0))
    assert [trial.delta for trial in soup.table] == [1, 2, 3, 0]
    assert [trial.kept for trial in soup.table] == [True, True, False, False]
    assert soup.delta["w"].dense().tolist() == [-0.25, 0.0] and soup.score == -0.25
    assert soup.table[0] == Trial(1, -1.0, -1.0, True) and soup.table[1] == Trial(2, -1.5, -0.25, True)
    assert soup.table[2].together == pytest.approx(-math.hypot(4.5 / 3, 5 / 3))
    delta_, table = soup
    assert delta_ is soup.delta and table is soup.table


def test_what_is_no_better_is_left_out_and_the_first_of_equals_comes_first() -> None:
    same = points((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))
    soup = greedy_soup(same, near(0.0, 0.0))
    assert [(t.delta, t.kept) for t in soup.table] == [(0, True), (1, False), (2, False)] and soup.delta == same[0]


def test_lower_can_be_better() -> None:
    four = points((9.0, 9.0), (1.0, 0.0), (-1.5, 0.0), (5.0, 5.0))
    higher, lower = greedy_soup(four, near(0, 0)), greedy_soup(four, lambda d: -near(0, 0)(d), better="lower")
    assert higher.delta == lower.delta and [t.delta for t in higher.table] == [t.delta for t in lower.table]


def test_a_score_may_be_a_loss_that_nobody_differentiates() -> None:
    four, weight = points((9.0, 9.0), (1.0, 0.0), (-1.5, 0.0), (5.0, 5.0)), torch.ones((), requires_grad=True)
    tracked = greedy_soup(four, lambda one: weight * near(0, 0)(one))  # type: ignore[arg-type, return-value]
    assert [t.delta for t in tracked.table] == [t.delta for t in greedy_soup(four, near(0, 0)).table]


def test_every_mean_is_scored_once() -> None:
    seen: list[Delta] = []

    def score(one: Delta) -> float:
        seen.append(one)
        return near(0.0, 0.0)(one)

    greedy_soup(points((1.0, 0.0), (2.0, 0.0), (3.0, 0.0)), score)
    assert len(seen) == 5


def test_soups_run_again_from_a_file(tiny_mlp: nn.Module, tmp_path: Path) -> None:
    four = [*of_every_kind(tiny_mlp), delta(tiny_mlp, "low-rank", 9)]
    made = greedy_soup(four, lambda one: -abs(one.norm() - 2.0)).delta
    for soup, operation in ((made, "greedy_soup"), (uniform_soup(four), "uniform_soup")):
        stored = load(soup.save(tmp_path / "s.delta"))
        settings = arguments(stored)
        assert stored.provenance.operation == operation
        assert list(stored.provenance.parents) == [one.digest for one in four]
        again = compose(four, Coefficients.from_settings(settings["coefficients"]))  # type: ignore[arg-type]
        assert again == soup == stored
    assert {row["delta"] for row in made.provenance.settings["table"]} == set(range(4))


def test_what_cannot_be_mixed(tiny_mlp: nn.Module) -> None:
    never: list[Delta] = []

    def counting(one: Delta) -> float:
        never.append(one)
        return 0.0

    for mix in (uniform_soup, lambda d: greedy_soup(d, counting)):
        with pytest.raises(ConfigError, match="at least one delta"):
            mix([])
        with pytest.raises(ShapeMismatch, match="w"):
            mix([Delta({"w": Dense(normal(2))}), Delta({"w": Dense(normal(3))})])
    one = delta(tiny_mlp)
    with torch.no_grad():
        tiny_mlp.get_parameter("0.weight").add_(1)
    with pytest.raises(BaseMismatch, match=r"0\.weight"):
        greedy_soup([one, delta(tiny_mlp)], counting)
    assert not never  # nothing was scored before it was known that all fit together
    hurt = Delta({"v": Dense(normal(2)), "w": Dense(normal(2) / 0)})
    for mix in (uniform_soup, lambda d: greedy_soup(d, counting)):
        with pytest.raises(NonFinite, match="delta 1, w: NaN or infinity"):
            mix([Delta({"w": Dense(normal(2))}), hurt])
        with pytest.raises(ConfigError, match="item 0 is a str"):
            mix(["a.delta"])  # type: ignore[list-item]
    assert not never
    with pytest.raises(ConfigError, match=r"score of delta 0 is '0\.9'; expected a number"):
        greedy_soup([one], lambda _: "0.9")  # type: ignore[arg-type, return-value]
    with pytest.raises(NonFinite, match="score of delta 0 is nan"):
        greedy_soup([one], lambda _: math.nan)
    with pytest.raises(NonFinite, match=r"score of the mean of deltas \[0, 1\] is inf"):
        greedy_soup([one, 2.0 * one], lambda d: math.inf if d not in (one, 2.0 * one) else 1.0)
    with pytest.raises(ConfigError, match="better="):
        greedy_soup([one], counting, better="more")  # type: ignore[arg-type]


def test_heads_are_mixed_as_they_are() -> None:
    heads = [Delta({"head": New(normal(3, index=i))}) for i in range(2)]
    mean = (heads[0]["head"].dense() + heads[1]["head"].dense()) / 2
    assert torch.allclose(uniform_soup(heads)["head"].dense(), mean)


def test_a_score_is_a_function(tiny_mlp: nn.Module) -> None:
    with pytest.raises(ConfigError, match="the score is a NoneType; expected a function"):
        greedy_soup([delta(tiny_mlp)], None)  # type: ignore[arg-type]
