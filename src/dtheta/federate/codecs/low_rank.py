"""Low rank: every matrix by its leading singular vectors, everything else as numbers.

    D ~ L R,   L = U S^(1/2) (m, r),   R = S^(1/2) V^T (r, n),   r at most the rank asked for: the nearest of that rank
    body     of a matrix: r (16 bits; 65535 stands for dense), then L and R, or the entries;  else the entries

A change of lower rank takes as much as its rank, such as that of LoRA. Where factors take no fewer numbers than the
matrix, it goes as it is. Vectors have no factors.

Shape legend: m rows, n columns of the matrix in which the parameter is seen; r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.change import Change, Shape, matrix_shape
from dtheta.core.delta import Delta
from dtheta.core.linalg import lowrank_svd
from dtheta.core.lowrank import LowRank as Product
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.svd import balanced_factors, truncated_svd
from dtheta.errors import ConfigError, FormatError
from dtheta.federate.codecs.codec import BitCodec
from dtheta.federate.codecs.entries import entries_of
from dtheta.federate.codecs.reader import NUMBERS, Number, Reader, number_bytes
from dtheta.federate.frame import Frame

_DENSE = 0xFFFF
_LOST = 2.0**-24  # of the largest singular value: what float32 cannot carry beside it


@dataclass(frozen=True)
class LowRank(BitCodec):
    """Every matrix by factors of a rank.

    Attributes:
        rank: At most this rank, 1..65534.
        dtype: Of all numbers: "float32", "float16" or "bfloat16".
    """

    rank: int = 8
    dtype: Number = "float32"
    name: ClassVar[str] = "low-rank"
    code: ClassVar[int] = 0x60

    def __post_init__(self) -> None:
        super().__post_init__()
        if whole(self.rank, "rank", least=1) >= _DENSE:
            raise ConfigError(f"rank={self.rank}; expected a whole number from 1 to {_DENSE - 1}")

    @property
    def variant(self) -> int:
        """The dtype."""
        return NUMBERS.index(self.dtype)

    def _body(self, delta: Delta, frame: Frame) -> bytes:
        return b"".join(self._parameter(name, delta, frame) for name in frame.shapes)

    def _parameter(self, name: str, delta: Delta, frame: Frame) -> bytes:
        if not _is_matrix(frame.shapes[name]):
            return number_bytes(entries_of(delta, frame, name), self.dtype, name)
        m, n = matrix_shape(frame.shapes[name])
        left, right = _leading(delta[name], self.rank) if name in delta else (torch.zeros(m, 0), torch.zeros(0, n))
        r = left.shape[1]
        if _pays(r, m, n):
            numbers = number_bytes(left, self.dtype, name) + number_bytes(right, self.dtype, name)
            return r.to_bytes(2, "little") + numbers
        return _DENSE.to_bytes(2, "little") + number_bytes(entries_of(delta, frame, name), self.dtype, name)

    def _changes(self, body: Reader, frame: Frame) -> dict[str, Change]:
        return {name: self._change(name, body, frame) for name in frame.shapes}

    def _change(self, name: str, body: Reader, frame: Frame) -> Change:
        shape = frame.shapes[name]
        r = body.whole(2) if _is_matrix(shape) else _DENSE
        if r == _DENSE:
            return frame.change(name, body.numbers(math.prod(shape), self.dtype))
        m, n = matrix_shape(shape)
        if r > self.rank or not _pays(r, m, n):
            raise FormatError(
                f"{name}: factors of rank {r} for {list(shape)}; expected fewer numbers, and rank {self.rank} at most"
            )
        left, right = (body.numbers(count, self.dtype) for count in (m * r, r * n))
        kind = NewLowRank if name in frame.new else Product
        return kind(left.view(m, r), right.view(r, n), full_shape=shape)


def _is_matrix(shape: Shape) -> bool:
    return len(shape) > 1 and min(matrix_shape(shape)) > 1


def _pays(r: int, m: int, n: int) -> bool:
    """Tell whether factors take fewer numbers than the matrix."""
    return r * (m + n) < m * n


def _leading(change: Change, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of the nearest change of a rank, of one size, or of the rank that the change has."""
    factors = change.factors(torch.float64)
    if factors is None:
        found = truncated_svd(change.matrix().float(), min(rank, *matrix_shape(change.shape)))
        U, S, Vh = found.U, found.S, found.Vh
    else:
        U, S, Vh = lowrank_svd(*factors)
    r = min(rank, int((S > _LOST * S[:1]).sum()))
    return balanced_factors(U[:, :r], S[:r], Vh[:r])
