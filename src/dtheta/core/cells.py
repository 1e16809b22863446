"""The norm of a sum of changes, cell by cell: work and memory follow what is stored, not the shape of the parameter.

    rows    = R_1 + R_2 + ...     in all rows of R_i, and in all columns of C_j, the same terms act
    columns = C_1 + C_2 + ...
    |D|^2   = sum over i, j of |D[R_i, C_j]|^2

In a cell, each term is its factors, or numbers that are stored for that cell. So a block of q in a projection of any
size costs what q does, and a file of a thousand bytes that claims a parameter of a trillion elements costs nothing.

Within a cell the terms are added before they are squared, and factored ones go through QR (linalg.py): parts that
cancel would leave no digits in a sum of inner products.

Shape legend: m rows, n columns of the parameter's matrix; r rank; a cell has p rows and q columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Change, Factors, matrix_shape, slabs
from dtheta.core.combination import Scaled, Sum
from dtheta.core.linalg import lowrank_norm

_CHUNK = 1 << 24  # elements of a cell that are assembled at once


@dataclass(frozen=True)
class _Piece:
    """``factor`` times a change that is no sum, multiple or block, placed at (top, left) of the parameter's matrix."""

    change: Change
    factor: float
    corner: tuple[int, int]
    pair: Factors | None
    support: Tensor | None

    @property
    def window(self) -> tuple[int, ...]:
        """First row and column, and how many of each."""
        return (*self.corner, *matrix_shape(self.change.shape))

    def edges(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the starts and stops of the ranges of rows (axis 0) or columns (axis 1) in which the piece acts."""
        start, length = self.window[axis], self.window[2 + axis]
        if axis == 0 and self.support is not None:
            rows = self.support.unique().cpu().numpy() + start
            return rows, rows + 1
        return np.array([start]), np.array([start + length])

    def cut(self, rows: Tensor, columns: Tensor) -> Factors:
        """Return the factors of a cell, (p, r) and (r, q)."""
        assert self.pair is not None
        left, right = self.pair
        top, beside = self.corner
        left, right = _take(left, rows - top, 0), _take(right, columns - beside, 1)
        return left if self.factor == 1.0 else left * self.factor, right

    def numbers(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the elements of a cell, (p, q) float64."""
        found = _take(self.change.rows(rows - self.corner[0]), columns - self.corner[1], 1)
        return found if self.factor == 1.0 else found * self.factor


def sum_norm(change: Change) -> float:
    """Return the Frobenius norm of a sum, accumulated in float64."""
    pieces = list(_pieces(change, 1.0, (0, 0)))
    if not pieces:
        return 0.0
    if len({piece.window for piece in pieces}) == 1 and all(piece.support is None for piece in pieces):
        return _joint(pieces)
    device = pieces[0].change.device
    rows, columns = _groups(pieces, 0), _groups(pieces, 1)
    cells = ((act, p, q) for in_rows, p in rows for in_columns, q in columns if (act := in_rows & in_columns).any())
    return math.hypot(*(_cell(_acting(pieces, act), p.to(device), q.to(device)) for act, p, q in cells))


def _pieces(change: Change, factor: float, corner: tuple[int, int]) -> Iterator[_Piece]:
    """Yield what a change is made of, without the parts that are zero by their form."""
    if isinstance(change, Scaled):
        yield from _pieces(change.term, factor * change.factor, corner)
    elif isinstance(change, Sum):
        for term in change.terms:
            yield from _pieces(term, factor, corner)
    elif isinstance(change, Block):
        down, right = (change.start, 0) if change.axis == 0 else (0, change.start)
        yield from _pieces(change.term, factor, (corner[0] + down, corner[1] + right))
    elif math.prod(change.shape):
        pair, support = change.factors(torch.float64), change.row_support()
        if not (pair is not None and not pair[0].shape[1]) and not (support is not None and not support.numel()):
            yield _Piece(change, factor, corner, pair, None if pair is not None else support)


def _joint(pieces: Sequence[_Piece]) -> float:
    """Return the norm where all pieces fill one window."""
    pairs = [(piece.pair[0] * piece.factor, piece.pair[1]) for piece in pieces if piece.pair is not None]
    if len(pairs) == len(pieces):
        return _factored(pairs)
    height, width = pieces[0].window[2:]
    lengths, buffer = [], None
    for start, stop in slabs(height, width, pieces[0].change.device):
        if buffer is None:  # one for all slabs: fresh memory for each would cost more than the arithmetic
            buffer = torch.empty(stop - start, width, dtype=torch.float64, device=pieces[0].change.device)
        total = buffer[: stop - start].zero_()
        for piece in pieces:
            part = piece.change.slab(start, stop)
            if part is not None:
                part.add_to(total, piece.factor)
        lengths.append(float(torch.linalg.vector_norm(total)))
    return math.hypot(*lengths)


def _factored(pairs: Sequence[Factors]) -> float:
    return float(lowrank_norm(torch.cat([pair[0] for pair in pairs], 1), torch.cat([pair[1] for pair in pairs])))


def _cell(pieces: Sequence[_Piece], rows: Tensor, columns: Tensor) -> float:
    """Return the norm of one cell, in which all pieces act."""
    pairs = [piece.cut(rows, columns) for piece in pieces if piece.pair is not None]
    stored = [piece for piece in pieces if piece.pair is None]
    if not stored:
        return _factored(pairs)
    lengths = []
    step = max(1, _CHUNK // columns.numel())
    for start in range(0, rows.numel(), step):
        some = slice(start, start + step)
        total = stored[0].numbers(rows[some], columns)
        for piece in stored[1:]:
            total = total + piece.numbers(rows[some], columns)
        for left, right in pairs:
            total = torch.addmm(total, left[some], right)
        lengths.append(float(torch.linalg.vector_norm(total)))
    return math.hypot(*lengths)


def _take(matrix: Tensor, index: Tensor, axis: int) -> Tensor:
    """Return rows or columns of a matrix; a view where they follow one another."""
    first, count = int(index[0]), index.numel()
    if int(index[-1]) - first + 1 == count:
        return matrix.narrow(axis, first, count)
    return matrix.index_select(axis, index)


def _groups(pieces: Sequence[_Piece], axis: int) -> list[tuple[NDArray[np.uint64], Tensor]]:
    """Return the sets of rows or columns in which the same pieces act: a bit for each piece, and the numbers (p,)."""
    edges = [piece.edges(axis) for piece in pieces]
    at = np.concatenate([edge for both in edges for edge in both])
    piece = np.repeat(np.arange(len(pieces)), [2 * len(starts) for starts, _ in edges])
    flips = np.zeros((len(at), (len(pieces) + 63) // 64), dtype=np.uint64)
    flips[np.arange(len(at)), piece // 64] = np.uint64(1) << (piece % 64).astype(np.uint64)
    order = np.argsort(at, kind="stable")
    at, acting = at[order], np.bitwise_xor.accumulate(flips[order], axis=0)  # begun and not ended after each edge
    lengths = np.diff(at, append=at[-1])
    masks, group = np.unique(acting[lengths > 0], axis=0, return_inverse=True)
    starts, lengths = at[lengths > 0], lengths[lengths > 0]
    found = []
    for i, mask in enumerate(masks):
        if mask.any():
            mine = group.reshape(-1) == i
            found.append((mask, torch.from_numpy(_ranges(starts[mine], lengths[mine]))))
    return found


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return start, start + 1, ... of every range, one after the other."""
    ends = lengths.cumsum()
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])


def _acting(pieces: Sequence[_Piece], mask: NDArray[np.uint64]) -> list[_Piece]:
    return [piece for i, piece in enumerate(pieces) if int(mask[i // 64]) >> (i % 64) & 1]
