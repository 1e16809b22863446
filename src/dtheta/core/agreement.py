"""Agreement of signs: where changes of one parameter move it the same way, and where against each other.

    agree_ij    = #{e : D_i,e D_j,e > 0}
    conflict_ij = #{e : D_i,e D_j,e < 0}

Entries that conflict cancel in a sum; merging methods are about them (TIES, Yadav et al. 2023, arXiv 2306.01708). Of
ternary changes both are counted on the bit planes (plane_products.py); changes of any other form are assembled slab by
slab, in float64, and never held whole:

    S S^T = agree - conflict,   |S| |S|^T = agree + conflict,   S = signs of M changes on the entries of a slab

Shape legend: M changes; e entries of a slab.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dtheta.core.assembled import assembled
from dtheta.core.change import Change, matrix_shape, slabs
from dtheta.core.plane_products import agreements
from dtheta.core.planes import Planes
from dtheta.core.ternary import Ternary
from dtheta.errors import ConfigError, ShapeMismatch


def sign_agreement(changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    """Return how many entries agree in sign, and how many conflict, between every two of M changes.

    Args:
        changes: Of one parameter, in any form; spectral ones must be bound.

    Returns:
        Two symmetric (M, M) int64 matrices; the diagonal of the first counts the entries of each that are not zero.

    Raises:
        ConfigError: If there are no changes, or one is spectral and its basis is not at hand.
        ShapeMismatch: If their shapes differ.
    """
    if not changes:
        raise ConfigError("no changes were given; at least one is needed")
    for change in changes:
        if tuple(change.shape) != tuple(changes[0].shape):
            raise ShapeMismatch(f"changes of shapes {tuple(changes[0].shape)} and {tuple(change.shape)} share no entry")
    planes = [_planes(change) for change in changes]
    if None not in planes:
        same, opposite = agreements([p for p in planes if p is not None])
        return torch.from_numpy(same), torch.from_numpy(opposite)
    return _by_slabs(changes)


def _planes(change: Change) -> Planes | None:
    """Return the signs of a change that is held as bit planes under one scale, else None."""
    if not isinstance(change, Ternary) or change.by_row or not float(change.scale):
        return None
    return change.planes if float(change.scale) > 0 else -change.planes


def _by_slabs(changes: Sequence[Change]) -> tuple[Tensor, Tensor]:
    count = len(changes)
    same, opposite = torch.zeros(2, count, count, dtype=torch.int64)
    rows, columns = matrix_shape(changes[0].shape)
    for start, stop in slabs(rows, columns):
        # a slab has at most 2^18 entries or one row: sums of its signs are exact in float64
        S_Me = torch.stack([assembled(change, start, stop).sign_().reshape(-1).cpu() for change in changes])
        difference, both = S_Me @ S_Me.mT, S_Me.abs() @ S_Me.abs().mT
        same += ((both + difference) / 2).long()
        opposite += ((both - difference) / 2).long()
    return same, opposite
