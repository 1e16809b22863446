"""Kernel regression beside the head: equal to as many refits, and its choices come from the other half."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from dtheta.scout.regression import PENALTIES, STRENGTHS, Half, aligned, regress, tells_apart


def half(seed: int, n: int = 14, classes: int = 3) -> Half:
    drawn = torch.Generator().manual_seed(seed)
    h, J = (torch.randn(n, d, generator=drawn, dtype=torch.float64) for d in (5, 40))
    labels = torch.arange(n) % classes
    start = 0.3 * torch.randn(n, classes, generator=drawn, dtype=torch.float64)
    return Half(labels, F.one_hot(labels, classes).double(), start, start.abs(), h @ h.T + 1, J @ J.T, J @ J.T)


def refits(one: Half, strength: float, penalty: float) -> torch.Tensor:
    """Predict each example from a regression on the others."""
    K = one.head / one.head.trace() + strength * one.kernel / one.kernel.trace()
    K = K * len(K) / (1 + strength)
    rows = []
    for i in range(len(K)):
        rest = [j for j in range(len(K)) if j != i]
        alpha = torch.linalg.solve(
            K[rest][:, rest] + penalty * torch.eye(len(rest), dtype=K.dtype), (one.target - one.prior)[rest]
        )
        rows.append(one.prior[i] + K[i, rest] @ alpha)
    return torch.stack(rows)


def test_predictions_are_those_of_refits_without_the_example() -> None:
    halves = [half(0), half(1)]
    for one, found in zip(halves, regress(halves), strict=True):
        wanted = refits(one, found.strength, found.penalty)
        torch.testing.assert_close(found.predictions, wanted, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.errors, (wanted - one.target).square().sum(1))
        assert torch.equal(found.correct, (wanted.argmax(1) == one.labels).double())


def test_each_half_is_predicted_at_the_choice_of_the_other() -> None:
    halves = [half(0), half(1)]
    errors = [
        {(w, p): float((refits(one, w, p) - one.target).square().sum()) for w in STRENGTHS for p in PENALTIES}
        for one in halves
    ]
    for i, found in enumerate(regress(halves)):
        assert (found.strength, found.penalty) == min(errors[1 - i], key=errors[1 - i].__getitem__)


def test_a_kernel_of_zeros_leaves_the_head_alone() -> None:
    halves = [
        Half(h.labels, h.target, h.prior, h.start, h.head, torch.zeros_like(h.kernel), h.moves)
        for h in (half(0), half(1))
    ]
    alone = regress([half(0), half(1)], strengths=(0.0,))
    for one, other in zip(regress(halves), alone, strict=True):
        torch.testing.assert_close(one.predictions, other.predictions)


def test_a_kernel_of_one_number_is_aligned_with_nothing() -> None:
    wanted = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant = torch.full((6, 6), 0.3, dtype=torch.float64)
    rounded = constant * (1 + 1e-8 * (wanted @ wanted.mT))
    assert not tells_apart(constant) and aligned(constant, wanted) == aligned(rounded, wanted) == 0.0
    assert not tells_apart(0 * constant) and tells_apart(wanted @ wanted.mT)
    assert aligned(wanted @ wanted.mT, wanted) == pytest.approx(1.0)
