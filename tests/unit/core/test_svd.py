"""Truncated SVD: every route against a plain reference, over spectra that break iterations; honest error estimates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dtheta.core.gram import gram_matrix, gram_pairs, is_complete
from dtheta.core.krylov import FLOOR, KrylovBasis, RitzPairs, crowded, singular_value_error
from dtheta.core.seeds import generator
from dtheta.core.svd import TruncatedSVD, full_svd, truncated_svd
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch, UnsupportedLayer
from tests.unit.core.spectra import SPECTRA, matrix


def reference(weight: Tensor) -> np.ndarray:
    """All singular values, by NumPy in float64."""
    return np.linalg.svd(weight.double().numpy(), compute_uv=False)


def true_error(found: TruncatedSVD, sigma: np.ndarray) -> float:
    """What ``found.error`` estimates."""
    sigma = sigma[: found.rank]
    return float((np.abs(found.S.double().numpy() - sigma) / np.maximum(sigma, FLOOR * sigma[0])).max())


def check(found: TruncatedSVD, weight: Tensor, rank: int, sigma: np.ndarray | None = None) -> None:
    """Everything that holds for any result: shapes, orthonormality, order, signs, residual, honesty."""
    m, n = weight.shape
    assert found.U.shape == (m, rank) and found.S.shape == (rank,) and found.Vh.shape == (rank, n)
    eye = torch.eye(rank, dtype=torch.float64)
    assert (found.U.double().mT @ found.U.double() - eye).abs().max() < 1e-5
    assert (found.Vh.double() @ found.Vh.double().mT - eye).abs().max() < 1e-5
    assert (found.S >= 0).all() and (found.S.diff() <= 0).all()
    assert (found.Vh.gather(1, found.Vh.abs().argmax(1, keepdim=True)) > 0).all()
    rest = weight.double() - (found.U.double() * found.S.double()) @ found.Vh.double()
    assert found.residual == pytest.approx(float(rest.norm() / weight.double().norm()), abs=1e-5)
    assert true_error(found, reference(weight) if sigma is None else sigma) <= found.error


@pytest.mark.parametrize("name", SPECTRA)
def test_values_are_as_accurate_as_asked_and_the_estimate_is_honest(name):
    weight = matrix(SPECTRA[name], 260, 290)
    sigma = reference(weight)
    for rank, accuracy, route in ((40, 1e-5, "auto"), (8, 1e-5, "gram"), (40, 1e-2, "krylov"), (16, 1e-4, "krylov")):
        found = truncated_svd(weight, rank, accuracy=accuracy, route=route)
        check(found, weight, rank, sigma)
        assert found.error <= accuracy
    check(truncated_svd(weight, 40, accuracy=None), weight, 40, sigma)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_singular_value_too_large_for_its_dtype_is_an_error_and_not_infinity(dtype):
    most = torch.finfo(dtype).max
    with pytest.raises(NonFinite, match="largest singular value"):
        truncated_svd(torch.full((4, 4), most / 2, dtype=dtype), 1)
    found = truncated_svd(torch.full((4, 4), most / 8, dtype=dtype), 1)
    assert float(found.S) == pytest.approx(most / 2, rel=1e-2) and found.residual < 1e-2


@pytest.mark.parametrize("accuracy", [1e-5, None])
def test_tall_is_wide_transposed(accuracy):
    weight = matrix(SPECTRA["decay"], 260, 290)
    wide, tall = (
        truncated_svd(weight, 16, accuracy=accuracy),
        truncated_svd(weight.mT.contiguous(), 16, accuracy=accuracy),
    )
    check(tall, weight.mT, 16)
    torch.testing.assert_close(wide.S, tall.S, rtol=1e-5, atol=0)


@settings(max_examples=20)
@given(st.data())
def test_any_shape_and_rank(data):
    m, n = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    rank = data.draw(st.integers(1, min(m, n)))
    weight = matrix(SPECTRA[data.draw(st.sampled_from(sorted(SPECTRA)))], m, n, seed=data.draw(st.integers(0, 9)))
    found = truncated_svd(weight, rank)
    if float(weight.abs().max()) > 0:
        check(found, weight, rank)
    assert found.error <= 1e-5


def test_routes_are_taken_and_told():
    weight = matrix(SPECTRA["decay"], 300, 320)
    assert truncated_svd(weight, 16).route == "gram"
    assert truncated_svd(weight, 16, accuracy=None).route == "krylov"
    assert truncated_svd(weight, 16, route="full").route == "full"
    assert truncated_svd(weight, 200).route == "full"  # most of them: LAPACK is cheapest
    assert truncated_svd(matrix(SPECTRA["one huge"], 300, 320), 16).route == "gram float64"
    assert truncated_svd(weight, 16, accuracy=1e-6).route == "gram float64"


def test_rank_zero_directions_are_orthonormal_too():
    weight = matrix(SPECTRA["rank 10"], 280, 300)
    found = truncated_svd(weight, 20)
    check(found, weight, 20)
    assert (found.S[10:] < 1e-6 * found.S[0]).all()
    assert found.residual < 1e-6


def test_zeros():
    found = truncated_svd(torch.zeros(5, 7), 3)
    assert torch.equal(found.S, torch.zeros(3)) and found.error == 0 and found.residual == 0
    assert torch.equal(found.U.mT @ found.U, torch.eye(3)) and torch.equal(found.Vh @ found.Vh.mT, torch.eye(3))


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e30])
def test_scale_does_not_matter(factor):
    weight = matrix(SPECTRA["decay"], 60, 80)
    scaled, plain = truncated_svd(weight * factor, 6), truncated_svd(weight, 6)
    torch.testing.assert_close(scaled.S / factor, plain.S, rtol=1e-5, atol=0)
    assert scaled.residual == pytest.approx(plain.residual, rel=1e-4)


def test_the_seed_decides_every_bit_and_nothing_else_does():
    weight, other = matrix(SPECTRA["decay"], 300, 320), matrix(SPECTRA["decay"], 300, 320, seed=1)
    for accuracy in (1e-5, None):
        first = truncated_svd(weight, 16, accuracy=accuracy, seed=3)
        torch.manual_seed(0)
        truncated_svd(other, 9, accuracy=accuracy)
        state = torch.get_rng_state()
        again = truncated_svd(weight, 16, accuracy=accuracy, seed=3)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(getattr(first, part), getattr(again, part)) for part in ("U", "S", "Vh"))
        another = truncated_svd(weight, 16, accuracy=accuracy, seed=4)
        assert not torch.equal(first.U, another.U)
        torch.testing.assert_close(first.S, another.S, rtol=2e-5 if accuracy else 2e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    weight = matrix(SPECTRA["decay"], 50, 40).to(dtype)
    found = truncated_svd(weight, 5)
    assert found.U.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    check(found, weight, 5)


def test_strides_gradients_and_inference_mode_do_not_matter():
    weight = matrix(SPECTRA["decay"], 300, 280)
    plain = truncated_svd(weight, 12)
    strided = torch.empty(600, 280)[::2].copy_(weight)
    for same in (strided, weight.clone().requires_grad_(), torch.nn.Parameter(weight.clone())):
        found = truncated_svd(same, 12)
        assert torch.equal(found.S, plain.S) and not found.U.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(truncated_svd(weight.mT, 12).S, plain.S, rtol=1e-5, atol=0)


def test_lowered_precision_around_does_not_reach_inside():
    weight = matrix(SPECTRA["decay"], 300, 280)
    plain = truncated_svd(weight, 12)
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = truncated_svd(weight, 12)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(precision)
    assert torch.equal(found.U, plain.U) and torch.equal(found.S, plain.S)


def test_the_weight_is_not_written_to():
    weight = matrix(SPECTRA["decay"], 300, 280)
    before = weight.clone()
    for route in ("gram", "krylov", "full"):
        truncated_svd(weight, 12, route=route)
    assert torch.equal(weight, before)


def test_full_svd_is_exact():
    weight = matrix(SPECTRA["linear"], 40, 70)
    found = full_svd(weight)
    check(found, weight, 40)
    assert found.error < 1e-6 and found.residual < 1e-6
    torch.testing.assert_close(found.dense(), weight, rtol=0, atol=1e-6)


def test_truncate_is_the_smaller_decomposition():
    weight = matrix(SPECTRA["decay"], 50, 60)
    found = full_svd(weight).truncate(7)
    check(found, weight, 7)
    check(full_svd(weight).truncate(20).truncate(7), weight, 7)
    for rank in (0, 51):
        with pytest.raises(ConfigError, match=f"cannot take {rank} of 50"):
            full_svd(weight).truncate(rank)


@pytest.mark.parametrize(
    ("weight", "rank", "options", "error", "match"),
    [
        (torch.ones(3), 1, {}, ShapeMismatch, r"got a tensor of shape \(3,\)"),
        (torch.ones(2, 3, 4), 1, {}, ShapeMismatch, "expected a matrix"),
        (torch.ones(0, 3), 1, {}, ShapeMismatch, "expected a matrix"),
        (torch.ones(3, 3, dtype=torch.int64), 1, {}, UnsupportedLayer, "int64"),
        (torch.ones(3, 3, dtype=torch.complex64), 1, {}, UnsupportedLayer, "complex64"),
        (torch.ones(3, 3).to_sparse(), 1, {}, UnsupportedLayer, "sparse"),
        (torch.ones(3, 3, device="meta"), 1, {}, UnsupportedLayer, "meta device"),
        (torch.ones(3, 5), 0, {}, ConfigError, r"rank 0 is not in 1\.\.3"),
        (torch.ones(3, 5), 4, {}, ConfigError, r"rank 4 is not in 1\.\.3"),
        (torch.ones(3, 5), 1, {"accuracy": 0.0}, ConfigError, "accuracy"),
        (torch.ones(3, 5), 1, {"accuracy": float("nan")}, ConfigError, "accuracy"),
        (torch.ones(3, 5), 1, {"route": "magic"}, ConfigError, "auto, gram, krylov, full"),
        (torch.ones(300, 300), 60, {"route": "krylov"}, ConfigError, "at least 360"),
        (torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), 1, {}, NonFinite, "NaN or infinity"),
        (torch.tensor([[1.0, -float("inf")], [0.0, 1.0]]), 1, {}, NonFinite, "NaN or infinity"),
    ],
)
def test_what_cannot_be_decomposed(weight, rank, options, error, match):
    with pytest.raises(error, match=match):
        truncated_svd(weight, rank, **options)


def test_a_named_route_that_falls_short_raises_and_auto_goes_on():
    weight = matrix(SPECTRA["rank 10"], 280, 300).double()
    for route in ("gram", "krylov"):
        with pytest.raises(NotConverged, match="route='auto'"):
            truncated_svd(weight, 20, accuracy=1e-12, route=route)
    assert truncated_svd(weight, 20, accuracy=1e-12).route == "full"


def test_gram_matrix_is_the_product():
    weight = matrix(SPECTRA["decay"], 150, 170)
    G = gram_matrix(weight)
    torch.testing.assert_close(G, weight @ weight.mT, rtol=1e-5, atol=1e-5)
    assert torch.equal(G, G.mT)


def test_the_proof_of_completeness_fails_when_a_pair_is_missing():
    G = gram_matrix(matrix(SPECTRA["tens"], 250, 260).double())
    theta, Q = torch.linalg.eigh(G)
    theta, vectors = theta.flip(0), Q.mT.flip(0)
    for missing in (0, 12, 29):
        kept = [i for i in range(31) if i != missing]
        assert not is_complete(G, RitzPairs(theta[kept], vectors[kept], 0.0, 0.0), 1e-5)
    assert is_complete(G, RitzPairs(theta[:30], vectors[:30], 0.0, 0.0), 1e-5)


def test_copies_beyond_the_block_are_not_overlooked():
    weight = matrix(SPECTRA["thirty equal inside"], 300, 320)  # 30 copies, blocks of 8 rows
    found = gram_pairs(gram_matrix(weight), 40, 1e-5, lambda rows: torch.randn(rows, 300, generator=generator(0, "x")))
    np.testing.assert_allclose(found.theta.sqrt().numpy(), reference(weight)[:40], rtol=1e-5)


@pytest.mark.parametrize("name", ["decay", "flat", "forties", "rank 10", "one huge"])
def test_a_krylov_basis_stays_orthonormal_and_projects_exactly(name):
    H = gram_matrix(matrix(SPECTRA[name], 200, 220).double())
    draw = generator(0, "basis")

    def rows(count: int) -> Tensor:
        return torch.randn(count, 200, generator=draw, dtype=torch.float64)

    basis = KrylovBasis(lambda x: x @ H, rows(8), rows, 120)
    basis.expand(10)
    for _ in range(3):
        V, T = basis.V[: basis.n], basis.T[: basis.n, : basis.n]
        assert (V @ V.mT - torch.eye(basis.n)).abs().max() < 1e-12
        assert (torch.tril(V @ H @ V.mT - T)).abs().max() < 1e-10 * float(H.diagonal().sum())
        theta, P = basis.ritz()
        u = P[:, :5].mT @ V
        exact = torch.linalg.vector_norm(u @ H - theta[:5, None] * u, dim=1)
        torch.testing.assert_close(basis.residuals(P[:, :5]), exact, rtol=1e-6, atol=1e-9 * float(theta[0]))
        basis.restart(theta, P, 40)
        basis.expand(5)


def test_crowds_are_seen():
    spread = torch.linspace(4, 1, 64)
    assert not crowded(spread, 8)
    for start in (0, 20, 56):
        close = spread.clone()
        close[start : start + 8] = close[start]
        assert crowded(close, 8) and not crowded(close, 10)
    assert not crowded(torch.ones(8), 8)  # the first eight of equal values are as good as any


def test_error_of_values_from_residual_and_gap():
    theta = torch.tensor([4.0, 1.0])
    assert singular_value_error(theta, torch.zeros(2), 0.5) == 0
    # |H u - theta u| = 0.01 and gap 0.5: lambda <= 1 + 2e-4, so sigma <= 1.0001
    assert singular_value_error(theta, torch.full((2,), 0.01), 0.5) == pytest.approx(1e-4, rel=1e-3)
    # without a gap only the residual itself bounds
    assert singular_value_error(theta, torch.full((2,), 0.01), 1.0) == pytest.approx(5e-3, rel=1e-2)
    assert singular_value_error(torch.zeros(2), torch.zeros(2), 0.0) == 0


def test_results_take_part_in_training():
    found = truncated_svd(matrix(SPECTRA["decay"], 30, 40), 3)
    left = found.U.requires_grad_()
    ((left * found.S) @ found.Vh).square().sum().backward()
    assert left.grad is not None


@pytest.mark.parametrize("shape", [(8, 36), (1, 9), (9, 1)])
def test_exactly_rank_one(shape):
    draw = generator(0, "rank one")
    weight = torch.randn(shape[0], 1, generator=draw) @ torch.randn(1, shape[1], generator=draw)
    found = truncated_svd(weight, 1)
    check(found, weight, 1)
    assert found.residual < 1e-6
