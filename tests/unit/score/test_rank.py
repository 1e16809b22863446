"""Rank correlations against SciPy, and Mantel's test against a plain count of all permutations."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.score.rank import RankKind, kendall, matrix_correlation, ranks, spearman

stats = pytest.importorskip("scipy.stats")


def draw(*shape: int, ties: bool = False, name: str = "x") -> Tensor:
    values = torch.randn(*shape, generator=generator(0, name), dtype=torch.float64)
    return (2 * values).round() if ties else values


def off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_equal_scipy(ties: bool) -> None:
    x, y = draw(40, ties=ties), draw(40, ties=ties, name="y")
    assert torch.equal(ranks(x), torch.from_numpy(stats.rankdata(x.numpy())))
    assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic, abs=1e-12)
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("kind", ["kendall", "spearman"])
def test_mantel_goes_through_all_permutations_of_few_tasks(kind: RankKind) -> None:
    a = draw(5, 5)
    b = a + 1.5 * draw(5, 5, name="y")
    reference = {"kendall": stats.kendalltau, "spearman": stats.spearmanr}[kind]
    estimate = reference(off_diagonal(a), off_diagonal(b)).statistic
    null = []
    for order in map(list, itertools.permutations(range(5))):
        null.append(abs(reference(off_diagonal(a[order][:, order]), off_diagonal(b)).statistic))
    found = matrix_correlation(a, b, kind, resamples=50)
    assert found.estimate == pytest.approx(estimate, abs=1e-12)
    assert found.p == pytest.approx(sum(value >= abs(estimate) - 1e-9 for value in null) / 120)
    assert found.interval.low <= found.estimate <= found.interval.high


def test_the_diagonal_does_not_count() -> None:
    a, b = draw(6, 6), draw(6, 6, name="y")
    plain = matrix_correlation(a, b, resamples=50)
    assert matrix_correlation(a.clone().fill_diagonal_(1e9), b.clone().fill_diagonal_(-1e9), resamples=50) == plain


def test_a_matrix_orders_itself_alike_and_noise_rarely() -> None:
    a = draw(8, 8)
    same = matrix_correlation(a, 3 * a + 1, "kendall", resamples=200)
    assert same.estimate == pytest.approx(1.0) and same.p == pytest.approx(1 / 201)
    p = [matrix_correlation(a, draw(8, 8, name=f"noise/{k}"), resamples=100).p for k in range(30)]
    assert sum(value < 0.05 for value in p) <= 5  # about 1.5 are expected where there is no relation


def test_bad_input_is_refused() -> None:
    x = draw(4)
    with pytest.raises(NotConverged, match="no order"):
        spearman(x, torch.ones(4))
    with pytest.raises(ShapeMismatch, match="paired"):
        kendall(x, x[:3])
    with pytest.raises(NonFinite, match="1 of 4"):
        kendall(x, torch.tensor([0.0, 1.0, 2.0, torch.nan]))
    with pytest.raises(ConfigError, match="at least 3 tasks"):
        matrix_correlation(draw(2, 2), draw(2, 2))
    with pytest.raises(ShapeMismatch, match="square"):
        matrix_correlation(draw(3, 4), draw(3, 4))
    with pytest.raises(ConfigError, match="kind"):
        matrix_correlation(draw(4, 4), draw(4, 4), "pearson")  # type: ignore[arg-type]


@pytest.mark.parametrize("resamples", [2.5, True, 1])
def test_resamples_are_counted(resamples: Any) -> None:
    with pytest.raises(ConfigError, match="resamples"):
        matrix_correlation(torch.eye(3), torch.eye(3), resamples=resamples)
