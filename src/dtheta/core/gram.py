"""Leading left singular vectors of a wide matrix from its Gram matrix, with a proof that none was overlooked.

    G = W W^T,   G U = U diag(S^2)

Forming G costs about half a product of W with k columns; after that an iteration costs k^2 instead of 2 k n a column.
A small G goes to LAPACK whole, a larger one to block Lanczos (core/krylov.py). Where its narrow blocks could have
overlooked copies of a repeated eigenvalue, the result is certified: with the pairs found taken out, every eigenvalue
left must be below tau, which holds exactly when the Cholesky factorization exists (Sylvester's law of inertia):

    tau I - (G - U diag(theta) U^T)  positive definite,   tau = theta_r (1 + 2 accuracy)

Squaring W squares its condition, so values below sqrt(eps) S_1 are lost: the error estimate sees it, and the caller
takes float64 then.

Shape legend: W (k, n) with k <= n, G (k, k), vectors (r, k) as rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.krylov import KrylovBasis, RandomRows, RitzPairs, crowded, leading_pairs, verified

# LAPACK on all of G against block Lanczos on its leading part: at k = 6 r Lanczos takes 0.85 of the time, at 9 r
# 0.55 (bench/svd.py).
_WHOLE = 5.5


def gram_matrix(matrix: Tensor) -> Tensor:
    """Return ``matrix @ matrix.T`` (k, k), computing only the lower triangle, by blocks of rows."""
    k = matrix.shape[0]
    G = matrix.new_empty((k, k))
    rows = max(64, k // 16)
    for i in range(0, k, rows):
        block = G[i : i + rows, : i + rows]
        torch.mm(matrix[i : i + rows], matrix[: i + rows].mT, out=block)
        G[:i, i : i + rows] = block[:, :i].mT
    return G


def gram_pairs(G: Tensor, rank: int, accuracy: float, random: RandomRows) -> RitzPairs:
    """Return the ``rank`` < k leading eigenpairs of ``G``; see `RitzPairs` for their error."""
    k = G.shape[0]
    if k > max(_WHOLE * rank, 200):
        block = 8 * max(1, rank // 64)
        pairs = _lanczos(G, rank, accuracy, random, block)
        complete = not crowded(pairs.theta, block) or is_complete(G, pairs, accuracy)
        if pairs.floor > accuracy or (pairs.error <= accuracy and complete):
            return pairs
    theta, Q = torch.linalg.eigh(G)
    theta, vectors = theta.flip(0), Q[:, k - rank :].flip(1).mT
    pairs = RitzPairs(theta[:rank], vectors, 0.0, 0.0)
    return verified(lambda rows: rows @ G, pairs, theta.new_zeros(rank), float(theta[rank]), accuracy)


def _lanczos(G: Tensor, rank: int, accuracy: float, random: RandomRows, block: int) -> RitzPairs:
    first, keep = max(13 * rank // 4, rank + 8 * block), max(3 * rank // 2, rank + block)
    basis = KrylovBasis(lambda rows: rows @ G, random(block), random, capacity=first + max(rank, 4 * block))
    return leading_pairs(basis, rank, accuracy, first, keep)


def is_complete(G: Tensor, pairs: RitzPairs, accuracy: float) -> bool:
    """Prove, up to rounding, that ``G`` has no other eigenvalue above the smallest of ``pairs``."""
    theta, U = pairs.theta, pairs.vectors
    tau = theta[-1] * (1 + 2 * accuracy) + 4 * torch.finfo(G.dtype).eps * theta[0]
    rest = torch.addmm(G, U.mT * theta, U, alpha=1, beta=-1)
    rest.diagonal().add_(tau)
    return int(torch.linalg.cholesky_ex(rest).info) == 0
