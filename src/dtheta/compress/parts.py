"""Vectors of a change that are compressed, and the change that their ternary forms make.

    Entries     all entries              ternary
    PickedRows  the entries of rows      block of a ternary change, from the first row to the last
    Shifts      singular-value shifts    spectral, shifts in {-s, 0, s}, stored as numbers
    NewVector   a new vector's entries   new, entries in {-s, 0, s}, stored as numbers
    NewFactors  both factors of one      new in factored form, their entries in {-s, 0, s}, stored as numbers
    Pair        both factors             ternary factors

Which of them a change is made of is for plan.py.

Shape legend: L (m, r), R (r, n); m rows, n columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New, Shape
from dtheta.core.combination import scale
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.planes import Planes
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.ternary import Ternary, ternary
from dtheta.core.ternary_factors import TernaryFactors


class Part(ABC):
    """Vectors that are compressed, and the change that their ternary forms make."""

    @property
    @abstractmethod
    def vectors(self) -> tuple[Change, ...]:
        """What is compressed; its shape says what a row is."""

    @abstractmethod
    def build(self, found: Sequence[Ternary]) -> Change:
        """Return the compressed change from the vectors' ternary forms."""


@dataclass(frozen=True)
class Entries(Part):
    """A change by its entries."""

    change: Change

    @property
    def vectors(self) -> tuple[Change, ...]:
        """The change."""
        return (self.change,)

    def build(self, found: Sequence[Ternary]) -> Change:
        """Return the ternary change."""
        return found[0]


@dataclass(frozen=True)
class NewVector(Part):
    """A vector that the base does not have; it stays one, so that it is found where it is looked for."""

    change: Change

    @property
    def vectors(self) -> tuple[Change, ...]:
        """The vector."""
        return (Dense(self.change.dense()),)

    def build(self, found: Sequence[Ternary]) -> Change:
        """Return the new vector, stored as numbers."""
        return New(found[0].dense())


@dataclass(frozen=True)
class Shifts(Part):
    """Shifts of singular values, on the same singular vectors."""

    change: Spectral

    @property
    def vectors(self) -> tuple[Change, ...]:
        """The shifts."""
        return (Dense(self.change.shift),)

    def build(self, found: Sequence[Ternary]) -> Change:
        """Return the spectral change, its shifts stored as numbers; a file takes the probe anew."""
        return Spectral(found[0].dense(), self.change.full_shape, self.change.left, self.change.right)


@dataclass(frozen=True)
class PickedRows(Part):
    """Some rows of a matrix."""

    change: Rows

    @property
    def vectors(self) -> tuple[Change, ...]:
        """The values of these rows."""
        return (Dense(self.change.values),)

    def build(self, found: Sequence[Ternary]) -> Change:
        """Return a block over the rows from the first to the last; those between are zero and cost next to nothing."""
        rows, columns = self.change.index, self.change.values.shape[1]
        first, last = int(rows[0]), int(rows[-1]) + 1
        inside = (rows - first).cpu()
        signs = torch.zeros(last - first, columns, dtype=torch.int8)
        signs[inside] = found[0].signs().cpu()
        size = found[0].scale
        if found[0].by_row:
            size = size.new_zeros(last - first).index_copy(0, inside.to(size.device), size)
        spread = ternary(Planes.from_signs(signs), size, (last - first, columns), found[0].device)
        return Block(spread, 0, first, self.change.full_shape)


@dataclass(frozen=True)
class Pair(Part):
    """A product of two factors, times one exact number; the number is not compressed, and does not move the signs."""

    left: Change
    right: Change
    shape: Shape
    multiple: float = 1.0

    @property
    def vectors(self) -> tuple[Change, ...]:
        """Both factors."""
        return (self.left, self.right)

    def build(self, found: Sequence[Ternary]) -> Change:
        """Return the product of the ternary factors."""
        return scale(TernaryFactors(found[0], found[1], self.shape), self.multiple)


@dataclass(frozen=True)
class NewFactors(Pair):
    """A new vector by its factors; it stays one, so that it is found where it is looked for."""

    def build(self, found: Sequence[Ternary]) -> Change:
        """Return the product of the factors, stored as numbers."""
        left, right = found[0].dense(), found[1].dense()
        core = None if self.multiple == 1.0 else left.new_full((left.shape[1],), self.multiple, dtype=torch.float64)
        return NewLowRank(left, right, core, self.shape)
