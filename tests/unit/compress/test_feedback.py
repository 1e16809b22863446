"""Error feedback: nothing is lost over rounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dtheta.compress.feedback import ErrorFeedback, step
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.ternary import Ternary
from dtheta.errors import ConfigError, UnsupportedLayer
from tests.unit.compress.reference import draw


def update(index: int) -> Delta:
    return Delta({"d": Dense(1e-3 * draw(12, 10, index=index)), "l": LowRank(draw(40, 2, index=index), draw(2, 50))})


@pytest.mark.parametrize("of", ["product", "balanced"])
def test_what_was_sent_and_what_is_left_is_everything(of) -> None:
    feedback, sent, whole = ErrorFeedback(0.1, of=of), [], []
    for i in range(4):
        whole.append(update(i))
        sent.append(feedback.send(whole[-1]))
    assert feedback.residual is not None
    for name in ("d", "l"):
        expected = sum(delta[name].dense().double() for delta in whole)
        found = sum(delta[name].dense().double() for delta in sent) + feedback.residual[name].dense()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_bookkeeping_of_dense_rounds_is_exact_to_float64() -> None:
    delta = update(0).restrict("d")
    sent, residual = step(delta, density=0.2)
    exact = delta["d"].dense().double() - sent["d"].dense().double()
    assert torch.equal(residual["d"].dense(), exact)
    assert isinstance(residual["d"], Dense) and isinstance(sent["d"], Ternary)


def test_a_small_steady_push_gets_through_with_feedback_and_never_without() -> None:
    push = Delta({"a": Dense(torch.tensor([1.0, 0.01]))})
    feedback = ErrorFeedback(0.5)
    totals = sum(feedback.send(push)["a"].dense() for _ in range(300))
    assert totals[1] > 0
    assert all(ErrorFeedback(0.5).send(push)["a"].dense()[1] == 0 for _ in range(3))


def test_a_factored_residual_stays_in_factors_while_they_are_smaller() -> None:
    feedback = ErrorFeedback(0.3, of="balanced")
    feedback.send(update(0))
    assert feedback.residual is not None
    assert isinstance(feedback.residual["l"], LowRank) and feedback.residual["l"].rank == 4
    for i in range(1, 8):
        feedback.send(update(i))
    assert isinstance(feedback.residual["l"], Dense)


def test_a_residual_can_be_handed_over() -> None:
    first = ErrorFeedback(0.2)
    first.send(update(0))
    second = ErrorFeedback(0.2, residual=first.residual)
    assert first.send(update(1)) == second.send(update(1))


def test_what_has_no_residual_is_refused() -> None:
    with pytest.raises(ConfigError, match="balanced"):
        step(update(0), of="factors")
    with pytest.raises(UnsupportedLayer, match="prompt"):
        step(Delta({"prompt": New(draw(2, 3)), "a": Dense(draw(4))}), keep="prompt")


@pytest.mark.parametrize(
    "arguments",
    [{"density": 2.0}, {"alpha": 0.0}, {"scale": "mean"}, {"per": "layer"}, {"of": "factors"}, {"of": "all"}],
)
def test_arguments_are_checked_before_the_first_round(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ErrorFeedback(**arguments)


def test_what_is_no_delta_is_refused() -> None:
    with pytest.raises(ConfigError, match="a str was given; expected one delta"):
        ErrorFeedback().send("a.delta")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a str was given; expected one delta"):
        ErrorFeedback(residual="a.delta")  # type: ignore[arg-type]
