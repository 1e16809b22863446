"""The residuals of n ridge regressions, each without one example: r_i = G_ii^-1 alpha_i, by the kernel's eigenvectors.

    alpha = V (lambda + p)^-1 V^T (y - f(0)),   G = V (lambda + p)^-1 V^T

Where the kernel is singular both hold 1 / p, times an example's part in the null space. That part is turned to its
principal directions: where an example reaches into the null space the equation is multiplied by p, so that nothing
grows as p goes to 0; where it does not, what rounding left there is dropped before 1 / p makes it large. So one
formula holds for every penalty down to 0, which is the interpolation of least norm.

Shape legend: n examples, o outputs, k eigenvalues, b and c as in matrices.py, P penalties, real or complex.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.kernels.dynamics import KernelDynamics

_LEAST, _MOST = 1e-15, 1e-6  # bounds of the share of an example in the null space that is taken for rounding


def left_out(dynamics: KernelDynamics, penalties: Tensor) -> Tensor:
    """Return the residual of each example by the others, (n, o, P), for ``penalties`` (P,)."""
    null = dynamics.values == 0
    safe = dynamics.values.where(~null, 1.0)[:, None]
    inverse = (1 / (safe + penalties)).masked_fill(null[:, None], 0.0)
    alpha, G = _coefficients(dynamics, inverse), _blocks(dynamics, inverse)
    if not bool(null.any()):
        return _solved(G, alpha)
    turn, reach, pull = _null_part(dynamics, null)
    kept = (reach > 0)[..., None]
    alpha = torch.einsum("nba,nbcp->nacp", turn.to(alpha.dtype), alpha)
    alpha = torch.where(kept[..., None], penalties * alpha + pull[..., None], alpha)
    G = torch.einsum("nba,nbdp,nde->naep", turn.to(G.dtype), G, turn.to(G.dtype))
    G = torch.where(kept[..., None], penalties * G + torch.diag_embed(reach)[..., None], G)
    found = _solved(G, alpha).reshape(alpha.shape)
    return torch.einsum("nab,nbcp->nacp", turn.to(found.dtype), found).flatten(1, 2)


def _null_part(dynamics: KernelDynamics, null: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the null space holds of each example.

    Principal directions (n, b, b), the squared reach along them (n, b), 0 where that is rounding, and what 1 / p
    multiplies in alpha (n, b, c).
    """
    n, b = dynamics.examples, dynamics.block
    V = dynamics.vectors[:, null].reshape(n, b, -1)
    reach, turn = torch.linalg.eigh(V @ V.mT)
    pull = turn.mT @ (V.flatten(0, 1) @ dynamics.coefficients()[null]).reshape(n, b, -1)
    return turn, reach.where(reach > _rounding(dynamics, null), 0.0), pull


def _rounding(dynamics: KernelDynamics, null: Tensor) -> Tensor:
    """Return the share of each example in the null space that rounding E of the kernel can make, (n, 1).

    To first order a null vector v moves by -K^+ E v, whose entry i is at most |E v| (K^+_ii / lambda_least)^(1/2).
    """
    values = dynamics.values[~null]
    if values.numel() == 0:
        return values.new_full((dynamics.examples, 1), _LEAST)
    inverse = (dynamics.vectors[:, ~null].square() / values).sum(1).reshape(dynamics.examples, -1)
    share = inverse.amax(1, keepdim=True) * dynamics.rounding**2 / values.min()
    return share.clamp(_LEAST, _MOST)


def _coefficients(dynamics: KernelDynamics, inverse: Tensor) -> Tensor:
    """Alpha (n, b, c, P) for the inverse eigenvalues 1 / (lambda + p) (k, P)."""
    mixed = (inverse[:, None, :] * dynamics.coefficients()[..., None]).reshape(inverse.shape[0], -1)
    return _product(dynamics.vectors, mixed).reshape(dynamics.examples, dynamics.block, -1, inverse.shape[1])


def _blocks(dynamics: KernelDynamics, inverse: Tensor) -> Tensor:
    """G_ii (n, b, b, P)."""
    n, b = dynamics.examples, dynamics.block
    blocks = dynamics.vectors.reshape(n, b, -1)
    rows = [_product((blocks[:, [a]] * blocks).reshape(n * b, -1), inverse).reshape(n, b, -1) for a in range(b)]
    return torch.stack(rows, 1)


def _solved(G: Tensor, alpha: Tensor) -> Tensor:
    """G^-1 alpha of every example and penalty, (n, b c, P)."""
    if G.shape[1] == 1:
        return (alpha / G).flatten(1, 2)
    return torch.linalg.solve(G.permute(0, 3, 1, 2), alpha.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)


def _product(real: Tensor, right: Tensor) -> Tensor:
    """``real @ right`` for a right side that may be complex, without making the left one so."""
    if not right.is_complex():
        return real @ right
    parts = torch.view_as_real(right.contiguous())
    return torch.view_as_complex((real @ parts.reshape(right.shape[0], -1)).reshape(-1, right.shape[1], 2))
