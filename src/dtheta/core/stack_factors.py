"""Stacks from the singular triplets of their slices, at one rank for all.

    squares_j = sum over slices of s_ej^2         what rank j + 1 adds to all of them

Every slice is the best of that rank by Eckart and Young (1936), so the stack is the best of all whose slices have it.

Shape legend: E slices, m rows and n columns of each; p triplets, r rank kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dtheta.core.change import frobenius
from dtheta.core.linalg import kept_of, lowrank_svd
from dtheta.core.stacked import Stacked
from dtheta.core.svd import balanced_factors, full_svd, truncated_svd

Triplets = tuple[Tensor, Tensor, Tensor]


def recompressed_stack(stack: Stacked, rank: int | float) -> tuple[Stacked, float]:
    """Return a stack at another rank, and the energy it lost.

    Args:
        stack: In factors, which are never multiplied out.
        rank: Of every slice; or, as a float in (0, 1), the share of the energy that all slices keep together.
    """
    found, lost = _cut([lowrank_svd(*pair) for pair in stack.slices()], rank, stack.dtype)
    return replace(found, full_shape=stack.full_shape), lost


def factored_stack(values_Emn: Tensor, rank: int | float) -> tuple[Stacked, float]:
    """Return the best stack of a rank, and the energy it lost; arguments as of `recompressed_stack`.

    The triplets of a rank that is given are those of `truncated_svd`, so the time is that of few, not of all.
    """
    if not isinstance(rank, int):
        found = [full_svd(part) for part in values_Emn]
        return _cut([(svd.U, svd.S, svd.Vh) for svd in found], rank, found[0].U.dtype)
    most = min(rank, *values_Emn.shape[1:])
    leading = [truncated_svd(part, most) for part in values_Emn]
    left, right = (torch.stack(both) for both in zip(*(svd.balanced() for svd in leading), strict=True))
    lost = sum(svd.residual**2 * frobenius(part) ** 2 for svd, part in zip(leading, values_Emn, strict=True))
    return Stacked(left, right), lost


def _cut(parts: Sequence[Triplets], rank: int | float, dtype: torch.dtype) -> tuple[Stacked, float]:
    squares = torch.stack([S.double() for _, S, _ in parts]).square().sum(0)
    kept = kept_of(squares, rank)
    pairs = [balanced_factors(U[:, :kept], S[:kept], Vh[:kept]) for U, S, Vh in parts]
    left, right = (torch.stack(both).to(dtype) for both in zip(*pairs, strict=True))
    return Stacked(left, right), float(squares[kept:].sum())
