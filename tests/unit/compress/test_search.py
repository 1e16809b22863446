"""search: the best point of the grid, by any score."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.compress.compeft import compress
from dtheta.compress.search import on_batches, search_compression
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.score import CrossEntropy
from tests.unit.compress.reference import dense_delta, draw


def test_it_finds_the_point_that_scores_best_and_tells_all() -> None:
    delta = dense_delta(a=(30, 20), b=(50,))
    found = search_compression(delta, lambda packed: -(delta - packed).norm(), (0.1, 0.3), (0.5, 1.0, 2.0, 3.0))
    assert [(t.density, t.alpha) for t in found.table] == [(d, a) for d in (0.1, 0.3) for a in (0.5, 1.0, 2.0, 3.0)]
    for trial in found.table:
        alone = compress(delta, trial.density, "alpha-sigma", alpha=trial.alpha)
        assert trial.score == pytest.approx(-(delta - alone).norm())
    assert found.trial == max(found.table, key=lambda trial: trial.score)
    assert found.best == compress(delta, found.trial.density, "alpha-sigma", alpha=found.trial.alpha)


def test_equal_scores_take_the_smaller_file_then_the_first() -> None:
    found = search_compression(dense_delta(a=(60, 50)), lambda packed: 1.0, (0.5, 0.05, 0.2), (2.0, 1.0))
    assert (found.trial.density, found.trial.alpha) == (0.05, 2.0)
    sizes = {trial.density: trial.nbytes for trial in found.table}
    assert sizes[0.05] < sizes[0.2] < sizes[0.5]


def test_each_density_selects_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("dtheta.compress.search")
    calls = []
    original = module.signs
    monkeypatch.setattr(module, "signs", lambda *a, **k: calls.append(a[1]) or original(*a, **k))
    search_compression(dense_delta(a=(10, 10)), lambda packed: 0.0, (0.1, 0.2), (1.0, 2.0, 3.0))
    assert calls == [0.1, 0.2]


def test_the_provenance_tells_of_the_grid() -> None:
    found = search_compression(dense_delta(a=(10, 10)), lambda packed: packed.norm(), (0.1,), (1.0, 2.0))
    settings = found.best.provenance.settings
    assert settings["searched"] == {"densities": [0.1], "alphas": [1.0, 2.0], "score": found.trial.score}
    assert settings["alpha"] == 2.0


def test_what_cannot_be_searched() -> None:
    delta = dense_delta(a=(10, 10))
    with pytest.raises(ConfigError, match="empty"):
        search_compression(delta, lambda packed: 0.0, ())
    with pytest.raises(ConfigError, match="alpha=-1"):
        search_compression(delta, lambda packed: 0.0, (0.1,), (1.0, -1.0))
    with pytest.raises(ConfigError, match="density 30"):
        search_compression(delta, lambda packed: pytest.fail("scored before the grid was checked"), (0.1, 30))
    with pytest.raises(NonFinite, match=r"density 0\.1, alpha 1"):
        search_compression(delta, lambda packed: math.nan, (0.1,), (1.0,))


def test_a_density_that_leaves_no_product_never_wins() -> None:
    delta = Delta({"w": LowRank(1e-3 * draw(12, 3), draw(3, 9))})
    found = search_compression(delta, lambda packed: 1.0, (0.1, 1.0), (1.0, 2.0))
    assert [trial.score for trial in found.table] == [-math.inf, -math.inf, 1.0, 1.0]
    assert found.trial.density == 1.0
    with pytest.raises(UnsupportedLayer, match="every product becomes zero"):
        search_compression(delta, lambda packed: 1.0, (0.1,))


class Net(nn.Module):
    """A linear classifier that answers like a model of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.layer(x))


def test_the_score_of_a_model_on_data() -> None:
    net = Net()
    x = torch.eye(4)
    batches = [{"x": x[:2], "labels": torch.tensor([1, 0])}, {"x": x[2:], "labels": torch.tensor([0, 1])}]
    weight = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    delta = Delta({"layer.weight": Dense(weight)}, dt.fingerprint(net))
    assert on_batches(net, batches)(delta) == 1.0
    loss = on_batches(net, batches, CrossEntropy())
    assert loss(delta) < loss(0.0 * delta) + math.log(2) and loss(0.0 * delta) == pytest.approx(-math.log(2))
    assert not net.layer.weight.any()
    assert search_compression(delta, on_batches(net, batches), (0.25, 0.5), (1.0,)).trial.density == 0.5


def test_a_grid_may_be_an_array_or_an_iterator_and_can_be_saved(tmp_path: Path) -> None:
    delta = dense_delta(a=(30, 20))
    lists = search_compression(delta, lambda packed: -(delta - packed).norm(), [0.25, 0.5], [1.0, 2.0])
    arrays = search_compression(
        delta, lambda packed: -(delta - packed).norm(), np.linspace(0.25, 0.5, 2), (float(a) for a in (1, 2))
    )
    assert arrays.table == lists.table and arrays.best == lists.best
    saved = dt.load(arrays.best.save(tmp_path / "best.delta"))
    assert saved.provenance.settings == lists.best.provenance.settings


def test_a_grid_and_a_score_that_cannot_be_meant() -> None:
    delta = dense_delta(a=(30, 20))
    with pytest.raises(ConfigError, match=r"densities is 0.1; expected several numbers"):
        search_compression(delta, lambda packed: 1.0, 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the score is a NoneType; expected a function"):
        search_compression(delta, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"the score at density 0.1, alpha 1.0 is None; expected a number"):
        search_compression(delta, lambda packed: None, [0.1], [1])  # type: ignore[arg-type, return-value]
