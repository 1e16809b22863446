"""Variation: how far a delta moved the singular values of a weight, and how far it turned the singular directions.

    d_sigma     = mean_i |s_i(t) - s_i(0)|                                                   >= 0, unit of the weight
    d_direction = 1 - 1/2 mean_j ( |<u_j(t), u_j(0)>| + |<v_j(t), v_j(0)>| )                  0 ... 1
    d_subspace  = 1 - 1/2 ( mean cos(left angles) + mean cos(right angles) )                  0 ... 1
    angles      = principal angles between the leading p singular directions then and now     0 ... pi/2 radians
    log kappa   = ln(s_max / s_min) of the trained product c B diag(S) A                      >= 0

W(0) is the base weight and W(t) the base plus the delta. The first two are the analysis of SORSA (Cao 2024, arXiv
2409.00055): triplet j then against triplet j now. When two nearly equal singular values change places, both directions
count as fully turned although the weight hardly moved. The principal angles (Bjorck and Golub 1973) compare the spans
of the leading directions, which no exchange among them can change; beside the paper. They still see an exchange between
triplet p and triplet p + 1.

A direction whose singular value is rounding noise is no direction: such triplets do not enter d_direction.

Shape legend: W (m, n), k = min(m, n), U (m, j), S (j,), Vh (j, n).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dtheta.adapt.method import split_start
from dtheta.core.apply import bind, originals
from dtheta.core.change import Change, matrix_shape
from dtheta.core.combination import Scaled
from dtheta.core.delta import Delta
from dtheta.core.linalg import lowrank_svd, principal_angles
from dtheta.core.lowrank import LowRank
from dtheta.core.svd import truncated_svd
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

Triplets = tuple[Tensor, Tensor, Tensor]

# Relative accuracy of leading singular values where only some of them are asked for: a shift below this does not show.
_ACCURACY = 1e-6


@dataclass(frozen=True)
class Variation:
    """How one weight varied; see the module's docstring for the quantities.

    Attributes:
        name: The parameter.
        count: Triplets compared one by one, the leading ones.
        dimension: p, the directions in the subspaces compared.
        d_sigma: Mean shift of the singular values, in the unit of the weight.
        d_sigma_relative: The same over the mean singular value of the base.
        d_direction: Mean turn of the directions, index by index, in [0, 1].
        d_subspace: Turn of the leading subspaces, mean of left and right, in [0, 1].
        angle_left: Largest principal angle of the left subspaces, in radians.
        angle_right: Largest principal angle of the right subspaces, in radians.
        log_condition: ln kappa of the trained low-rank product; infinite where its rank has dropped, NaN where it is
            zero, None where the change is not such a product.
    """

    name: str
    count: int
    dimension: int
    d_sigma: float
    d_sigma_relative: float
    d_direction: float
    d_subspace: float
    angle_left: float
    angle_right: float
    log_condition: float | None = None


def variation(model: nn.Module, delta: Delta, rank: int | None = None, *, strict: bool = True) -> list[Variation]:
    """Return the variation of every matrix that a delta moves; vectors and new vectors have no singular directions.

    Args:
        model: The base, with or without adapters.
        delta: What changed.
        rank: Compare the leading triplets only, so many of them, to a relative accuracy of 1e-6; None compares all of
            them exactly, and as subspaces the leading r for a low-rank delta of rank r, else half of all.
        strict: Whether the model must be, bit for bit, the one that the delta was made on.

    Raises:
        BaseMismatch: If the delta was made on another base.
        ConfigError: If ``rank`` does not fit a matrix.
        NonFinite: If a weight or change holds NaN or infinity.
    """
    weights = originals(model)
    method = delta.provenance.method
    found = []
    for name, change in bind(delta, model, strict=strict).changes.items():
        if name not in weights or weights[name].ndim < 2:
            continue
        before = weights[name].detach().reshape(matrix_shape(change.shape)).double()
        after = before.clone()
        change.map(_to(before.device)).add_to(after)
        product = trained_product(change, method)
        half = max(1, min(before.shape) // 2)
        dimension = half if product is None else min(product.rank, half)
        found.append(weight_variation(name, before, after, rank, dimension=dimension, product=product))
    return found


def _to(device: torch.device) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.to(device)


def weight_variation(
    name: str,
    before: Tensor,
    after: Tensor,
    rank: int | None = None,
    *,
    dimension: int | None = None,
    product: LowRank | None = None,
) -> Variation:
    """Return the variation between two weights (m, n).

    Args:
        name: What to call it.
        before: W(0).
        after: W(t).
        rank: As in ``variation``.
        dimension: p; ``rank`` by default, or half of all where that is None.
        product: The trained product, for its condition number.

    Raises:
        ShapeMismatch: If these are not two matrices of one shape.
        ConfigError, NonFinite: As ``variation``.
    """
    if before.ndim != 2 or before.shape != after.shape:
        found = f"{tuple(before.shape)} and {tuple(after.shape)}"
        raise ShapeMismatch(f"{name}: expected two matrices of one shape, found {found}")
    short = min(before.shape)
    if rank is not None and not 1 <= rank <= short:
        raise ConfigError(f"{name}: rank {rank} does not fit a matrix of {tuple(before.shape)}; expected 1 to {short}")
    if not (bool(torch.isfinite(before).all()) and bool(torch.isfinite(after).all())):
        raise NonFinite(f"{name}: the weight or its change holds NaN or infinity")
    p = rank or dimension or max(1, short // 2)
    (U0, S0, Vh0), (U, S, Vh) = _triplets(before, rank), _triplets(after, rank)
    left, right = principal_angles(U0[:, :p], U[:, :p]), principal_angles(Vh0[:p].mT, Vh[:p].mT)
    shift = float((S - S0).abs().mean())
    return Variation(
        name=name,
        count=S.numel(),
        dimension=p,
        d_sigma=shift,
        d_sigma_relative=shift / float(S0.mean()) if S0.any() else math.inf if shift else 0.0,
        d_direction=_turn((U0, S0, Vh0), (U, S, Vh)),
        d_subspace=1.0 - float(left.cos().mean() + right.cos().mean()) / 2,
        angle_left=float(left.max()),
        angle_right=float(right.max()),
        log_condition=None if product is None else log_condition(product),
    )


def _turn(before: Triplets, after: Triplets) -> float:
    """Return 1 - 1/2 mean_j (|<u_j(t), u_j(0)>| + |<v_j(t), v_j(0)>|) over the triplets that have a direction."""
    (U0, S0, Vh0), (U, S, Vh) = before, after
    cosines = ((U0 * U).sum(0).abs() + (Vh0 * Vh).sum(1).abs()) / 2
    noise = torch.finfo(S.dtype).eps * max(len(U0), Vh0.shape[1])
    real = (S0 > noise * S0.max()) & (S > noise * S.max())
    return max(0.0, 1.0 - float(cosines[real].mean())) if bool(real.any()) else 0.0


def _triplets(matrix: Tensor, rank: int | None) -> Triplets:
    """Return U, S (descending), Vh in float64: all triplets, or the leading ``rank``."""
    matrix = matrix.double()
    if rank is None:
        return _all_triplets(matrix)
    svd = truncated_svd(matrix, rank, accuracy=_ACCURACY)
    return svd.U, svd.S, svd.Vh


def _all_triplets(matrix: Tensor) -> Triplets:
    """Return all triplets of a float64 matrix (m, n) from the Gram matrix of its short side.

    Two to five times as fast as LAPACK's svd. The singular values are the lengths of the projections, exact to rounding
    relative to the largest; square roots of the eigenvalues would lose half of the digits.
    """
    if matrix.shape[0] > matrix.shape[1]:
        U, S, Vh = _all_triplets(matrix.mT)
        return Vh.mT, S, U.mT
    U = torch.linalg.eigh(matrix @ matrix.mT).eigenvectors
    projected = U.mT @ matrix
    S, order = torch.linalg.vector_norm(projected, dim=1).sort(descending=True)
    return U[:, order], S, projected[order] / S.clamp_min(torch.finfo(S.dtype).tiny)[:, None]


def trained_product(change: Change, method: Mapping[str, Any] | None = None) -> LowRank | None:
    """Return the low-rank product that training moved, or None for a change that is none.

    Args:
        change: The change of one parameter.
        method: The record of the method. PiSSA and SORSA store the trained product less the one they began with; the
            rank in the record tells the two apart.
    """
    change = change.term if isinstance(change, Scaled) else change
    if not isinstance(change, LowRank):
        return None
    rank = (method or {}).get("rank")
    halves = split_start(change, rank) if isinstance(rank, int) else None
    now = change if halves is None else halves[0]
    return now if isinstance(now, LowRank) else None


def log_condition(product: LowRank) -> float:
    """Return ln(s_max / s_min) over the singular values of a product of rank r, in O((m + n) r^2).

    Infinite where the rank is lower than r to rounding, NaN for the zero product.
    """
    S = lowrank_svd(*product.factors(torch.float64))[1]
    largest, least = float(S[0]), float(S[min(product.rank, S.numel()) - 1])
    if largest == 0.0:
        return math.nan
    return math.log(largest / least) if least > torch.finfo(S.dtype).eps * S.numel() * largest else math.inf
