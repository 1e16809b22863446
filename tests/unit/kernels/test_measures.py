"""Numbers of a kernel and its labels: against their definitions, and at values known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.infinite import Elementwise, Relu, fully_connected, infinite_kernel
from dtheta.kernels.measures import alignment, definiteness, effective_dimension, label_complexity
from tests.unit.kernels.reference_kernels import features, full_kernel, normal


def test_alignment_is_one_for_the_kernel_of_the_labels_and_zero_for_one_that_ignores_them() -> None:
    y = normal(9, 2, name="y")
    assert alignment(y @ y.mT, y) == pytest.approx(1)
    assert alignment(3 * y[:, :1] @ y[:, :1].mT, y[:, 0]) == pytest.approx(1)
    outside = torch.linalg.svd(y).U[:, 2:]
    assert alignment(outside @ outside.mT, y) == pytest.approx(0, abs=1e-12)


def test_alignment_of_one_output_is_the_quotient_of_cristianini() -> None:
    J, y = features(12, 1, 15)[:, 0], normal(12, name="y")
    K = J @ J.mT
    assert alignment(K, y) == pytest.approx(float(y @ K @ y / (K.norm() * y.norm() ** 2)))


def test_centering_is_that_of_features_and_labels() -> None:
    J, y = features(12, 1, 15)[:, 0] + 5, normal(12, 2, name="y") + 5
    Jc, yc = J - J.mean(0), y - y.mean(0)
    assert alignment(J @ J.mT, y, center=True) == pytest.approx(alignment(Jc @ Jc.mT, yc))
    assert alignment(J @ J.mT, y) > 0.9 > alignment(J @ J.mT, y, center=True)  # the means alone align


def test_centering_of_a_full_kernel() -> None:
    J, y = features(7, 2, 11) + 1, normal(7, 2, name="y")
    Jc = J - J.mean(0)
    found = alignment(full_kernel(J, J), y, center=True)
    assert found == pytest.approx(alignment(full_kernel(Jc, Jc), y - y.mean(0)))


def test_effective_dimension_is_the_trace_of_the_smoother() -> None:
    J = features(12, 1, 8)[:, 0]
    K = J @ J.mT
    smoother = K @ torch.linalg.inv(K + 0.2 * torch.eye(12))
    assert effective_dimension(K, 0.2) == pytest.approx(float(smoother.trace()))
    assert effective_dimension(K, 0.0) == 8
    assert effective_dimension(full_kernel(J[:, None], J[:, None]), 0.2) == pytest.approx(float(smoother.trace()))


def test_label_complexity_is_the_squared_length_of_the_shortest_move() -> None:
    J, y, start = features(9, 2, 30), normal(9, 2, name="y"), normal(9, 2, name="start")
    theta = torch.linalg.pinv(J.reshape(18, 30)) @ (y - start).reshape(-1)
    assert label_complexity(full_kernel(J, J), y, start) == pytest.approx(float(theta.square().sum()) / 9, rel=1e-6)


def test_labels_that_the_kernel_cannot_fit_are_infinitely_complex() -> None:
    J = features(9, 1, 4, decay=1)[:, 0]
    K = J @ J.mT
    theta = normal(4, name="theta")
    assert label_complexity(K, J @ theta) == pytest.approx(float(theta.square().sum()) / 9, rel=1e-6)
    assert label_complexity(K, normal(9, name="y")) == math.inf
    assert label_complexity(K, torch.zeros(9)) == 0


def test_definiteness_counts_what_is_above_rounding() -> None:
    J = features(12, 1, 8)[:, 0]
    found = definiteness(J @ J.mT)
    assert (found.rank, found.size, found.positive) == (8, 12, False)
    fine = definiteness(J[:6] @ J[:6].mT)
    assert (
        fine.positive
        and fine.smallest > 0
        and fine.largest == pytest.approx(float((J[:6] @ J[:6].mT).norm(p=2)), rel=2)
    )
    assert definiteness(torch.eye(3) * 2).largest == pytest.approx(2)


def on_the_circle(points: int) -> Tensor:
    angle = torch.linspace(0, 2 * math.pi, points + 1, dtype=torch.float64)[:-1]
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_the_kernel_of_a_rectifier_is_positive_definite_on_the_circle() -> None:
    kernel = infinite_kernel(fully_connected(depth=3, activation=Relu(), b_std=0.1), on_the_circle(40))
    assert definiteness(kernel).positive


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_a_polynomial_leaves_few_functions_on_the_circle(degree: int) -> None:
    """Why proposition 2 of the NTK paper excludes polynomials: degree p spans 2 p + 1 functions there."""
    x = on_the_circle(40)
    found = definiteness((x @ x.mT + 1) ** degree)
    assert found.rank == 2 * degree + 1 and not found.positive


def test_a_network_that_squares_has_a_singular_kernel() -> None:
    spec = fully_connected(depth=2, activation=Elementwise(torch.square), b_std=0.1)
    found = definiteness(infinite_kernel(spec, on_the_circle(40)))
    assert found.rank == 5 and not found.positive


def test_bad_kernels_are_refused() -> None:
    K, y = torch.eye(4), torch.ones(4)
    for measure in (lambda k: alignment(k, y), lambda k: effective_dimension(k, 1.0), lambda k: label_complexity(k, y)):
        with pytest.raises(NonFinite):
            measure(K / 0)
        with pytest.raises(ConfigError, match="symmetric"):
            measure(K + torch.ones(4, 4).triu())
        with pytest.raises(ShapeMismatch):
            measure(K[:2])
    with pytest.raises(ConfigError, match="semi-definite"):
        effective_dimension(-K, 1.0)
    with pytest.raises(ConfigError, match="penalty"):
        effective_dimension(K, -1.0)
    with pytest.raises(ConfigError, match="kernel is zero"):
        alignment(0 * K, y)
    with pytest.raises(ConfigError, match="y is zero after centering"):
        alignment(K, y, center=True)
