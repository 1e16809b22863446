"""Exact algebra of low-rank pairs: the matrix is ``left @ right`` and is never formed.

    norm       ||L R||_F^2 = <L^T L, R R^T>
    inner      <L1 R1, L2 R2>_F = <L1^T L2, R1 R2^T>
    recompress L = Q1 T1, R^T = Q2 T2, T1 T2^T = P diag(S) Z^T  =>  L R = (Q1 P) diag(S) (Q2 Z)^T, an exact SVD

Sums of low-rank changes are stacked factors, [L1 L2] [R1; R2]: exact and without cross terms, at the price of a
growing rank. `recompress` brings the rank back down and says what was lost. By Eckart and Young (1936) no other
factors of that rank lose less.

All sums run in float64: cancellation between stacked terms (a - a) would otherwise leave float32 noise.

Shapes: left (m, k), right (k, n); m rows, n columns, k inner rank (may exceed m and n), r rank kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.core.svd import balanced_factors, fix_signs
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch, UnsupportedLayer


@dataclass(frozen=True)
class Recompressed:
    """Factors of the best rank-r approximation of a low-rank pair.

    ``left`` (m, r) and ``right`` (r, n) are balanced: left^T left = right right^T = diag(S). ``S`` (r,) float64 are
    the kept singular values, descending. ``discarded`` is the dropped share of the energy, sum of dropped s_i^2 over
    the sum of all, in [0, 1]; ``discarded_energy`` is that sum itself, so the Frobenius error is its square root.
    """

    left: Tensor
    right: Tensor
    S: Tensor
    discarded: float
    discarded_energy: float

    @property
    def rank(self) -> int:
        """Number of singular values kept."""
        return self.S.numel()


def _check_pair(left: Tensor, right: Tensor) -> None:
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise ShapeMismatch(
            f"a low-rank pair needs left (m, k) and right (k, n), got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    for name, factor in (("left", left), ("right", right)):
        if not factor.is_floating_point():
            raise UnsupportedLayer(f"the {name} factor is {factor.dtype}; a low-rank pair needs floating-point factors")


def lowrank_inner(left1: Tensor, right1: Tensor, left2: Tensor, right2: Tensor) -> float:
    """Frobenius inner product of ``left1 @ right1`` and ``left2 @ right2``, in float64, without forming either.

    The cost is O((m + n) k1 k2). Raises `ShapeMismatch` when the two products differ in shape.
    """
    _check_pair(left1, right1)
    _check_pair(left2, right2)
    if left1.shape[0] != left2.shape[0] or right1.shape[1] != right2.shape[1]:
        raise ShapeMismatch(
            f"inner product of matrices of different shapes: ({left1.shape[0]}, {right1.shape[1]}) "
            f"and ({left2.shape[0]}, {right2.shape[1]})"
        )
    left_kk = left1.double().mT @ left2.double()
    right_kk = right1.double() @ right2.double().mT
    return float((left_kk * right_kk).sum())


def lowrank_norm(left: Tensor, right: Tensor) -> float:
    """Frobenius norm of ``left @ right``, in float64, without forming it.

    Uses the triangular factors of the two QRs rather than `lowrank_inner`: the inner product of a pair that cancels,
    [L L] [R; -R], would leave sqrt(eps) of its parts instead of eps.
    """
    _check_pair(left, right)
    if 0 in left.shape or 0 in right.shape:
        return 0.0
    left_triangle = torch.linalg.qr(left.double(), mode="r").R
    right_triangle = torch.linalg.qr(right.double().mT, mode="r").R
    return float(torch.linalg.matrix_norm(left_triangle @ right_triangle.mT))


def lowrank_svd(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Exact thin SVD (U (m, p), S (p,), Vh (p, n)) of ``left @ right`` in float64, p = min(m, k, n).

    The signs follow `truncated_svd`. Raises `NonFinite` for NaN or infinity in a factor.
    """
    _check_pair(left, right)
    left_q, left_triangle = torch.linalg.qr(left.double())
    right_q, right_triangle = torch.linalg.qr(right.double().mT)
    core = left_triangle @ right_triangle.mT
    if not bool(torch.isfinite(core).all()):
        raise NonFinite("a factor of the low-rank pair holds NaN or infinity")
    P, S, Zh = torch.linalg.svd(core, full_matrices=False)
    U, Vh = fix_signs(left_q @ P, Zh @ right_q.mT)
    return U, S, Vh


def recompress(
    left: Tensor,
    right: Tensor,
    rank: int | None = None,
    *,
    energy: float | None = None,
    tolerance: float | None = None,
) -> Recompressed:
    """Best approximation of ``left @ right`` by fewer columns; exactly one of the three limits is given.

    ``rank`` keeps at most that many singular values (fewer when the pair has fewer). ``energy`` in (0, 1] keeps the
    fewest that hold that share of the sum of squares. ``tolerance`` >= 0 keeps the fewest whose relative Frobenius
    error is at most that. At least one value is always kept, so the factors of a zero pair are zeros of rank 1; only
    a pair that has no columns at all stays without.
    The factors come back in the dtype of ``left``; ``S`` and the two energies in float64.
    """
    if (rank is not None) + (energy is not None) + (tolerance is not None) != 1:
        raise ConfigError("recompress needs exactly one of rank, energy, tolerance")
    U, S, Vh = lowrank_svd(left, right)
    tails = _tails(S.square())
    kept = _kept(tails, rank, energy, tolerance)
    total, dropped = float(tails[0]), float(tails[kept])
    tall, wide = balanced_factors(U[:, :kept], S[:kept], Vh[:kept])
    return Recompressed(
        left=tall.to(left.dtype),
        right=wide.to(left.dtype),
        S=S[:kept].clone(),
        discarded=dropped / total if total > 0 else 0.0,
        discarded_energy=dropped,
    )


def kept_of(squares: Tensor, rank: int | float) -> int:
    """Return how many of the squares (p,), descending, are kept: so many, or the fewest with a share of their sum."""
    return (
        _kept(_tails(squares), rank, None, None) if isinstance(rank, int) else _kept(_tails(squares), None, rank, None)
    )


def _tails(squares: Tensor) -> Tensor:
    """Return what is dropped with i kept (p + 1,): the sum of squares from i on."""
    return torch.cat([squares.flip(0).cumsum(0).flip(0), squares.new_zeros(1)])


def _kept(tails: Tensor, rank: int | None, energy: float | None, tolerance: float | None) -> int:
    """Number of singular values that the one given limit keeps; tails (p + 1,) as in `recompress`."""
    most = tails.numel() - 1
    if rank is not None:
        if rank < 1:
            raise ConfigError(f"rank {rank} is below 1")
        return min(rank, most)
    if energy is not None:
        if not 0.0 < energy <= 1.0:
            raise ConfigError(f"energy {energy} is not in (0, 1]; it is the share of the sum of squares to keep")
        allowed = (1.0 - energy) * float(tails[0])
    else:
        assert tolerance is not None
        if not 0.0 <= tolerance < math.inf:
            raise ConfigError(f"tolerance {tolerance} is not a finite number >= 0")
        allowed = tolerance**2 * float(tails[0])
    return min(most, max(1, int((tails[:most] > allowed).sum())))


def principal_angles(first: Tensor, second: Tensor) -> Tensor:
    """Principal angles in radians, ascending, between the spans of ``first`` (m, p) and ``second`` (m, q).

    Columns need not be orthonormal, but must be linearly independent to span what their number says. Returns
    (min(p, q),) float64 in [0, pi/2]. Small angles come from the sine and large ones from the cosine, since acos
    loses half of the digits near zero. Bjorck and Golub (1973), "Numerical methods for computing angles between
    linear subspaces".
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[0] != second.shape[0]:
        raise ShapeMismatch(
            f"principal_angles needs two bases of one space, (m, p) and (m, q), got {tuple(first.shape)} "
            f"and {tuple(second.shape)}"
        )
    wide, narrow = (first, second) if first.shape[1] >= second.shape[1] else (second, first)
    Q_wide = torch.linalg.qr(wide.double()).Q
    Q_narrow = torch.linalg.qr(narrow.double()).Q
    overlap = Q_wide.mT @ Q_narrow
    cosines = torch.linalg.svdvals(overlap).clamp(max=1.0)
    sines = torch.linalg.svdvals(Q_narrow - Q_wide @ overlap).flip(0).clamp(max=1.0)
    return torch.where(cosines.square() > 0.5, sines.asin(), cosines.acos())
