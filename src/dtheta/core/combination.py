"""Multiples and sums of changes, kept as what they are made of, so that both are exact.

    Scaled   a D            made by ``a * change``, never nested
    Sum      D1 + D2 + ...  made by ``a + b``, never nested

Stacking the factors of low-rank terms is their exact sum:

    L1 R1 + L2 R2 = [L1 L2] [R1; R2]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change, Factors, New, Shape, matrix_shape, refuse_new
from dtheta.errors import ShapeMismatch, UnsupportedLayer


@dataclass(frozen=True, eq=False, repr=False)
class Scaled(Change):
    """A multiple of another change; made by ``a * change``, which never nests multiples."""

    factor: float
    term: Change
    kind: ClassVar[str] = "scaled"

    def __post_init__(self) -> None:
        refuse_new([self.term])
        if not math.isfinite(self.factor):
            raise UnsupportedLayer(f"cannot scale a change by {self.factor}: expected a finite number")

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.term.shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the term."""
        return self.term.dtype

    @property
    def rank(self) -> int | None:
        """Rank of the term."""
        return self.term.rank

    @property
    def shown_rank(self) -> int | None:
        """That of the term."""
        return self.term.shown_rank

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add the multiple."""
        self.term.add_to(total, factor * self.factor)

    def row_support(self) -> Tensor | None:
        """Return the term's."""
        return self.term.row_support()

    def norm(self) -> float:
        """Return the multiple of the norm."""
        return abs(self.factor) * self.term.norm()

    def factors(self, dtype: torch.dtype | None = None) -> Factors | None:
        """Return the term's factors with the multiple in the left one."""
        factors = self.term.factors(torch.float64)
        if factors is None:
            return None
        dtype = dtype or self.dtype
        return (self.factor * factors[0]).to(dtype), factors[1].to(dtype)

    def rows(self, index: Tensor) -> Tensor:
        """Return the multiple of the term's rows."""
        return self.factor * self.term.rows(index)

    def window(self, axis: int, start: int, stop: int) -> Change | None:
        """Return the multiple of the term's window."""
        inner = self.term.window(axis, start, stop)
        return None if inner is None else scale(inner, self.factor)

    def meta(self) -> dict[str, Any]:
        """Return the factor and the term's own description."""
        return {**super().meta(), "factor": float(self.factor), "term": self.term.meta()}

    def children(self) -> Mapping[str, Change]:
        """Return the term."""
        return {"term": self.term}

    def times(self, factor: float) -> Change:
        """Return one multiple in place of two."""
        return scale(self.term, factor * self.factor)

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        return Scaled(self.factor, self.term.map(move))


@dataclass(frozen=True, eq=False, repr=False)
class Sum(Change):
    """A sum of changes of one parameter; made by ``a + b``, which never nests sums."""

    terms: tuple[Change, ...] = field(default_factory=tuple)
    kind: ClassVar[str] = "sum"

    def __post_init__(self) -> None:
        object.__setattr__(self, "terms", tuple(self.terms))
        refuse_new(self.terms)
        shapes = {tuple(term.shape) for term in self.terms}
        if len(shapes) != 1:
            raise ShapeMismatch(f"a sum needs terms of one shape, found {sorted(shapes)}")

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return self.terms[0].shape

    @property
    def dtype(self) -> torch.dtype:
        """float64 if any term is, else float32."""
        return torch.float64 if any(term.dtype == torch.float64 for term in self.terms) else torch.float32

    @property
    def rank(self) -> int | None:
        """Sum of the ranks, or None if a term is not factored."""
        return _total([term.rank for term in self.terms])

    @property
    def shown_rank(self) -> int | None:
        """Sum of those of the terms, or None if one has none, or some are of slices and some of the matrix."""
        mixed = len({term.rank is None for term in self.terms}) > 1
        return None if mixed else _total([term.shown_rank for term in self.terms])

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add every term."""
        for term in self.terms:
            term.add_to(total, factor)

    def norm(self) -> float:
        """Return the norm, computed where something is stored; see cells.py."""
        from dtheta.core.cells import sum_norm  # which is built on this module

        return sum_norm(self)

    def factors(self, dtype: torch.dtype | None = None) -> Factors | None:
        """Return the stacked factors when every term has factors."""
        pairs = []
        for term in self.terms:
            pair = term.factors(dtype or self.dtype)
            if pair is None:
                return None
            pairs.append(pair)
        return _stacked(pairs)

    def rows(self, index: Tensor) -> Tensor:
        """Return the sum of the terms' rows."""
        total = self.terms[0].rows(index)
        for term in self.terms[1:]:
            total = total + term.rows(index)
        return total

    def window(self, axis: int, start: int, stop: int) -> Change | None:
        """Return the sum of the terms' windows."""
        cut = [inner for term in self.terms if (inner := term.window(axis, start, stop)) is not None]
        return add(cut) if cut else None

    def meta(self) -> dict[str, Any]:
        """Return the terms' own descriptions."""
        return {**super().meta(), "terms": [term.meta() for term in self.terms]}

    def children(self) -> Mapping[str, Change]:
        """Return the terms, numbered."""
        return {str(i): term for i, term in enumerate(self.terms)}

    def times(self, factor: float) -> Change:
        """Return the sum of the multiples."""
        return Sum(tuple(scale(term, factor) for term in self.terms))

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        return Sum(tuple(term.map(move) for term in self.terms))


def _total(ranks: Sequence[int | None]) -> int | None:
    return None if None in ranks else sum(rank for rank in ranks if rank is not None)


def _stacked(pairs: Sequence[Factors]) -> Factors:
    """Return the factors of a sum of products."""
    return torch.cat([pair[0] for pair in pairs], dim=1), torch.cat([pair[1] for pair in pairs], dim=0)


def scale(change: Change, factor: float) -> Change:
    """Return ``factor * change``; a factor of one is the change itself, and multiples do not nest.

    Raises:
        UnsupportedLayer: If the factor is NaN or infinite.
    """
    if not math.isfinite(factor):
        raise UnsupportedLayer(f"cannot scale a change by {factor}: expected a finite number")
    return change if factor == 1.0 else change.times(factor)


def add(changes: Sequence[Change]) -> Change:
    """Return the exact sum of changes of one parameter, kept in factored form; of one change, that change itself.

    Raises:
        ShapeMismatch: If the changes are not all of one shape.
        UnsupportedLayer: If a new vector meets a displacement of an existing parameter.
    """
    if len(changes) == 1:
        return changes[0]
    flat: list[Change] = []
    for change in changes:
        for term in change.terms if isinstance(change, Sum) else [change]:
            _append(flat, term)
    shapes = {tuple(change.shape) for change in flat}
    if len(shapes) != 1:
        raise ShapeMismatch(f"cannot add changes of shapes {sorted(shapes)}: expected one shape")
    if len(flat) == 1:
        return flat[0]
    new = [change for change in flat if change.is_new]
    if not new:
        return Sum(tuple(flat))
    if len(new) != len(flat):
        raise UnsupportedLayer("cannot add a new vector to the displacement of an existing parameter of the same name")
    summed = torch.zeros(matrix_shape(new[0].shape), dtype=torch.float64, device=new[0].device)
    for change in new:
        change.add_to(summed)
    wide = any(change.dtype == torch.float64 for change in new)
    return New(summed.reshape(new[0].shape).to(torch.float64 if wide else torch.float32))


def _append(flat: list[Change], term: Change) -> None:
    """Append a term, or join it to one with which its sum is again one change as cheap as each."""
    for i, other in enumerate(flat):
        joined = other.plus(term)
        if joined is not None:
            flat[i] = joined
            return
    flat.append(term)
