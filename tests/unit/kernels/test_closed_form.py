"""Solved heads: vanishing gradients, the dual form equal to the primal one, lambda by refits without each example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.kernels.closed_form import least_squares, solve_head
from dtheta.kernels.ridge import Ridge


def data(count: int, width: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Overlapping clouds far from the origin, in float32."""
    draw = generator(0, "heads", width)
    labels = torch.arange(count) % classes
    return 3 + torch.randn(classes, width, generator=draw)[labels] + torch.randn(count, width, generator=draw), labels


@pytest.mark.parametrize("width", [5, 80])
@pytest.mark.parametrize("loss", ["mse", "logistic"])
@pytest.mark.parametrize("ridge", [0.7, None])
def test_the_gradient_vanishes(width: int, loss: str, ridge: float | None) -> None:
    features, labels = data(40, width)
    head = solve_head(features, labels, loss, ridge)  # type: ignore[arg-type]
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    outputs = features.double() @ weight.mT + bias
    if loss == "mse":
        plain = (F.one_hot(labels).double() - outputs).square().sum()
    else:
        plain = 0.5 * F.cross_entropy(
            outputs, labels, reduction="sum"
        )  # half of both terms: the penalty is lambda |U|^2
    (plain + head.ridge * weight.square().sum() / (1 if loss == "mse" else 4)).backward()
    for gradient in (weight.grad, bias.grad):
        assert gradient is not None and float(gradient.abs().max()) < 1e-4
    assert head.loss == pytest.approx(float(plain) / 40 * (1 if loss == "mse" else 2), rel=1e-6)
    assert (head.estimate is None) == (ridge is not None)
    torch.testing.assert_close(head.linear()(features), head(features).float(), rtol=1e-4, atol=1e-4)


def test_the_dual_form_is_the_primal_one() -> None:
    features, labels = data(30, 50)
    targets = F.one_hot(labels).double()
    fit, _ = least_squares(features, targets, 0.3)
    primal = Ridge(50, 3).add(features, targets).solve(0.3)
    torch.testing.assert_close(fit.weight, primal.weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(fit.bias, primal.bias, rtol=1e-6, atol=1e-8)
    assert fit.error == pytest.approx(primal.error, rel=1e-6)


@pytest.mark.parametrize("width", [6, 40])
def test_the_estimate_is_the_error_of_refits_without_each_example(width: int) -> None:
    features, labels = data(20, width)
    targets = F.one_hot(labels).double()
    fit, estimate = least_squares(features, targets)
    missed = 0.0
    for i in range(20):
        rest = torch.arange(20) != i
        without = Ridge(width, 3).add(features[rest], targets[rest]).solve(fit.ridge)
        missed += float((targets[i] - without(features[i])).square().sum())
    assert estimate == pytest.approx(missed / 20, rel=1e-6)


def test_cross_validation_prefers_a_penalty_that_helps_unseen_examples() -> None:
    features, labels = data(60, 40)
    unseen, truth = data(600, 40)
    unseen = unseen + 0.3 * torch.randn(unseen.shape, generator=generator(1, "heads"))
    losses = {
        r: float(F.cross_entropy(solve_head(features, labels, "logistic", r)(unseen), truth)) for r in (1e-4, None)
    }
    assert losses[None] < losses[1e-4]


def test_numbers_are_targets_too() -> None:
    features, _ = data(50, 4)
    targets = features @ torch.randn(4, 2, generator=generator(2, "heads")) - 1
    head = solve_head(features, targets)
    torch.testing.assert_close(head(features).float(), targets, rtol=1e-3, atol=1e-3)


def test_bad_input() -> None:
    features, labels = data(12, 4)
    with pytest.raises(ConfigError, match="did you mean 'logistic'"):
        solve_head(features, labels, "logistics")  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatch, match="expected"):
        solve_head(features, labels[1:])
    with pytest.raises(ConfigError, match="class ids"):
        solve_head(features, labels * 0, "logistic")
    with pytest.raises(ConfigError, match="no class ids"):
        solve_head(features, labels.float())
    with pytest.raises(ConfigError, match="positive ridge"):
        solve_head(features, labels, "logistic", 0)
    with pytest.raises(ConfigError, match="takes class ids"):
        solve_head(features, F.one_hot(labels), "logistic")
    with pytest.raises(NotConverged):
        solve_head(torch.cat([features, features], 1)[:, :8], labels, "mse", 0)
    features[0, 0] = torch.nan
    for width in (4, 40):
        with pytest.raises(NonFinite):
            solve_head(features.repeat(1, width // 4), labels)
