"""The algebra of low-rank pairs against the dense matrices they stand for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtheta.core.linalg import lowrank_inner, lowrank_norm, lowrank_svd, principal_angles, recompress
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, UnsupportedLayer


def pair(m, k, n, seed=0, dtype=torch.float64):
    draw = generator(seed, "pair")
    left = torch.randn(m, k, generator=draw, dtype=torch.float64)
    return left.to(dtype), torch.randn(k, n, generator=draw, dtype=torch.float64).to(dtype)


sizes = st.integers(1, 12)


@given(sizes, st.integers(0, 15), st.integers(0, 15), sizes, st.integers(0, 99))
def test_inner_and_norm_are_those_of_the_dense_matrices(m, k1, k2, n, seed):
    left1, right1 = pair(m, k1, n, seed)
    left2, right2 = pair(m, k2, n, seed + 1)
    dense1, dense2 = left1 @ right1, left2 @ right2
    assert lowrank_inner(left1, right1, left2, right2) == pytest.approx(float((dense1 * dense2).sum()), abs=1e-10)
    assert lowrank_norm(left1, right1) == pytest.approx(float(dense1.norm()), abs=1e-12)


def test_the_norm_of_what_cancels_is_zero():
    left, right = pair(50, 4, 40)
    norm = lowrank_norm(torch.cat([left, left], 1), torch.cat([right, -right]))
    assert norm < 1e-14 * lowrank_norm(left, right)


@given(sizes, st.integers(1, 15), sizes, st.integers(0, 99))
def test_svd_of_a_pair(m, k, n, seed):
    left, right = pair(m, k, n, seed)
    U, S, Vh = lowrank_svd(left, right)
    p = min(m, k, n)
    assert (U.shape, S.shape, Vh.shape) == ((m, p), (p,), (p, n))
    torch.testing.assert_close((U * S) @ Vh, left @ right, rtol=0, atol=1e-12)
    torch.testing.assert_close(S, torch.linalg.svdvals(left @ right)[:p], rtol=0, atol=1e-12)
    assert (Vh.gather(1, Vh.abs().argmax(1, keepdim=True)) > 0).all()


@given(sizes, st.integers(1, 15), sizes, st.integers(1, 20), st.integers(0, 99))
def test_recompress_to_a_rank_is_the_best_approximation(m, k, n, rank, seed):
    left, right = pair(m, k, n, seed)
    found = recompress(left, right, rank)
    sigma = torch.linalg.svdvals(left @ right)
    kept = min(rank, m, k, n)
    lost = float(sigma[kept:].square().sum())
    assert found.rank == kept and found.left.shape == (m, kept) and found.right.shape == (kept, n)
    torch.testing.assert_close(found.S, sigma[:kept], rtol=0, atol=1e-12)
    assert found.discarded_energy == pytest.approx(lost, abs=1e-10)
    assert found.discarded == pytest.approx(lost / float(sigma.square().sum()), abs=1e-12)
    assert float((left @ right - found.left @ found.right).norm()) == pytest.approx(math.sqrt(lost), abs=1e-6)
    torch.testing.assert_close(found.left.mT @ found.left, torch.diag(found.S), rtol=0, atol=1e-12)


def test_a_sum_of_pairs_recompresses_to_its_true_rank():
    left, right = pair(60, 3, 50)
    again = recompress(torch.cat([left, 2 * left], 1), torch.cat([right, right]), tolerance=1e-12)
    assert again.rank == 3 and again.discarded < 1e-24
    torch.testing.assert_close(again.left @ again.right, 3 * left @ right, rtol=0, atol=1e-12)


def test_energy_and_tolerance_keep_the_fewest_that_do():
    S = torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)  # squares 16, 4, 1, 0.25 of 21.25
    left, right = torch.diag(S), torch.eye(4, dtype=torch.float64)
    assert recompress(left, right, energy=16 / 21.25).rank == 1
    assert recompress(left, right, energy=0.76).rank == 2
    assert recompress(left, right, energy=1.0).rank == 4
    assert recompress(left, right, tolerance=0.0).rank == 4
    assert recompress(left, right, tolerance=math.sqrt(0.25 / 21.25) + 1e-12).rank == 3
    assert recompress(left, right, tolerance=2.0).rank == 1
    assert recompress(0 * left, right, energy=0.5).rank == 1
    assert recompress(0 * left, right, rank=2).discarded == 0.0


def test_factors_keep_their_dtype_and_sums_run_in_float64():
    left, right = pair(30, 4, 20, dtype=torch.bfloat16)
    found = recompress(left, right, 4)
    assert found.left.dtype == found.right.dtype == torch.bfloat16 and found.S.dtype == torch.float64
    exact = torch.linalg.svdvals(left.double() @ right.double())[:4]
    torch.testing.assert_close(found.S, exact, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "limits", [{}, {"rank": 0}, {"rank": 1, "energy": 0.5}, {"energy": 0.0}, {"energy": 1.1}, {"tolerance": -1.0}]
)
def test_limits_that_cannot_be_meant(limits):
    with pytest.raises(ConfigError):
        recompress(*pair(5, 2, 4), **limits)


def test_factors_that_do_not_fit():
    left, right = pair(5, 2, 4)
    with pytest.raises(ShapeMismatch, match=r"\(5, 2\) and \(3, 4\)"):
        lowrank_norm(left, torch.ones(3, 4))
    with pytest.raises(ShapeMismatch, match="different shapes"):
        lowrank_inner(left, right, *pair(6, 2, 4))
    with pytest.raises(UnsupportedLayer, match=r"right factor is torch\.int64"):
        lowrank_norm(left, torch.ones(2, 4, dtype=torch.int64))
    with pytest.raises(NonFinite):
        recompress(left / 0, right, 1)
    with pytest.raises(ShapeMismatch):
        principal_angles(torch.ones(3, 2), torch.ones(4, 2))


def test_principal_angles_are_exact_at_every_size():
    for angle in (0.0, 1e-12, 1e-6, 0.3, math.pi / 4, 1.2, math.pi / 2 - 1e-9, math.pi / 2):
        first = torch.eye(5, 2, dtype=torch.float64)
        second = first.clone()
        second[:, 1] = torch.tensor([0, math.cos(angle), math.sin(angle), 0, 0], dtype=torch.float64)
        mixed = second @ torch.tensor([[2.0, 1.0], [-1.0, 3.0]], dtype=torch.float64)  # the span counts, not the basis
        found = principal_angles(first, mixed)
        torch.testing.assert_close(found, torch.tensor([0.0, angle], dtype=torch.float64), rtol=0, atol=1e-13)


def test_principal_angles_of_different_dimensions():
    whole, line = torch.eye(4, 3), torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    for found in (principal_angles(whole, line), principal_angles(line, whole)):
        torch.testing.assert_close(found, torch.tensor([math.pi / 4], dtype=torch.float64))
