"""Brier score, its decomposition as an identity, and the reliability diagram, against loops over cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dtheta.errors import ConfigError
from dtheta.score.ensemble import Brier, BrierParts, BrierSkill, Event, Reliability, Verification
from tests.unit.score.ensemble.plain import drawn, scored

EVENT = Event(above="edge")


def data(members: int, cells: int = 400) -> tuple[Tensor, Tensor, Tensor, dict]:
    signal = drawn(cells)
    x, y = signal + drawn(members, cells, seed=1), signal + drawn(cells, seed=2)
    w = torch.rand(cells, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x, y, w / w.sum(), {"weights": w, "references": {"edge": torch.full((cells,), 0.7)}}


@pytest.mark.parametrize("members", [1, 4, 50, 73])
def test_the_score_is_the_mean_square_whatever_the_classes(members: int) -> None:
    x, y, w, given = data(members)
    p, o = (x > 0.7).double().mean(0), (y > 0.7).double()
    expected = float((w * (p - o) ** 2).sum())
    for bins in (1, 7, 50):
        assert float(scored(Brier(EVENT, bins=bins), x, y, **given).value) == pytest.approx(expected, rel=1e-12)
    if members > 1:
        fair = expected - float((w * p * (1 - p)).sum()) / (members - 1)
        assert float(scored(Brier(EVENT, fair=True), x, y, **given).value) == pytest.approx(fair, rel=1e-12)
    skill = 1 - expected / float((w * o).sum() * (1 - (w * o).sum()))
    assert float(scored(BrierSkill(EVENT), x, y, **given).value) == pytest.approx(skill, rel=1e-10)


@pytest.mark.parametrize(("members", "bins"), [(4, 50), (50, 50), (73, 50), (73, 7)])
def test_the_parts_add_up_to_the_score(members: int, bins: int) -> None:
    x, y, _, given = data(members)
    reliability, resolution, uncertainty, variance, covariance = scored(BrierParts(EVENT, bins), x, y, **given).value
    brier = float(scored(Brier(EVENT), x, y, **given).value)
    assert float(reliability - resolution + uncertainty + variance - covariance) == pytest.approx(brier, rel=1e-11)
    if members <= bins:
        assert abs(float(variance)) < 1e-12 > abs(float(covariance))


def test_the_parts_are_murphys_where_every_probability_is_a_class() -> None:
    x, y, w, given = data(4)
    p, o = (x > 0.7).double().mean(0), (y > 0.7).double()
    rate, reliability, resolution = float((w * o).sum()), 0.0, 0.0
    for value in p.unique():
        here = p == value
        n, o_k = float(w[here].sum()), float((w * o)[here].sum() / w[here].sum())
        reliability += n * (float(value) - o_k) ** 2
        resolution += n * (o_k - rate) ** 2
    found = scored(BrierParts(EVENT), x, y, **given)
    assert found.value.tolist()[:3] == pytest.approx([reliability, resolution, rate * (1 - rate)], rel=1e-10)
    assert found.points == ("reliability", "resolution", "uncertainty", "variance", "covariance")


def test_a_fair_score_does_not_depend_on_the_size_of_the_ensemble() -> None:
    x, y = drawn(12, 200_000), drawn(200_000, seed=1)
    fair = [float(scored(Brier(Event(above=1.0), fair=True), x[:m], y).value) for m in (2, 4, 12)]
    p = 0.5 * math.erfc(1 / math.sqrt(2))
    assert fair == pytest.approx([p * (1 - p)] * 3, abs=0.003)


def test_the_diagram_has_the_frequency_in_each_class() -> None:
    x, y, w, given = data(20)
    p, o = (x > 0.7).double().mean(0), (y > 0.7).double()
    found = scored(Reliability(EVENT), x, y, **given).value
    for k in range(10):
        here = (torch.floor(p * 10 + 1e-12).clamp(max=9)) == k
        n = float(w[here].sum())
        expected = [float((w * p)[here].sum()) / n, float((w * o)[here].sum()) / n, n] if n else [math.nan, math.nan, 0]
        assert found[k].tolist() == pytest.approx(expected, rel=1e-10, nan_ok=True)


def test_an_event_may_be_below_and_its_threshold_a_number() -> None:
    x, y, w, given = data(6)
    p, o = (x < -0.2).double().mean(0), (y < -0.2).double()
    found = scored(Brier(Event(below=-0.2)), x, y, **given)
    assert found.metric == "brier_below_-0.2"
    assert float(found.value) == pytest.approx(float((w * (p - o) ** 2).sum()))


def test_an_event_is_strictly_beyond_its_threshold() -> None:
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0])
    assert float(scored(Brier(Event(above=1.0)), x, y).value) == 0.25  # p = 1/2, o = 0
    assert float(scored(Brier(Event(below=2.0)), x, y).value) == 0.25  # p = 1/2, o = 1


def test_an_event_that_never_happens_has_no_skill_and_a_score() -> None:
    x, y = torch.zeros(3, 5), torch.zeros(5)
    assert float(scored(Brier(Event(above=1.0)), x, y).value) == 0.0
    assert math.isnan(float(scored(BrierSkill(Event(above=1.0)), x, y).value))


def test_thresholds_may_be_given_for_some_channels_only() -> None:
    verification = Verification(
        [Brier(EVENT)], cells=(3,), channels=["a", "b"], references={"edge": {"b": torch.tensor(0.5)}}
    )
    verification.update(0, 6, drawn(4, 2, 3), drawn(2, 3, seed=1))
    assert [score.channel for score in verification.result()] == ["b"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Event(), "one threshold"),
        (lambda: Event(above=1.0, below=2.0), "one threshold"),
        (lambda: Event(above=[1.0]), "the threshold of an event is"),
        (lambda: Reliability(EVENT, classes=7), "7 classes do not divide the 50 bins"),
        (lambda: Brier(EVENT, bins=0).statistics, "bins is 0"),
        (lambda: Verification([Brier(EVENT)], cells=(3,)), "no reference 'edge'; references: none were given"),
        (
            lambda: Verification([Brier(Event(above="egde"))], cells=(3,), references={"edge": torch.tensor(0.0)}),
            "'edge'",
        ),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
