"""A new vector in factored form: a table that the base does not have, stored as a product.

    T = left diag(core) right       left (s, r), core (r,), right (r, d)

DePT's offsets are such a table: s positions by d features (arXiv 2309.05173). Sums stack the factors, so the sum of two
tables is exact; stored as two separate matrices, it would get the cross terms of both.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change
from dtheta.core.lowrank import LowRank
from dtheta.errors import ShapeMismatch


class NewLowRank(LowRank):
    """``left @ diag(core) @ right``, relative to nothing; ``core`` None stands for ones."""

    kind: ClassVar[str] = "new-low-rank"
    is_new: ClassVar[bool] = True

    def times(self, factor: float) -> Change:
        """Return the multiple, its factor in the core; a power of two leaves every number exact."""
        core = factor * self._core()
        narrow = core.to(self.dtype)
        return NewLowRank(self.left, self.right, narrow if torch.equal(narrow.double(), core) else core, self.shape)

    def plus(self, other: Change) -> Change | None:
        """Return the exact sum with another table of this kind, its factors stacked.

        Raises:
            ShapeMismatch: If the tables have different shapes.
        """
        if not isinstance(other, NewLowRank):
            return None
        if self.shape != other.shape:
            raise ShapeMismatch(f"cannot add tables of {self.shape} and {other.shape}: expected one shape")
        left, right = torch.cat([self.left, other.left], 1), torch.cat([self.right, other.right])
        core = None if self.core is None and other.core is None else torch.cat([self._core(), other._core()])
        return NewLowRank(left, right, core, self.shape)

    def _core(self) -> Tensor:
        ones = torch.ones(self.rank, dtype=torch.float64, device=self.device)
        return ones if self.core is None else self.core.double()
