"""Negation: the target falls, the control is kept; the stop rule, and zeros where it is not feasible."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.compose.coefficients import Coefficients
from dtheta.compose.compose import compose
from dtheta.compose.negation import learn_negation
from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, DthetaWarning
from tests.unit.compose.examples import bits, delta, normal

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(batch: Batch) -> Any:
    return lambda model: float((model(batch[0]).argmax(1) == batch[1]).double().mean())


@pytest.fixture
def problem(tiny_mlp: nn.Module) -> tuple[Delta, Batch, Batch]:
    """Data that the model itself labels: both tasks begin at accuracy 1; the deltas turn the output layer only."""
    x, y = normal(64, 12, name="target"), normal(64, 12, name="control")
    with torch.no_grad():
        return delta(tiny_mlp), (x, tiny_mlp(x).argmax(1)), (y, tiny_mlp(y).argmax(1))


def scored(values: list[float]) -> Any:
    numbers: Iterator[float] = iter(values)
    return lambda model: next(numbers)


def negate(model: nn.Module, problem: tuple[Delta, Batch, Batch], **arguments: Any) -> Coefficients:
    one, target, control = problem
    return learn_negation(model, [one], [target], [control], loss, **arguments)


def test_the_target_falls_and_the_control_is_kept(tiny_mlp: nn.Module, problem: tuple[Delta, Batch, Batch]) -> None:
    _, target, control = problem
    before = bits(tiny_mlp)
    found = negate(
        tiny_mlp,
        problem,
        target_metric=accuracy(target),
        control_metric=accuracy(control),
        keep=0.5,
        epochs=60,
        lr=3e-2,
    )
    assert bits(tiny_mlp) == before and found.report is not None and found.report.feasible
    with applied(tiny_mlp, compose([problem[0]], found)):
        low, kept = accuracy(target)(tiny_mlp), accuracy(control)(tiny_mlp)
    assert low < 1.0 and kept >= 0.5
    assert found.report.epochs[found.report.best].scores == {"target": low, "control": kept}


def test_the_loss_is_control_less_target(tiny_mlp: nn.Module, problem: tuple[Delta, Batch, Batch]) -> None:
    _, target, control = problem
    found = negate(tiny_mlp, problem, target_metric=scored([1.0] * 2), control_metric=scored([1.0] * 2), epochs=1)
    assert found.report is not None and found.report.epochs[1].loss is not None
    with torch.no_grad():
        expected = float(loss(tiny_mlp, control) - loss(tiny_mlp, target))
    assert found.report.epochs[1].loss == pytest.approx(expected, rel=1e-5)


def test_the_run_stops_when_the_control_breaks(tiny_mlp: nn.Module, problem: tuple[Delta, Batch, Batch]) -> None:
    target, control = scored([0.9, 0.7, 0.5, 0.1]), scored([1.0, 0.99, 0.96, 0.94])
    found = negate(tiny_mlp, problem, target_metric=target, control_metric=control, epochs=9, lr=0.01)
    report = found.report
    assert report is not None and report.best == 2 and report.feasible and len(report.epochs) == 4
    assert "stopped after epoch 3" in report.reason
    two = negate(
        tiny_mlp, problem, target_metric=scored([9.0, 8.0, 7.0]), control_metric=scored([1.0] * 3), epochs=2, lr=0.01
    )
    assert found == two


def test_zeros_where_no_epoch_keeps_the_control(tiny_mlp: nn.Module, problem: tuple[Delta, Batch, Batch]) -> None:
    with pytest.warns(DthetaWarning, match="not feasible"):
        found = negate(tiny_mlp, problem, target_metric=scored([0.9, 0.1]), control_metric=scored([1.0, 0.5]), epochs=9)
    assert found == Coefficients.zeros([problem[0]]) and found.report is not None and not found.report.feasible


def test_a_target_that_never_falls_keeps_the_base(tiny_mlp: nn.Module, problem: tuple[Delta, Batch, Batch]) -> None:
    found = negate(tiny_mlp, problem, target_metric=scored([0.5, 0.6, 0.5]), control_metric=scored([1.0] * 3), epochs=2)
    assert not found.values.any() and found.report is not None and found.report.feasible and found.report.best == 0


def test_losses_are_functions(tiny_mlp: nn.Module) -> None:
    x, found = normal(8, 12), [delta(tiny_mlp, "dense")]
    with pytest.raises(ConfigError, match="the loss is a NoneType; expected a function for 'target'"):
        learn_negation(tiny_mlp, found, [x], [x], None, target_metric=float, control_metric=float)  # type: ignore[arg-type]
