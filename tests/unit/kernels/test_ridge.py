"""Ridge regression from sums: against least squares on the whole data, and against refits without each example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.kernels.ridge import Ridge


def data(count: int = 60, width: int = 9, outputs: int = 3) -> tuple[Tensor, Tensor]:
    """Features far from centered, and targets that are linear in them up to noise."""
    draw = generator(0, "ridge")
    P = 2 + torch.randn(count, width, generator=draw, dtype=torch.float64)
    Y = P @ torch.randn(width, outputs, generator=draw, dtype=torch.float64)
    return P, Y + 5 + 0.3 * torch.randn(count, outputs, generator=draw, dtype=torch.float64)


def reference(P: Tensor, Y: Tensor, ridge: float, intercept: bool) -> tuple[Tensor, Tensor]:
    """Weights (D, W) and constant of the penalized problem, as least squares on rows extended by sqrt(lambda)."""
    width = P.shape[1]
    rows = torch.cat([P, ridge**0.5 * torch.eye(width, dtype=P.dtype)])
    if intercept:
        rows = torch.cat([rows, torch.cat([torch.ones(len(P), 1), torch.zeros(width, 1)]).double()], 1)
    found = torch.linalg.lstsq(rows, torch.cat([Y, torch.zeros(width, Y.shape[1], dtype=Y.dtype)])).solution
    return found[:width].mT, found[width] if intercept else torch.zeros(Y.shape[1], dtype=Y.dtype)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [0.0, 0.5, 40.0])
def test_a_streamed_solution_is_that_of_least_squares(intercept: bool, ridge: float) -> None:
    P, Y = data()
    sums = Ridge(9, 3, intercept=intercept)
    for part in range(0, 60, 7):
        sums.add(P[part : part + 7], Y[part : part + 7])
    fit = sums.solve(ridge)
    weight, bias = reference(P, Y, ridge, intercept)
    torch.testing.assert_close(fit.weight, weight, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(fit.bias, bias, rtol=1e-8, atol=1e-9)
    missed = Y - fit(P)
    total = (Y - Y.mean(0) if intercept else Y).square().sum()
    assert fit.error == pytest.approx(float(missed.square().sum() / total), rel=1e-8)
    assert sums.residual(fit) == pytest.approx(float(missed.square().sum()), rel=1e-8)
    path = sums.path()
    torch.testing.assert_close(path.fit(ridge).weight, weight, rtol=1e-8, atol=1e-9)
    assert path.fit(ridge).error == pytest.approx(fit.error, rel=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 3.0, None])
def test_the_gradient_vanishes_at_the_solution(ridge: float | None) -> None:
    P, Y = data()
    fit = Ridge(9, 3).add(P, Y).solve(ridge)
    weight, bias = fit.weight.requires_grad_(), fit.bias.requires_grad_()
    loss = (Y - P @ weight.mT - bias).square().sum() + fit.ridge * weight.square().sum()
    loss.backward()
    for gradient in (weight.grad, bias.grad):
        assert gradient is not None and float(gradient.abs().max()) < 1e-9 * loss.item()


def test_merged_sums_and_taken_columns_are_those_of_the_data() -> None:
    P, Y = data()
    parts = Ridge(9, 3).add(P[:20].reshape(4, 5, 9), Y[:20].reshape(4, 5, 3)).merge(Ridge(9, 3).add(P[20:], Y[20:]))
    torch.testing.assert_close(parts.solve(1.0).weight, Ridge(9, 3).add(P, Y).solve(1.0).weight)
    some = [7, 0, 3]
    fit = parts.take(some).solve(1.0)
    weight, bias = reference(P[:, some], Y, 1.0, intercept=True)
    torch.testing.assert_close(fit.weight, weight)
    torch.testing.assert_close(fit.bias, bias)
    assert parts.count == 60


def refitted_without_each(P: Tensor, Y: Tensor, ridge: float, intercept: bool) -> float:
    """Sum of squared errors on examples that the fit has not seen: the plain way."""
    total = 0.0
    for i in range(len(P)):
        rest = torch.arange(len(P)) != i
        weight, bias = reference(P[rest], Y[rest], ridge, intercept)
        total += float((Y[i] - weight @ P[i] - bias).square().sum())
    return total


@pytest.mark.parametrize("intercept", [True, False])
def test_leave_one_out_is_exact_over_batches(intercept: bool) -> None:
    P, Y = data(24)
    path = Ridge(9, 3, intercept=intercept).add(P, Y).path()
    lambdas = torch.tensor([0.1, 2.0, 30.0])
    found = sum(path.leave_one_out(P[i : i + 10], Y[i : i + 10], lambdas) for i in range(0, 24, 10))
    expected = torch.tensor([refitted_without_each(P, Y, float(v), intercept) for v in lambdas], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_generalized_cross_validation_is_its_formula_and_chooses() -> None:
    P, Y = data(24)
    sums = Ridge(9, 3).add(P, Y)
    path = sums.path()
    expected = []
    for ridge in path.lambdas.tolist():
        centered = P - P.mean(0)
        hat = (
            centered @ torch.linalg.solve(centered.mT @ centered + ridge * torch.eye(9).double(), centered.mT) + 1 / 24
        )
        expected.append(float((Y - hat @ Y).square().sum()) / 24 / (1 - float(hat.trace()) / 24) ** 2)
    torch.testing.assert_close(path.generalized(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
    assert sums.solve().ridge == path.lambdas.tolist()[expected.index(min(expected))]


def test_a_penalty_is_chosen_where_features_depend_on_one_another() -> None:
    P, Y = data()
    P = torch.cat([P, P[:, :2]], 1)
    with pytest.raises(NotConverged, match=r"singular at ridge=0.*Give a larger ridge"):
        Ridge(11, 3).add(P, Y).solve(0.0)
    fit = Ridge(11, 3).add(P, Y).solve()
    torch.testing.assert_close(fit(P), Ridge(9, 3).add(P[:, :9], Y).solve(0.0)(P[:, :9]), rtol=0, atol=0.05)


def test_sums_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="choose a smaller width"):
        Ridge(10**8, 2)
    monkeypatch.setattr("dtheta.kernels.ridge.physical_memory", lambda: 2 * 8 * 50**2)
    assert Ridge(50, 2).width == 50
    with pytest.raises(ConfigError, match="sums of a fit on 51 features take"):
        Ridge(51, 2)
    monkeypatch.setattr("dtheta.kernels.ridge.physical_memory", lambda: None)
    assert Ridge(51, 2).width == 51


def test_bad_input_leaves_the_sums_as_they_were() -> None:
    P, Y = data()
    sums = Ridge(9, 3).add(P, Y)
    before = sums.solve(1.0).weight
    with pytest.raises(ShapeMismatch, match=r"features have shape \(60, 8\); expected \(\.\.\., 9\)"):
        sums.add(P[:, :8], Y)
    with pytest.raises(ShapeMismatch, match="60 rows of features and 59"):
        sums.add(P, Y[1:])
    P[3, 4] = torch.inf
    with pytest.raises(NonFinite, match="nothing was added"):
        sums.add(P, Y)
    assert torch.equal(sums.solve(1.0).weight, before) and sums.count == 60
    with pytest.raises(ShapeMismatch, match="cannot be added"):
        sums.merge(Ridge(9, 3, intercept=False))
    with pytest.raises(ConfigError, match="no examples"):
        Ridge(2, 2).solve(1.0)
    with pytest.raises(ConfigError, match="0 or more"):
        sums.solve(-1.0)


def test_features_that_are_all_constant_are_told_a_penalty_that_solves_it() -> None:
    sums = Ridge(2, 1).add(torch.ones(4, 2), torch.arange(4.0)[:, None])
    with pytest.raises(NotConverged, match="such as 1e-10"):
        sums.solve(0.0)
    assert bool(sums.solve(1e-10).weight.isfinite().all())
