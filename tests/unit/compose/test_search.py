"""Coefficients found without gradients: the objective, its penalty, several tasks, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dtheta.compose.search import search_coefficients
from dtheta.core.apply import applied
from dtheta.errors import BaseMismatch, ConfigError, NonFinite
from tests.unit.compose.examples import bits, delta, normal


def square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean()


def test_the_objective_is_loss_and_magnitudes(tiny_mlp: nn.Module) -> None:
    """What the report says is what the composed delta gives, plus the penalty."""
    deltas, x = [delta(tiny_mlp, "ternary"), delta(tiny_mlp, "low-rank", 1)], normal(8, 12)
    before = bits(tiny_mlp)
    found = search_coefficients(tiny_mlp, deltas, [x[:4], x[4:]], square, evaluations=50, penalty=1e-4, seed=2)
    assert bits(tiny_mlp) == before
    c = found.values[:, 0, 0]
    with applied(tiny_mlp, float(c[0]) * deltas[0] + float(c[1]) * deltas[1]):
        wanted = float((square(tiny_mlp, x[:4]) + square(tiny_mlp, x[4:])).detach() / 2) + 1e-4 * float(c.abs().sum())
    assert found.report is not None and c.any()
    assert found.report.epochs[found.report.best].scores["objective"] == pytest.approx(wanted, rel=1e-5)
    again = search_coefficients(tiny_mlp, deltas, [x[:4], x[4:]], square, evaluations=50, penalty=1e-4, seed=2)
    assert again == found


def test_a_large_penalty_keeps_the_base(tiny_mlp: nn.Module) -> None:
    deltas = [delta(tiny_mlp, "dense", i) for i in range(2)]
    found = search_coefficients(tiny_mlp, deltas, [normal(8, 12)], square, penalty=1e3, evaluations=40)
    assert not found.values.any() and found.report is not None and found.report.best == 0


def test_several_tasks_are_added(tiny_mlp: nn.Module) -> None:
    deltas, x = [delta(tiny_mlp, "dense", i) for i in range(2)], normal(8, 12)
    both = search_coefficients(tiny_mlp, deltas, {"a": [x], "b": [x]}, square, penalty=0.1, evaluations=30)
    once = search_coefficients(tiny_mlp, deltas, [x], square, penalty=0.05, evaluations=30)
    assert both == once  # twice the loss and twice the penalty


def test_blocks_that_a_delta_does_not_change_have_zeros(tiny_mlp: nn.Module) -> None:
    deltas = [delta(tiny_mlp, "dense", 0, ["0.weight"]), delta(tiny_mlp, "dense", 1, ["2.weight"])]
    found = search_coefficients(tiny_mlp, deltas, [normal(8, 12)], square, penalty=0.0, evaluations=30)
    assert found.values[0, 1, 0] == found.values[1, 0, 0] == 0 and found.values[0, 0, 0] != 0


def test_what_cannot_be_meant(tiny_mlp: nn.Module) -> None:
    deltas, x = [delta(tiny_mlp, "dense")], normal(8, 12)
    before = bits(tiny_mlp)
    for changes in (
        {"evaluations": 0},
        {"evaluations": 2.0},
        {"penalty": -1.0},
        {"bound": 0.0},
        {"spread": float("nan")},
    ):
        with pytest.raises(ConfigError, match=next(iter(changes))):
            search_coefficients(tiny_mlp, deltas, [x], square, **changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no batch"):
        search_coefficients(tiny_mlp, deltas, [], square)
    with pytest.raises(NonFinite, match="the loss is nan"):
        search_coefficients(tiny_mlp, deltas, [x], lambda m, b: square(m, b) * float("nan"))
    assert bits(tiny_mlp) == before
    with torch.no_grad():
        tiny_mlp[0].weight += 1
    with pytest.raises(BaseMismatch):
        search_coefficients(tiny_mlp, deltas, [x], square)


def test_a_loss_is_one_number(tiny_mlp: nn.Module) -> None:
    deltas, x = [delta(tiny_mlp, "dense")], normal(8, 12)
    as_number: Any = lambda m, b: float(square(m, b))  # noqa: E731
    assert search_coefficients(tiny_mlp, deltas, [x], as_number, evaluations=3) is not None
    with pytest.raises(ConfigError, match=r"the loss must be one number, got \(8,\); return its mean"):
        search_coefficients(tiny_mlp, deltas, [x], lambda m, b: m(b).sum(1))
    with pytest.raises(ConfigError, match="the loss must be one number, got NoneType"):
        search_coefficients(tiny_mlp, deltas, [x], lambda m, b: None)  # type: ignore[arg-type, return-value]
