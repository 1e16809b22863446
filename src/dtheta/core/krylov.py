"""Leading eigenpairs of a symmetric positive semi-definite operator, by block Lanczos with thick restarts.

    K = span{X, H X, H^2 X, ...},   V H V^T = T,   T P = P diag(theta),   Ritz vectors P^T V

The operator H is W W^T, as an explicit Gram matrix or as two products with W. A polynomial in H is all that one can
build from products with H, and the Krylov space holds the best one; subspace iteration (torch.svd_lowrank) keeps only
the last power and needs about three times the products for the same singular values.

Every new block is made orthogonal to all rows of V twice, the recurrence's own two blocks first, so T is accurate to
the rounding of H; no ghost copies appear. When the basis is full, the leading Ritz vectors are kept and the space
grows on from the residual (thick restart; Wu and Simon 2000, "Thick-restart Lanczos method for large symmetric
eigenvalue problems"; for blocks, Musco and Musco 2015, arXiv 1504.05477).

Error of a Ritz value, from its residual rho = |H u - theta u| and the gap to the part of the spectrum outside V:

    0 <= lambda - theta <= min(rho, rho^2 / gap)

That holds for the eigenvalues that the start block has a share in. A block of b random rows sees at most b copies of a
repeated eigenvalue, and hardly more of a tight cluster. But where copies were overlooked, the b that were seen stand
side by side: `crowded` says so, and then the caller has to prove completeness (core/gram.py) or take a wider block.

Shape legend: k size of H, b rows of a block, n rows of the basis, V (n, k), T (n, n), P (n, n); vectors are rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]  # rows (b, k) to rows (b, k)
RandomRows = Callable[[int], Tensor]  # b to fresh random rows (b, k)

FLOOR = 1e-2  # singular values below this share of the largest count as that share in a relative error
_CYCLES = 24
_SAFETY = 2.5  # without it, the estimate is up to a factor 2.3 below the true error of tests/unit/core/spectra.py
_CROWD = 1e-2  # relative width of a cluster that may hide copies
_PARALLEL = 0.03  # ratio of norms below which rows of a block count as nearly parallel
_ROUNDING = (2, 32)  # error of a Ritz pair by rounding, in eps |H|: what is seen at least, and what was ever seen


@dataclass(frozen=True)
class RitzPairs:
    """Approximate eigenpairs: ``theta`` (r,) descending, ``vectors`` (r, k) orthonormal rows, and their error.

    ``error`` estimates max_i |sqrt(theta_i) - sqrt(lambda_i)| / max(sqrt(lambda_i), FLOOR sqrt(lambda_1)), the relative
    error of singular values when H = W W^T; ``floor`` is the part of it that more steps in this precision cannot
    remove.
    """

    theta: Tensor
    vectors: Tensor
    error: float
    floor: float


def singular_value_error(theta: Tensor, rho: Tensor, outside: float) -> float:
    """Relative error of the singular values sqrt(theta) (r,), from residuals ``rho`` (r,) and the top of the rest."""
    values, residuals = (t.double().cpu().numpy() for t in (theta, rho))
    values = values.clip(min=0)
    if values[0] == 0:
        return 0.0
    gap = values - outside
    growth = np.where(gap > residuals, residuals**2 / gap.clip(min=np.finfo(float).tiny), residuals)
    sigma = np.sqrt(values)
    return float(((np.sqrt(values + growth) - sigma) / sigma.clip(min=FLOOR * sigma[0])).max())


class KrylovBasis:
    """Orthonormal rows V (n, k), the projection T = V H V^T, and the next block, not yet multiplied by H.

    ``start`` (b, k) spans the first block, ``random`` gives fresh rows where the space is exhausted, ``capacity`` is
    the largest n.
    """

    def __init__(self, operator: Operator, start: Tensor, random: RandomRows, capacity: int) -> None:
        self.operator, self.random = operator, random
        self.block = block = start.shape[0]
        self.V = start.new_empty((capacity, start.shape[1]))
        self.T = start.new_zeros((capacity, capacity))
        self.n = 0
        self.coupled_from = 0  # first row of V that H times the next block has a share in
        self.next = torch.linalg.qr(start.mT).Q.mT
        self.coupling = start.new_zeros((block, block))  # <next, H last block>
        self.scale = 0.0  # about the norm of H

    def expand(self, steps: int) -> None:
        """Multiply the next block by H and append it, ``steps`` times."""
        for _ in range(steps):
            low, top = self.coupled_from, self.n + self.block
            self.V[self.n : top] = self.next
            image = self.operator(self.next)
            self.T[self.n : top, low:top] = _project_out(image, self.V[low:top])
            _project_out(image, self.V[:top])
            self.coupled_from, self.n = self.n, top
            if top <= 4 * self.block:
                self.scale = float(self.T[:top, :top].diagonal().max())
            self._set_next(image)

    def _set_next(self, residual: Tensor) -> None:
        """Make the next block of what H added to the space, and mend it where rounding has a part in that."""
        q, self.coupling = torch.linalg.qr(residual.mT)
        self.next = q.mT
        norms = self.coupling.diagonal().abs()
        smallest, largest = (float(norm) for norm in torch.aminmax(norms))
        negligible = 32 * torch.finfo(norms.dtype).eps * self.scale
        if smallest <= negligible:  # H maps V to itself there: only fresh directions lead on
            self._refresh(norms <= negligible)
        elif smallest < _PARALLEL * largest:  # what sets these rows apart is rounding in part
            rows = self.next.contiguous()
            _project_out(rows, self.V[: self.n])
            q, change = torch.linalg.qr(rows.mT)
            self.next, self.coupling = q.mT, change @ self.coupling

    def _refresh(self, lost: Tensor) -> None:
        fresh = self.random(self.block)
        rows = torch.where(lost[:, None], fresh, self.next)
        for _ in range(2):
            _project_out(rows, self.V[: self.n])
            rows = torch.linalg.qr(rows.mT).Q.mT.contiguous()
        self.next = rows
        self.coupling = torch.where(lost[:, None], 0.0, self.coupling)

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Return theta (n,) descending and P (n, n), columns in the same order."""
        theta, P = torch.linalg.eigh(self.T[: self.n, : self.n])
        return theta.flip(0), P.flip(1)

    def residuals(self, P: Tensor) -> Tensor:
        """Norms |H u - theta u| of the Ritz vectors with coefficients ``P`` (n, r)."""
        last = P[self.n - self.block : self.n]
        return torch.linalg.vector_norm(self.coupling @ last, dim=0)

    def restart(self, theta: Tensor, P: Tensor, keep: int) -> None:
        """Keep the ``keep`` leading Ritz vectors and the next block."""
        self.V[:keep] = P[:, :keep].mT @ self.V[: self.n]
        self.T[:keep, :keep] = torch.diag(theta[:keep])
        self.n, self.coupled_from = keep, 0


def _project_out(rows: Tensor, basis: Tensor) -> Tensor:
    """Subtract from ``rows`` (b, k), in place, their share in ``basis`` (n, k); return the coefficients (b, n)."""
    coefficients = rows @ basis.mT
    rows.addmm_(coefficients, basis, alpha=-1)
    return coefficients


def leading_pairs(basis: KrylovBasis, rank: int, accuracy: float, first: int, keep: int) -> RitzPairs:
    """Grow ``basis`` until its ``rank`` leading Ritz values are within ``accuracy``, and return them.

    ``first`` rows are built before the first look, ``keep`` Ritz vectors survive a restart. An iteration that stalls
    returns what it has; its ``error`` tells.
    """
    basis.expand(-(-first // basis.block))
    errors: list[float] = []
    while True:
        theta, P = basis.ritz()
        outside = float(theta[_outside(theta, rank)])
        error, floor = (
            estimated_error(theta[:rank], rho, outside, _ROUNDING[0])
            for rho in (basis.residuals(P[:, :rank]), theta.new_zeros(rank))
        )
        errors.append(error)
        if error <= accuracy or floor > accuracy or _stalled(errors):
            pairs = RitzPairs(theta[:rank], P[:, :rank].mT @ basis.V[: basis.n], error, floor)
            return verified(basis.operator, pairs, basis.residuals(P[:, :rank]), outside, accuracy)
        basis.restart(theta, P, keep)
        most = (basis.V.shape[0] - keep) // basis.block
        basis.expand(min(most, _steps(theta, rank, error / accuracy)))


def estimated_error(theta: Tensor, rho: Tensor, outside: float, rounding: float) -> float:
    """Error of singular values for residuals ``rho``, rounding in eps |H|, and ``outside``, the top of the rest."""
    rho = rho + rounding * torch.finfo(theta.dtype).eps * theta[0].abs()
    return _SAFETY * singular_value_error(theta, rho, outside)


def verified(operator: Operator, pairs: RitzPairs, rho: Tensor, outside: float, accuracy: float) -> RitzPairs:
    """Return ``pairs`` with an error that allows for rounding; where that matters, the residuals are measured."""
    least, most = _ROUNDING
    error = estimated_error(pairs.theta, rho, outside, most)
    floor = pairs.floor
    if error > accuracy >= pairs.error:
        rest = operator(pairs.vectors) - pairs.theta[:, None] * pairs.vectors
        error = floor = estimated_error(pairs.theta, torch.linalg.vector_norm(rest, dim=1), outside, least)
    return replace(pairs, error=error, floor=floor)


def crowded(theta: Tensor, block: int) -> bool:
    """Whether ``block`` neighbors among the Ritz values ``theta`` (r,) are so close that more may have been overlooked.

    Clusters that were overlooked were up to 1.3e-3 wide; among the 64 leading eigenvalues of each weight of MiniLM
    and SmolLM2, any eight neighbors span 2e-2 or more.
    """
    if theta.numel() <= block:  # the first r of a cluster are as good as any other r
        return False
    return bool((theta[: 1 - block] - theta[block - 1 :] < _CROWD * theta[block - 1 :]).any())


def _outside(theta: Tensor, rank: int) -> int:
    """Index of a Ritz value that is close to an eigenvalue not found; further ones are lower than any of those."""
    return min(theta.numel() - 1, rank + max(1, rank // 4))


def _steps(theta: Tensor, rank: int, excess: float) -> int:
    """Steps until the error has fallen by the factor ``excess``: Chebyshev polynomials on [0, outside]."""
    at, outside = float(theta[rank - 1]), float(theta[_outside(theta, rank)])
    if outside <= 0 or at <= outside:
        return 8
    rate = math.acosh(max(2 * at / outside - 1, 1.001))
    return max(2, math.ceil(math.acosh(math.sqrt(max(2.0, 2 * excess))) / rate))


def _stalled(errors: list[float]) -> bool:
    return len(errors) >= _CYCLES or (len(errors) > 4 and errors[-1] > 0.5 * errors[-4])
