"""Block change: a change of some rows or columns of a parameter, such as q, k or v of a fused projection.

    D[start : stop] = term   (axis 0)       D[:, start : stop] = term   (axis 1)       zero elsewhere

Shape legend: m rows, n columns of the matrix in which the parameter is seen; r rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dtheta.core.change import Change, Factors, Shape, matrix_shape, refuse_new
from dtheta.errors import ShapeMismatch


@dataclass(frozen=True, eq=False, repr=False)
class Block(Change):
    """A change of rows (axis 0) or columns (axis 1) ``start : start + length``: q, k or v of a fused projection."""

    term: Change
    axis: Literal[0, 1]
    start: int
    full_shape: Shape
    kind: ClassVar[str] = "block"

    def __post_init__(self) -> None:
        object.__setattr__(self, "full_shape", tuple(self.full_shape))
        refuse_new([self.term])
        if self.axis not in (0, 1):
            raise ShapeMismatch(f"a block is one of rows (axis 0) or columns (axis 1), found axis {self.axis!r}")
        inner, outer = matrix_shape(self.term.shape), matrix_shape(self.full_shape)
        other = 1 - self.axis
        if self.start < 0 or self.start + inner[self.axis] > outer[self.axis] or inner[other] != outer[other]:
            raise ShapeMismatch(
                f"a block of {inner} at {'row' if self.axis == 0 else 'column'} {self.start} does not fit into "
                f"a parameter of {self.full_shape}, seen as {outer}"
            )

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.full_shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the term."""
        return self.term.dtype

    @property
    def rank(self) -> int | None:
        """Rank of the term."""
        return self.term.rank

    @property
    def stop(self) -> int:
        """First row or column after the block."""
        return self.start + matrix_shape(self.term.shape)[self.axis]

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add the term inside the block."""
        self.term.add_to(total.narrow(self.axis, self.start, self.stop - self.start), factor)

    def row_support(self) -> Tensor | None:
        """Return the term's, moved to where the block is."""
        inner = self.term.row_support()
        return inner if inner is None or self.axis == 1 else inner + self.start

    def norm(self) -> float:
        """Return the norm of the term."""
        return self.term.norm()

    def factors(self, dtype: torch.dtype | None = None) -> Factors | None:
        """Return the term's factors, padded with zeros."""
        factors = self.term.factors(dtype)
        if factors is None:
            return None
        after = matrix_shape(self.full_shape)[self.axis] - self.stop
        left, right = factors
        if self.axis == 0:
            return torch.nn.functional.pad(left, (0, 0, self.start, after)), right
        return left, torch.nn.functional.pad(right, (self.start, after))

    def rows(self, index: Tensor) -> Tensor:
        """Return the picked rows, zero outside the block."""
        result = torch.zeros(index.numel(), matrix_shape(self.full_shape)[1], dtype=torch.float64, device=index.device)
        if self.axis == 1:
            result[:, self.start : self.stop] = self.term.rows(index)
        else:
            inside = (index >= self.start) & (index < self.stop)
            result[inside] = self.term.rows(index[inside] - self.start)
        return result

    def window(self, axis: int, start: int, stop: int) -> Change | None:
        """Return the overlap with a window."""
        rows, columns = matrix_shape(self.full_shape)
        cut = (rows, stop - start) if axis == 1 else (stop - start, columns)
        if axis != self.axis:
            inner = self.term.window(axis, start, stop)
            return None if inner is None else Block(inner, self.axis, self.start, cut)
        low, high = max(start, self.start), min(stop, self.stop)
        if low >= high:
            return None
        inner = self.term.window(axis, low - self.start, high - self.start)
        return None if inner is None else Block(inner, self.axis, low - start, cut)

    def meta(self) -> dict[str, Any]:
        """Return axis, start and the term's own description."""
        return {**super().meta(), "axis": self.axis, "start": self.start, "term": self.term.meta()}

    def children(self) -> Mapping[str, Change]:
        """Return the term."""
        return {"term": self.term}

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        return Block(self.term.map(move), self.axis, self.start, self.full_shape)
