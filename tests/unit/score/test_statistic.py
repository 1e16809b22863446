"""Statistics give one value per example, and refuse what has no value."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score import Confusion, Correct, LogLoss, SquaredError

LOGITS_NK = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 0.0, 4.0], [5.0, 0.0, 0.0]])
TARGET_N = torch.tensor([0, 1, 1, 2])
FOUR, FIVE = torch.zeros(4, dtype=torch.long), torch.zeros(5, dtype=torch.long)


def test_correct_from_logits_equals_correct_from_labels() -> None:
    assert Correct()(LOGITS_NK, TARGET_N).tolist() == [1, 1, 0, 0]
    assert torch.equal(Correct()(LOGITS_NK, TARGET_N), Correct()(LOGITS_NK.argmax(-1), TARGET_N))


def test_log_loss_is_torch_cross_entropy_and_float64() -> None:
    values = LogLoss()(LOGITS_NK.bfloat16(), TARGET_N)
    expected = torch.nn.functional.cross_entropy(LOGITS_NK.double(), TARGET_N, reduction="none")
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, expected, rtol=1e-14, atol=0)


def test_tokens_are_examples_and_ignored_targets_are_left_out() -> None:
    logits_BTV = LOGITS_NK.reshape(2, 2, 3)
    target_BT = torch.tensor([[0, -100], [1, 2]])
    assert LogLoss()(logits_BTV, target_BT).shape == (3,)
    assert Correct()(logits_BTV, target_BT).tolist() == [1, 0, 0]


def test_confusion_counts_target_by_prediction() -> None:
    counts = Confusion(3)(LOGITS_NK, TARGET_N).sum(dim=0)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("statistic", [Correct(), LogLoss(), Confusion(3)])
def test_a_batch_without_examples_has_no_values(statistic) -> None:
    assert len(statistic(LOGITS_NK[:0], TARGET_N[:0])) == 0
    assert SquaredError()(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3)).shape == (0,)


def test_squared_error_averages_components_of_an_example() -> None:
    prediction, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 2.0]])
    assert SquaredError()(prediction, target).tolist() == [2.5, 2.0]


def test_identity_is_class_and_fields() -> None:
    assert Correct() == Correct() and hash(Correct()) == hash(Correct())
    assert Confusion(3) != Confusion(4) and Correct() != LogLoss()


@pytest.mark.parametrize(
    ("statistic", "prediction", "target", "error", "message"),
    [
        (
            Correct(),
            torch.zeros(4, 3),
            torch.zeros(5, dtype=torch.long),
            ShapeMismatch,
            r"expected logits \(5, classes\)",
        ),
        (
            LogLoss(),
            torch.zeros(4, dtype=torch.long),
            torch.zeros(4, dtype=torch.long),
            ShapeMismatch,
            "expected logits",
        ),
        (
            LogLoss(),
            torch.zeros(2, 3, dtype=torch.long),
            torch.zeros(2, dtype=torch.long),
            ConfigError,
            "floating-point",
        ),
        (LogLoss(), torch.zeros(2, 3), torch.tensor([0, 3]), ConfigError, r"0\.\.2, found 0\.\.3"),
        (Confusion(2), torch.tensor([0, 2]), torch.tensor([0, 1]), ConfigError, r"0\.\.1, found 0\.\.2"),
        (Correct(), torch.zeros(2, 3), torch.tensor([0, 3]), ConfigError, r"0\.\.2, found 0\.\.3"),
        (Correct(), torch.zeros(2, 3), torch.tensor([-100, -1]), ConfigError, r"0\.\.2, found -1\.\.-1"),
        (
            Correct(),
            torch.zeros(2, 3),
            torch.tensor([0.0, float("nan")]),
            ConfigError,
            "whole numbers, found torch.float",
        ),
        (LogLoss(), torch.zeros(2, 3), torch.tensor([0.0, 1.7]), ConfigError, "whole numbers, found torch.float"),
        (Correct(), torch.tensor([[float("nan"), 1.0]]), torch.tensor([1]), NonFinite, "1 of 2"),
        (SquaredError(), torch.zeros(2, 3), torch.zeros(2), ShapeMismatch, "differ"),
        (SquaredError(), torch.tensor([float("inf")]), torch.zeros(1), NonFinite, "SquaredError"),
    ],
)
def test_refusals(statistic, prediction, target, error, message) -> None:
    with pytest.raises(error, match=message):
        statistic(prediction, target)
