"""Rows change: some rows of a matrix move, and the others do not.

    D[index[i]] = values[i]       index (k,) strictly increasing, values (k, n)

Shape legend: m rows, n columns of the matrix in which the parameter is seen; k rows picked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change, Shape, as_vector, frobenius, matrix_shape
from dtheta.errors import ShapeMismatch


@dataclass(frozen=True, eq=False, repr=False)
class Rows(Change):
    """Some rows of a matrix, such as the embeddings of added or edited tokens; ``index`` is strictly increasing."""

    index: Tensor
    values: Tensor
    full_shape: Shape
    kind: ClassVar[str] = "rows"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_vector(self.values))
        object.__setattr__(self, "index", self.index.detach().to(torch.int64))
        object.__setattr__(self, "full_shape", tuple(self.full_shape))
        k = self.index.numel()
        rows, columns = matrix_shape(self.full_shape)
        if self.index.ndim != 1 or tuple(self.values.shape) != (k, columns):
            raise ShapeMismatch(
                f"rows: index {tuple(self.index.shape)} and values {tuple(self.values.shape)} do not fit a parameter "
                f"{self.full_shape}; expected (k,) and (k, {columns})"
            )
        if k and not (bool((self.index.diff() > 0).all()) and int(self.index[0]) >= 0 and int(self.index[-1]) < rows):
            raise ShapeMismatch(f"rows: the index must be strictly increasing and inside 0..{rows - 1}")

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.full_shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the values."""
        return self.values.dtype

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add the rows."""
        total.index_add_(0, self.index, self.values.double(), alpha=factor)

    def rows(self, index: Tensor) -> Tensor:
        """Return the picked rows, zero where nothing changes."""
        if not self.index.numel():
            return self.values.new_zeros(index.numel(), self.values.shape[1], dtype=torch.float64)
        position = torch.searchsorted(self.index, index).clamp(max=self.index.numel() - 1)
        found = (self.index[position] == index).unsqueeze(1)
        return self.values[position].double() * found

    def row_support(self) -> Tensor:
        """Return the index."""
        return self.index

    def norm(self) -> float:
        """Return the norm of the rows."""
        return frobenius(self.values)

    def window(self, axis: int, start: int, stop: int) -> Change | None:
        """Return the rows inside the window."""
        rows, columns = matrix_shape(self.full_shape)
        if axis == 1:
            return Rows(self.index, self.values[:, start:stop], (rows, stop - start))
        low, high = torch.searchsorted(self.index, torch.tensor([start, stop], device=self.index.device)).tolist()
        if low == high:
            return None
        return Rows(self.index[low:high] - start, self.values[low:high], (stop - start, columns))

    def meta(self) -> dict[str, Any]:
        """Return kind and shape, and the number of rows."""
        return {**super().meta(), "count": self.index.numel()}

    def tensors(self) -> dict[str, Tensor]:
        """Return index and values."""
        return {"index": self.index, "values": self.values}

    def map(self, move: Any) -> Change:
        """Return the moved change; the index stays int64."""
        return Rows(move(self.index), move(self.values), self.full_shape)
