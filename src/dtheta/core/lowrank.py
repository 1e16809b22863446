"""Low-rank change: a product of factors with a diagonal between them.

    D = left diag(core) right       left (m, r), core (r,), right (r, n)

Shape legend: m rows, n columns of the matrix in which the parameter is seen; r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change, Factors, Shape, matrix_shape, settle_factors, shapes_text
from dtheta.errors import ShapeMismatch


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Change):
    """``left @ diag(core) @ right``; ``core`` None stands for ones.

    Keeping ``core`` apart lets PiSSA (core = 1 ... -1) and SORSA (core = S ... -S0) store the trained and the initial
    factors as they are, so that training can go on from a file without rounding.
    """

    left: Tensor
    right: Tensor
    core: Tensor | None = None
    full_shape: Shape | None = None
    kind: ClassVar[str] = "low-rank"

    def __post_init__(self) -> None:
        settle_factors(self)
        if not self._fits():
            raise ShapeMismatch(
                f"low-rank factors do not fit: {shapes_text(self)}; expected (m, r), (r,), (r, n) with m rows and n "
                "elements a row in the parameter"
            )

    def _fits(self) -> bool:
        if self.left.ndim != 2 or self.right.ndim != 2:
            return False
        (m, r), (s, n) = self.left.shape, self.right.shape
        core_fits = self.core is None or tuple(self.core.shape) == (r,)
        return r == s and core_fits and matrix_shape(self.shape) == (m, n)

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return (self.left.shape[0], self.right.shape[1]) if self.full_shape is None else self.full_shape

    @property
    def rank(self) -> int:
        """Number of columns of ``left``."""
        return self.left.shape[1]

    def factors(self, dtype: torch.dtype | None = None) -> Factors:
        """Return ``(left * core, right)``."""
        dtype = dtype or self.dtype
        left = self.left if self.core is None else self.left.double() * self.core
        return left.to(dtype), self.right.to(dtype)

    def window(self, axis: int, start: int, stop: int) -> Change:
        """Return the change of a window; only one factor is cut."""
        if axis == 0:
            return LowRank(self.left[start:stop], self.right, self.core)
        return LowRank(self.left, self.right[:, start:stop], self.core)

    def meta(self) -> dict[str, Any]:
        """Return kind and shape, the rank, and whether there is a core."""
        return {**super().meta(), "rank": self.rank, "core": self.core is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return the factors."""
        parts = {"left": self.left, "right": self.right}
        return parts if self.core is None else {**parts, "core": self.core}

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        core = None if self.core is None else move(self.core)
        return type(self)(move(self.left), move(self.right), core, self.full_shape)
