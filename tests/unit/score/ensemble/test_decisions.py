"""ROC, AUC, EDI and economic value against loops over thresholds, pairs and users."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.score.ensemble import AUC, EDI, ROC, EconomicValue, Event, EventTable
from tests.unit.score.ensemble import plain
from tests.unit.score.ensemble.plain import drawn, scored

EVENT = Event(above=0.7)


def data(members: int = 20, cells: int = 500) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    signal = drawn(cells)
    x, y = signal + drawn(members, cells, seed=1), signal + drawn(cells, seed=2)
    return x, y, (x > 0.7).double().mean(0).numpy(), (y > 0.7).numpy()


def test_the_curve_goes_through_every_threshold() -> None:
    x, y, p, o = data(4)
    found = scored(ROC(EventTable(EVENT, bins=4)), x, y).value
    expected = [(0.0, 0.0)] + [plain.hit_and_false_alarm(p, o, t)[::-1] for t in (1, 0.75, 0.5, 0.25, 0)]
    assert found.flatten().tolist() == pytest.approx([v for pair in expected for v in pair])


@pytest.mark.parametrize("members", [1, 4, 50])
def test_the_area_is_how_often_an_event_has_the_higher_probability(members: int) -> None:
    x, y, p, o = data(members)
    assert float(scored(AUC(EventTable(EVENT)), x, y).value) == pytest.approx(plain.auc(p, o), rel=1e-12)


def test_fewer_classes_lower_the_area() -> None:
    x, y, p, o = data(64)
    areas = [float(scored(AUC(EventTable(EVENT, bins)), x, y).value) for bins in (2, 8, 64)]
    assert areas == sorted(areas) and areas[-1] == pytest.approx(plain.auc(p, o))


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
def test_the_index_of_dependence_is_its_formula(threshold: float) -> None:
    x, y, p, o = data()
    h, f = plain.hit_and_false_alarm(p, o, threshold)
    expected = (math.log(f) - math.log(h)) / (math.log(f) + math.log(h))
    assert float(scored(EDI(EVENT, threshold), x, y).value) == pytest.approx(expected)


def test_the_value_is_that_of_acting_at_the_best_threshold() -> None:
    x, y, p, o = data()
    ratios = (0.05, 0.2, 0.5, 0.8)
    found = scored(EconomicValue(EVENT, ratios), x, y)
    rate, expected = o.mean(), []
    for ratio in ratios:
        climate, perfect = min(ratio, rate), ratio * rate
        costs = []
        for threshold in [*np.unique(p), 2.0]:
            act = p >= threshold
            costs.append((act * ratio + (~act & o)).mean())
        expected.append((climate - min(costs)) / (climate - perfect))
    assert found.value.tolist() == pytest.approx(expected)
    assert found.points == ratios and found.axis == "cost_loss"


def test_perfect_forecasts_have_the_best_scores() -> None:
    _, y, _, _ = data()
    x = y.expand(3, -1)
    assert float(scored(AUC(EventTable(EVENT)), x, y).value) == 1.0
    assert scored(EconomicValue(EVENT), x, y).value.tolist() == pytest.approx([1.0] * 19)


def test_forecasts_without_skill_have_none() -> None:
    x, y = drawn(10, 200_000), drawn(200_000, seed=1)
    assert float(scored(AUC(EventTable(EVENT)), x, y).value) == pytest.approx(0.5, abs=0.005)
    assert abs(float(scored(EDI(EVENT, 0.2), x, y).value)) < 0.01
    assert scored(EconomicValue(EVENT), x, y).value.tolist() == pytest.approx([0.0] * 19, abs=0.01)


def test_an_event_that_never_happens_has_no_curve() -> None:
    x, y = torch.zeros(3, 5), torch.zeros(5)
    for metric in (AUC(EventTable(EVENT)), EDI(EVENT)):  # no hit rate; and below, no false alarm
        assert math.isnan(float(scored(metric, x, y).value))
    assert scored(AUC(EventTable(EVENT)), x, y).to_dict()["value"] is None
    truth = torch.tensor([0.0, 0.0, 1.0])
    assert math.isnan(float(scored(EDI(EVENT), truth.expand(3, -1), truth).value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDI(EVENT, 0.33), "multiple of 1 / 50"),
        (lambda: EDI(EVENT, 0.0), "multiple of 1 / 50"),
        (lambda: EconomicValue(EVENT, (0.5, 1.0)), r"in \(0, 1\)"),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
