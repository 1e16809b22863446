"""Ternary change: signs of some entries and one scale, for the whole parameter or for each of its rows.

    D_ij = s t_ij   or   s_i t_ij,       t_ij in {-1, 0, +1}

The form that ComPEFT gives to a task vector (Yadav, Choshen, Raffel and Bansal 2023, arXiv 2311.13171). Held as two bit
planes, two bits an entry, and computed with as they are (planes.py); in a file the signs are entropy-coded, close to
the bits that they carry (codec). What identifies the change are planes and scale, not the code.

Shape legend: m rows, n columns of the matrix in which the parameter is seen; b = ceil(m n / 8) bytes of a plane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change, Shape, as_vector, matrix_shape
from dtheta.core.plane_products import dots
from dtheta.core.plane_sums import add_scaled
from dtheta.core.planes import Planes, trusted
from dtheta.errors import ShapeMismatch


@dataclass(frozen=True, eq=False, repr=False)
class Ternary(Change):
    """``scale * signs``; see ``ternary`` to make one from ``Planes``.

    Attributes:
        positive: Bit plane of the entries that are +, (b,) uint8, in the order of storage, lowest bit first.
        negative: Bit plane of the entries that are -, likewise; no entry is in both.
        scale: One number () or one a row (m,), float32 or float64; not negative by convention, but any finite number.
        full_shape: Shape of the parameter.
    """

    positive: Tensor
    negative: Tensor
    scale: Tensor
    full_shape: Shape
    kind: ClassVar[str] = "ternary"

    def __post_init__(self) -> None:
        object.__setattr__(self, "full_shape", tuple(self.full_shape))
        object.__setattr__(self, "scale", as_vector(self.scale))
        rows, columns = matrix_shape(self.full_shape)
        nbytes = (rows * columns + 7) // 8
        planes_fit = all(p.dtype == torch.uint8 and tuple(p.shape) == (nbytes,) for p in (self.positive, self.negative))
        if not planes_fit or tuple(self.scale.shape) not in ((), (rows,)):
            raise ShapeMismatch(
                f"ternary: planes {tuple(self.positive.shape)}, {tuple(self.negative.shape)} and scale "
                f"{tuple(self.scale.shape)} do not fit a parameter of {self.full_shape}; expected ({nbytes},) uint8 "
                f"twice, and () or ({rows},)"
            )

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.full_shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the scale."""
        return self.scale.dtype

    @property
    def device(self) -> torch.device:
        """Device of the planes."""
        return self.positive.device

    @property
    def by_row(self) -> bool:
        """Whether every row has a scale of its own."""
        return self.scale.ndim == 1

    @cached_property
    def planes(self) -> Planes:
        """The signs in host memory; shared, where the planes are there already."""
        rows, columns = matrix_shape(self.full_shape)
        return trusted(self.positive.cpu().numpy(), self.negative.cpu().numpy(), rows * columns)

    @cached_property
    def count(self) -> int:
        """Number of entries that are not zero."""
        return self.planes.count

    @property
    def density(self) -> float:
        """Share of entries that are not zero; 0 where there are none."""
        return self.count / self.planes.length if self.planes.length else 0.0

    def signs(self) -> Tensor:
        """Return the signs as an (m, n) int8 matrix on the change's device."""
        shape = matrix_shape(self.full_shape)
        if self.device.type == "cpu":
            return torch.from_numpy(self.planes.to_signs()).reshape(shape)
        return device_signs(self.positive, self.negative, math.prod(shape)).reshape(shape)

    def dense(self) -> Tensor:
        """Return scale times signs."""
        if self.device.type != "cpu":
            return (self.signs() * self._column(self.dtype)).reshape(self.full_shape)
        return self._add(torch.zeros(self.full_shape, dtype=self.dtype), 1.0)

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add the multiple, in one pass over ``total`` where it lies in one run of memory."""
        if total.device.type == "cpu" and self.device.type == "cpu" and total.is_contiguous():
            self._add(total, factor)
        else:
            total.add_(self.signs().to(total.device) * (self._column(torch.float64) * factor).to(total.device))

    def _add(self, total: Tensor, factor: float) -> Tensor:
        scale = self.scale.double() * factor
        columns = matrix_shape(self.full_shape)[1]
        if not self.by_row:
            return add_scaled(total, [self.planes], [float(scale)])
        return add_scaled(total, [self.planes], [scale.numpy()], span=columns) if total.numel() else total

    def _column(self, dtype: torch.dtype) -> Tensor:
        scale = self.scale.to(dtype)
        return scale[:, None] if self.by_row else scale

    def inner_dense(self, matrix: Tensor) -> float:
        """Return the inner product with a dense (m, n) float32 or float64 matrix, in one pass over it."""
        if not matrix.numel():
            return 0.0
        if matrix.device.type != "cpu":
            return float((self.signs().double() * self._column(torch.float64) * matrix.double()).sum())
        if not self.by_row:
            return float(self.scale) * float(dots(matrix, [self.planes])[0])
        sums = torch.from_numpy(dots(matrix, [self.planes], span=matrix.shape[1])[0])
        return float(self.scale.double().cpu() @ sums)

    def row_counts(self) -> Tensor:
        """Return the number of entries that are not zero in each row, (m,) int64."""
        return self.signs().count_nonzero(1)

    def norm(self) -> float:
        """Return the norm, from counts."""
        if not self.by_row:
            return abs(float(self.scale)) * math.sqrt(self.count)
        return float((self.scale.double().square() * self.row_counts()).sum().sqrt())

    def rows(self, index: Tensor) -> Tensor:
        """Return the picked rows."""
        scale = self.scale.double()[index, None] if self.by_row else self.scale.double()
        return self.signs()[index].double() * scale

    def window(self, axis: int, start: int, stop: int) -> Change:
        """Return the part in a window; rows share the planes where they start at a whole byte."""
        rows, columns = matrix_shape(self.full_shape)
        if axis == 1:
            cut = Planes.from_signs(self.signs()[:, start:stop].contiguous())
            return ternary(cut, self.scale, (rows, stop - start), self.device)
        scale = self.scale[start:stop] if self.by_row else self.scale
        part = self.planes.part(start * columns, stop * columns)
        return ternary(part, scale, (stop - start, columns), self.device)

    def meta(self) -> dict[str, Any]:
        """Return kind and shape, the number of nonzeros, whether each row has a scale, and the planes' digests."""
        planes = {name: self.digests[name] for name in ("positive", "negative")}
        return {**super().meta(), "count": self.count, "by_row": self.by_row, **planes}

    def tensors(self) -> dict[str, Tensor]:
        """Return planes and scale: what identifies the change."""
        return {"positive": self.positive, "negative": self.negative, "scale": self.scale}

    def stored(self, basis: bool = False) -> dict[str, Tensor]:
        """Return the scale and the coded signs."""
        from dtheta.core.codec.payload import encode

        planes = self.planes
        return {"scale": self.scale, "code": torch.from_numpy(encode(planes.mask, planes.negative, planes.length))}

    def is_finite(self) -> bool:
        """Tell whether the scale is finite."""
        return bool(torch.isfinite(self.scale).all())

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        return Ternary(move(self.positive), move(self.negative), move(self.scale), self.full_shape)


def device_signs(positive: Tensor, negative: Tensor, length: int) -> Tensor:
    """Return the elements (n,) int8 of two planes, on their own device: no plane crosses to the host."""
    bits = torch.arange(8, dtype=torch.uint8, device=positive.device)
    planes = [((plane[:, None] >> bits) & 1).view(torch.int8).flatten() for plane in (positive, negative)]
    return (planes[0] - planes[1])[:length]


def ternary(planes: Planes, scale: Tensor, shape: Shape, device: torch.device | None = None) -> Ternary:
    """Return the change of a parameter of this shape with the signs of ``planes``, which share their memory.

    Raises:
        ShapeMismatch: If planes, scale and shape do not fit.
    """
    if planes.length != math.prod(shape):
        raise ShapeMismatch(f"ternary: {planes.length} signs do not fit a parameter of {tuple(shape)}")
    positive, negative = torch.from_numpy(planes.positive), torch.from_numpy(planes.negative)
    if device is not None and device.type != "cpu":
        positive, negative = positive.to(device), negative.to(device)
    return Ternary(positive, negative, scale, shape)
