"""Truncated SVD on real weights, against SciPy's LAPACK and against the fast SVD that peft's PiSSA runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dtheta.core.linalg import principal_angles
from dtheta.core.svd import TruncatedSVD, truncated_svd

linalg = pytest.importorskip("scipy.linalg")

NAMES = {
    "square": "encoder.layer.3.attention.self.key.weight",
    "tall": "encoder.layer.0.intermediate.dense.weight",
    "wide": "encoder.layer.5.output.dense.weight",
}


@pytest.fixture(params=NAMES, scope="module")
def weight(request, minilm) -> Tensor:
    return dict(minilm.named_parameters())[NAMES[request.param]].detach()


@pytest.fixture(scope="module")
def exact(weight) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return linalg.svd(weight.double().numpy(), full_matrices=False)


def errors(found: TruncatedSVD, sigma: np.ndarray) -> float:
    return float((np.abs(found.S.double().numpy() - sigma[: found.rank]) / sigma[: found.rank]).max())


def excess(found: TruncatedSVD, weight: Tensor, sigma: np.ndarray) -> float:
    rest = torch.linalg.vector_norm(weight.double() - found.dense().double())
    return float(rest) / float(np.sqrt((sigma[found.rank :] ** 2).sum())) - 1


def lowrank(weight: Tensor, rank: int) -> TruncatedSVD:
    """What peft calls for init_lora_weights="pissa_niter_16"."""
    torch.manual_seed(0)
    U, S, V = torch.svd_lowrank(weight, q=rank, niter=16)
    return TruncatedSVD(U, S, V.mT, float("nan"), float("nan"), "svd_lowrank")


@pytest.mark.parametrize("rank", [1, 16, 64, 128])
def test_values_are_lapacks_to_1e_5(weight, exact, rank):
    found = truncated_svd(weight, rank)
    assert errors(found, exact[1]) <= 1e-5
    assert excess(found, weight, exact[1]) < 1e-5


def test_leading_vectors_are_lapacks(weight, exact):
    U, sigma, _ = exact
    gaps = (sigma[:16] - sigma[1:17]) / sigma[:16]
    kept = int(np.argmax(gaps > 0.02)) + 1  # up to the first clear gap the span is well defined
    found = truncated_svd(weight, 64)
    assert principal_angles(found.U[:, :kept], torch.from_numpy(U[:, :kept].copy())).max() < 1e-3


def test_every_mode_is_closer_than_svd_lowrank_with_16_rounds(weight, exact):
    peer = lowrank(weight, 64)
    for accuracy in (1e-5, None):
        found = truncated_svd(weight, 64, accuracy=accuracy)
        assert errors(found, exact[1]) <= errors(peer, exact[1])
        assert excess(found, weight, exact[1]) <= excess(peer, weight, exact[1])


def test_a_second_call_gives_the_same_and_svd_lowrank_does_not(weight):
    first, second = truncated_svd(weight, 64), truncated_svd(weight, 64)
    assert torch.equal(first.U, second.U) and torch.equal(first.Vh, second.Vh)
    torch.manual_seed(0)
    one, other = torch.svd_lowrank(weight, q=64, niter=16), torch.svd_lowrank(weight, q=64, niter=16)
    products = [(U * S) @ V.mT for U, S, V in (one, other)]
    assert (products[0] - products[1]).abs().max() > 1e-3 * weight.abs().max()
