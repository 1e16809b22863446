"""Rows of a change, for whoever reads a change slab by slab and never holds it whole."""

from __future__ import annotations

import torch
from torch import Tensor

from dtheta.core.change import Change, matrix_shape


def assembled(change: Change, start: int, stop: int) -> Tensor:
    """Return rows ``start ... stop - 1`` of the displacement (rows, n), float64 and not rounded, on its device."""
    total = torch.zeros(stop - start, matrix_shape(change.shape)[1], dtype=torch.float64, device=change.device)
    cut = change.slab(start, stop)
    if cut is not None:
        cut.add_to(total)
    return total
