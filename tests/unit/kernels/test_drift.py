"""Drift and nonlinearity: zero for a linear model, and at values known by hand."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.drift import kernel_drift, nonlinearity_index
from tests.unit.kernels.reference_kernels import features, full_kernel, normal


def test_a_kernel_that_is_scaled_keeps_its_direction() -> None:
    J = features(10, 1, 12)[:, 0]
    K = J @ J.mT
    drift = kernel_drift(K, 1.5 * K)
    assert (
        drift.cka == pytest.approx(1) and drift.inflation == pytest.approx(1.5) and drift.change == pytest.approx(0.5)
    )
    same = kernel_drift(K, K)
    assert same.cka == pytest.approx(1) and same.inflation == 1 and same.change == 0


def test_cka_is_that_of_centered_features() -> None:
    A, B = features(10, 1, 12)[:, 0] + 2, normal(10, 7, name="B")
    a, b = A - A.mean(0), B - B.mean(0)
    wanted = (a.mT @ b).square().sum() / ((a.mT @ a).norm() * (b.mT @ b).norm())  # Kornblith et al., linear CKA
    assert kernel_drift(A @ A.mT, B @ B.mT).cka == pytest.approx(float(wanted))


def test_unrelated_features_have_cka_zero() -> None:
    U = torch.linalg.qr(torch.cat([torch.ones(8, 1, dtype=torch.float64), normal(8, 6)], 1)).Q[:, 1:]  # mean 0
    a, b = U[:, :3], U[:, 3:]
    assert kernel_drift(a @ a.mT, b @ b.mT).cka == pytest.approx(0, abs=1e-12)


def test_full_kernels_drift_too() -> None:
    J = features(6, 2, 9)
    assert kernel_drift(full_kernel(J, J), 4 * full_kernel(J, J)).inflation == pytest.approx(4)


def test_nonlinearity_of_a_parabola() -> None:
    theta, d = normal(5), 0.1 * normal(5, name="d")
    before, after, linear = theta.square(), (theta + d).square(), 2 * theta * d
    wanted = d.square().norm() / (2 * theta * d + d.square()).norm()
    assert nonlinearity_index(before, after, linear) == pytest.approx(float(wanted))
    assert nonlinearity_index(before, before + linear, linear) == pytest.approx(0, abs=1e-12)
    assert nonlinearity_index(before, after, torch.zeros(5)) == 1


def test_what_cannot_be_compared_is_refused() -> None:
    K, x = torch.eye(4), torch.ones(3)
    with pytest.raises(ShapeMismatch, match="the same"):
        kernel_drift(K, torch.eye(3))
    with pytest.raises(NonFinite, match="after"):
        kernel_drift(K, K / 0)
    with pytest.raises(ConfigError, match="after training does not tell"):
        kernel_drift(K, torch.ones(4, 4))
    with pytest.raises(ConfigError, match="before training does not tell"):
        kernel_drift(0 * K, K)
    with pytest.raises(ShapeMismatch, match="the same"):
        nonlinearity_index(x, x, x[:2])
    with pytest.raises(ConfigError, match="did not change"):
        nonlinearity_index(x, x, x)
    with pytest.raises(NonFinite):
        nonlinearity_index(x, x / 0, x)
