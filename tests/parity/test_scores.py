"""Scores of ensembles against the package `scores` of the Australian Bureau of Meteorology, where it has the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.score.ensemble import (
    AUC,
    CRPS,
    RMSE,
    ROC,
    Bias,
    Brier,
    EconomicValue,
    EnsembleMetric,
    Event,
    EventTable,
    RankHistogram,
    Verification,
    crps,
)

probability = pytest.importorskip("scores.probability", reason="pip install scores")
xr = pytest.importorskip("xarray")
continuous = pytest.importorskip("scores.continuous")

MEMBERS, H, W = 20, 16, 24
EDGE = 0.8


@pytest.fixture(scope="module")
def fields() -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    signal = torch.randn(H, W, generator=draw)
    x = signal + torch.randn(MEMBERS, H, W, generator=draw)
    weights = torch.cos(torch.linspace(-1.4, 1.4, H))[:, None].expand(H, W).contiguous()
    return x, signal + torch.randn(H, W, generator=draw), weights


def arrays(*fields: Tensor):
    dims = {3: ("member", "lat", "lon"), 2: ("lat", "lon")}
    return [xr.DataArray(f.numpy(), dims=dims[f.ndim]) for f in fields]


def ours(metric: EnsembleMetric, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    verification = Verification([metric], cells=(H, W), weights=weights)
    verification.update(0, 6, x, y)
    return verification.result().score(metric.name, 6).value


def probabilities(x: Tensor, y: Tensor):
    return arrays((x > EDGE).double().mean(0), (y > EDGE).double())


@pytest.mark.parametrize(("method", "fair"), [("fair", True), ("ecdf", False)])
def test_crps_of_every_cell(fields, method: str, fair: bool) -> None:
    x, y, _ = fields
    theirs = probability.crps_for_ensemble(*arrays(x, y), "member", method=method, preserve_dims="all")
    np.testing.assert_allclose(crps(x, y, fair=fair).numpy(), theirs.values, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("tail", "side"), [("upper", "above"), ("lower", "below")])
def test_crps_beyond_a_threshold(fields, tail: str, side: str) -> None:
    x, y, w = fields
    theirs = probability.tail_tw_crps_for_ensemble(
        *arrays(x, y), "member", EDGE, tail=tail, method="fair", weights=arrays(w)[0]
    )
    assert float(ours(CRPS(**{side: EDGE}), x, y, w)) == pytest.approx(float(theirs), rel=1e-5)


def test_the_interval_between_two_thresholds(fields) -> None:
    x, y, _ = fields
    theirs = probability.interval_tw_crps_for_ensemble(*arrays(x, y), "member", -0.3, EDGE, method="fair")
    assert float(ours(CRPS(above=-0.3, below=EDGE), x, y)) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("fair", [True, False])
def test_brier(fields, fair: bool) -> None:
    import operator

    x, y, w = fields
    theirs = probability.brier_score_for_ensemble(
        *arrays(x, y), "member", EDGE, fair_correction=fair, event_threshold_operator=operator.gt, weights=arrays(w)[0]
    )
    assert float(ours(Brier(Event(above=EDGE), fair=fair), x, y, w)) == pytest.approx(theirs.item(), rel=1e-5)


def test_rank_histogram(fields) -> None:
    x, y, _ = fields
    theirs = probability.rank_histogram(*arrays(x, y), "member").values
    np.testing.assert_allclose(ours(RankHistogram(None), x, y).numpy(), theirs, atol=1e-12)


def test_roc_and_its_area(fields) -> None:
    x, y, w = fields
    p, o = probabilities(x, y)
    curve = probability.roc_curve_data(p, o, [0.0] + [k / MEMBERS - 1e-9 for k in range(1, MEMBERS + 1)])
    found = ours(ROC(EventTable(Event(above=EDGE), bins=MEMBERS)), x, y).flip(0).numpy()
    np.testing.assert_allclose(found[:, 0], curve["POFD"].values, atol=1e-12)
    np.testing.assert_allclose(found[:, 1], curve["POD"].values, atol=1e-12)
    table = EventTable(Event(above=EDGE), bins=MEMBERS)
    assert float(ours(AUC(table), x, y)) == pytest.approx(float(probability.roc_auc(p, o)), abs=1e-9)
    weighted = probability.roc_auc(p, o, weights=arrays(w)[0])
    assert float(ours(AUC(table), x, y, w)) == pytest.approx(float(weighted), abs=1e-6)


def test_economic_value(fields) -> None:
    x, y, _ = fields
    ratios = (0.1, 0.3, 0.6)
    thresholds = [k / MEMBERS - 1e-9 for k in range(1, MEMBERS + 1)]
    theirs = probability.relative_economic_value(
        *probabilities(x, y), cost_loss_ratios=list(ratios), probability_thresholds=[0.0, *thresholds, 1.0]
    )
    best = theirs.max("probability_threshold").values.clip(min=0)  # never to act is not among their thresholds
    np.testing.assert_allclose(ours(EconomicValue(Event(above=EDGE), ratios, MEMBERS), x, y).numpy(), best, atol=1e-9)


def test_rmse_and_bias(fields) -> None:
    x, y, w = fields
    mean, truth, area = arrays(x.double().mean(0), y.double(), w)
    assert float(ours(RMSE(), x, y, w)) == pytest.approx(float(continuous.rmse(mean, truth, weights=area)), rel=1e-6)
    theirs = continuous.additive_bias(mean, truth, weights=area)
    assert float(ours(Bias(), x, y, w)) == pytest.approx(float(theirs), rel=1e-5)
