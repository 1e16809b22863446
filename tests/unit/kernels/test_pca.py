"""Kernel principal components, against the SVD of explicit features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.dynamics import kernel_dynamics
from dtheta.kernels.pca import kernel_pca
from tests.unit.kernels.reference_kernels import features, normal


def svd_scores(J: Tensor, new: Tensor, center: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues of the covariance (k,), and coordinates of old and new points along its eigenvectors."""
    mean = J.mean(0) if center else torch.zeros(J.shape[1], dtype=J.dtype)
    _, S, Vh = torch.linalg.svd(J - mean, full_matrices=False)
    return S.square() / J.shape[0], (J - mean) @ Vh.mT, (new - mean) @ Vh.mT


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("examples", [30, 600], ids=["whole", "lanczos"])
def test_scores_are_those_of_an_svd_of_the_features(examples: int, center: bool) -> None:
    J, new = features(examples + 5, 1, 50)[:, 0].split([examples, 5])
    J, new = J + 0.3, new + 0.3
    pca = kernel_pca(J @ J.mT, 4, center=center)
    values, scores, projected = svd_scores(J, new, center)
    torch.testing.assert_close(pca.values, values[:4], rtol=1e-9, atol=0)
    signs = (pca.scores * scores[:, :4]).sum(0).sign()
    torch.testing.assert_close(pca.scores, scores[:, :4] * signs, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pca.project(new @ J.mT), projected[:, :4] * signs, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pca.project(J @ J.mT), pca.scores, rtol=1e-6, atol=1e-8)


def test_functions_have_mean_square_one_and_decay_at_their_eigenvalue() -> None:
    J = features(25, 1, 30)[:, 0]
    K = J @ J.mT
    pca = kernel_pca(K, 3)
    torch.testing.assert_close(pca.functions.square().mean(0), torch.ones(3, dtype=torch.float64))
    for i in range(3):
        start = 0.5 * pca.functions[:, i]
        left = kernel_dynamics(K, torch.zeros(25), start, average="examples").flow(2.0).outputs[:, 0]
        torch.testing.assert_close(left, start * torch.exp(-2.0 * pca.values[i]))


def test_repeated_eigenvalues_are_all_found_in_a_large_kernel() -> None:
    n, copies = 500, 12
    U = torch.linalg.qr(torch.randn(n, n, generator=generator(0, "U"), dtype=torch.float64)).Q
    values = torch.full((n,), 1e-3, dtype=torch.float64)
    values[:copies] = 1.0
    pca = kernel_pca((U * values) @ U.mT, copies)
    torch.testing.assert_close(pca.values * n, torch.ones(copies, dtype=torch.float64))


def test_signs_and_components_do_not_depend_on_how_many_are_asked_for() -> None:
    J = features(500, 1, 40)[:, 0]
    few, many, whole = (kernel_pca(J @ J.mT, k) for k in (2, 10, 200))
    torch.testing.assert_close(few.vectors, many.vectors[:, :2], rtol=0, atol=1e-6)
    torch.testing.assert_close(few.vectors, whole.vectors[:, :2], rtol=0, atol=1e-6)


def test_new_points_have_no_coordinate_along_a_null_component() -> None:
    J = features(10, 1, 3)[:, 0]
    pca = kernel_pca(J @ J.mT, 5)
    assert int((pca.values > 0).sum()) == 3
    with pytest.raises(ConfigError, match="only 3 of 5"):
        pca.project(J @ J.mT)


def test_bad_requests_are_refused() -> None:
    J = features(8, 1, 9)[:, 0]
    K = J @ J.mT
    with pytest.raises(ConfigError, match="at most 8"):
        kernel_pca(K, 9)
    with pytest.raises(ConfigError, match="components"):
        kernel_pca(K, 0)
    with pytest.raises(ShapeMismatch, match="mean kernel"):
        kernel_pca(torch.zeros(4, 4, 2, 2), 1)
    with pytest.raises(ConfigError, match="semi-definite"):
        kernel_pca(-K, 1)
    with pytest.raises(NonFinite):
        kernel_pca(K / 0, 1)
    with pytest.raises(ShapeMismatch, match="new points"):
        kernel_pca(K, 2).project(normal(3, 7))
