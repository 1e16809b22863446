"""Product of two ternary matrices: what is left of a low-rank change when its factors are compressed.

    D = L R,   L = s T (m, r),   R = s' T' (r, n),   T, T' over {-1, 0, +1}; s, s' one number or one a row

ComPEFT (arXiv 2311.13171) compresses adapters this way: the entries of A and B, never those of their product. Kept as
two ternary changes, so each entry of a factor takes two bits in memory and its entropy in a file, and the product has
the rank of the adapter. Its entries are multiples of s s', no longer only three values.

Shape legend: m rows, n columns of the matrix in which the parameter is seen; r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dtheta.core.change import Change, Factors, Shape, matrix_shape
from dtheta.core.ternary import Ternary
from dtheta.errors import ShapeMismatch


@dataclass(frozen=True, eq=False, repr=False)
class TernaryFactors(Change):
    """``left @ right`` of two ternary matrices.

    Attributes:
        left: Left factor, of shape (m, r).
        right: Right factor, of shape (r, n).
        full_shape: Shape of the parameter.
    """

    left: Ternary
    right: Ternary
    full_shape: Shape
    kind: ClassVar[str] = "ternary-factors"

    def __post_init__(self) -> None:
        object.__setattr__(self, "full_shape", tuple(self.full_shape))
        m, n = matrix_shape(self.full_shape)
        left, right = tuple(self.left.shape), tuple(self.right.shape)
        if len(left) != 2 or len(right) != 2 or (left[0], right[1]) != (m, n) or left[1] != right[0]:
            raise ShapeMismatch(
                f"ternary factors do not fit: left {left}, right {right}, parameter {self.full_shape}; expected (m, r) "
                f"and (r, n) with m = {m} and n = {n}"
            )

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.full_shape

    @property
    def rank(self) -> int:
        """Number of columns of ``left``."""
        return self.left.shape[1]

    def factors(self, dtype: torch.dtype | None = None) -> Factors:
        """Return both factors as dense matrices."""
        dtype = dtype or self.dtype
        return self.left.dense().to(dtype), self.right.dense().to(dtype)

    def window(self, axis: int, start: int, stop: int) -> Change:
        """Return the change of a window; only one factor is cut."""
        m, n = matrix_shape(self.full_shape)
        if axis == 0:
            return TernaryFactors(_ternary(self.left.window(0, start, stop)), self.right, (stop - start, n))
        return TernaryFactors(self.left, _ternary(self.right.window(1, start, stop)), (m, stop - start))

    def children(self) -> Mapping[str, Change]:
        """Return the factors."""
        return {"left": self.left, "right": self.right}

    def meta(self) -> dict[str, Any]:
        """Return kind and shape, and the factors' own descriptions."""
        return {**super().meta(), "left": self.left.meta(), "right": self.right.meta()}

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        return TernaryFactors(_ternary(self.left.map(move)), _ternary(self.right.map(move)), self.full_shape)


def _ternary(change: Change) -> Ternary:
    """Say to the type checker what windows and copies of ternary changes are."""
    assert isinstance(change, Ternary)
    return change
