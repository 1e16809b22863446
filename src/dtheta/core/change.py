"""Change: the displacement of one parameter, in its cheapest exact form.

    kind      dense form of the displacement                         stored
    dense     D                                                      D
    low-rank  L diag(c) R            (m, r) (r,) (r, n)              L, R and, if not all ones, c
    spectral  U diag(s) V^T          U, V from the base's own SVD    s and a probe (see spectral.py)
    rows      D[i] = values          rows of an embedding            i, values
    new       a vector that the base does not have (prompts, heads)  the vector
    block     a change of a window of rows or columns                the change, axis, start
    scaled    a * D                                                  a, D
    sum       D1 + D2 + ...                                          the terms

A parameter of any number of dimensions is seen as the matrix (shape[0], product of the rest), in the layout in
which the module stores it. Sums and multiples stay in factored form, so they are exact: adding two low-rank changes
stacks their factors and never adds factors element by element, which would bring in cross terms.

Stored tensors are float32 or float64; whatever is made of them is accumulated in float64 and rounded once, so the
order of a sum, its nesting and the precision flags of the matrix product do not show in the result.

Shape legend: m rows, n columns of that matrix; r rank; k rows picked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dtheta.core.fingerprint import tensor_digest
from dtheta.core.linalg import lowrank_norm
from dtheta.errors import ShapeMismatch, UnsupportedLayer

Shape = tuple[int, ...]
Factors = tuple[Tensor, Tensor]

# Rows are assembled in slabs of about this many elements: 2 MiB of float64 stay in the cache of one core, which makes
# exact accumulation as fast as float32 over the whole matrix (4096 x 4096, rank 16: 0.05 s against 0.09 s).
_SLAB = 1 << 18


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the matrix in which a parameter of this shape is seen."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def slabs(rows: int, columns: int, device: torch.device | None = None) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows that are small enough to be assembled in float64 at once; larger ones on an accelerator."""
    size = _SLAB if device is None or device.type == "cpu" else 64 * _SLAB
    step = max(1, size // max(columns, 1))
    for start in range(0, rows, step):
        yield start, min(start + step, rows)


def as_vector(tensor: Tensor) -> Tensor:
    """Detach, and widen to float32 whatever is narrower; integers become float64 (exact below 2**53).

    Raises:
        UnsupportedLayer: For complex tensors.
    """
    tensor = tensor if type(tensor) is Tensor and not tensor.requires_grad else tensor.detach()
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    if tensor.is_complex():
        raise UnsupportedLayer(f"a change cannot hold {tensor.dtype}: expected real numbers")
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.float64)


class Change(ABC):
    """Displacement of one parameter: a vector with ``+ - *``, ``inner`` (see products.py) and ``norm``.

    A change is immutable; its tensors must not be written to. A subclass gives ``kind``, ``shape``, ``map`` and
    either ``dense`` or ``add_to``, and what it stores: ``meta`` and ``tensors``, or ``children`` if it is made of
    other changes.
    """

    kind: ClassVar[str]
    shape: Shape
    __array_ufunc__ = None  # numpy scalars leave ``scalar * change`` to us

    @abstractmethod
    def map(self, move: Any) -> Change:
        """Return this change with ``move`` applied to every tensor in it (such as a move to another device)."""

    def dense(self) -> Tensor:
        """Return the displacement as a tensor of ``self.shape`` and ``self.dtype``."""
        rows, columns = matrix_shape(self.shape)
        result = torch.zeros(rows, columns, dtype=self.dtype, device=self.device)
        buffer = None
        for start, stop in slabs(rows, columns, self.device):
            cut = self if stop - start == rows else self.window(0, start, stop)
            if cut is None:
                continue
            if buffer is None:  # one for all slabs: fresh memory for each would cost more than the arithmetic
                buffer = torch.empty(stop - start, columns, dtype=torch.float64, device=self.device)
            total = buffer[: stop - start].zero_()
            cut.add_to(total)
            result[start:stop] = total
        return result.reshape(self.shape)

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add ``factor`` times the displacement to ``total`` (m, n), float64, in place."""
        factors = self.factors(torch.float64)
        if factors is None:
            total.add_(self.matrix(), alpha=factor)
        else:
            total.addmm_(*factors, alpha=factor)

    def children(self) -> Mapping[str, Change]:
        """Return the changes that this one is made of, by the name under which their tensors are stored."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that hold this change, by field name; with ``meta`` they are its identity."""
        return {f"{c}.{n}": t for c, child in self.children().items() for n, t in child.tensors().items()}

    def stored(self, basis: bool = False) -> dict[str, Tensor]:
        """Return the tensors that a file stores: ``tensors()``, and what the identity leaves out, such as a probe.

        Args:
            basis: Whether the singular vectors of spectral changes are to be stored.
        """
        children = self.children()
        if not children:
            return self.tensors()
        return {f"{c}.{n}": t for c, child in children.items() for n, t in child.stored(basis).items()}

    def meta(self) -> dict[str, Any]:
        """Return what a file must say beside the tensors: kind, shape, scalars, counts."""
        return {"kind": self.kind, "shape": list(self.shape)}

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests of ``tensors()``, taken once; those of a sum or multiple come from its terms."""
        children = self.children()
        if children:
            return {f"{c}.{n}": digest for c, child in children.items() for n, digest in child.digests.items()}
        return {name: tensor_digest(tensor) for name, tensor in self.tensors().items()}

    def factors(self, dtype: torch.dtype | None = None) -> Factors | None:
        """Return ``(left (m, r), right (r, n))`` with ``left @ right`` the displacement, or None if not factored.

        Args:
            dtype: Of the result; ``self.dtype`` by default. Products with scalars are taken in float64.
        """
        return None

    def rows(self, index: Tensor) -> Tensor:
        """Return rows ``index`` (k,) as a float64 (k, n) matrix, without making a factored change dense."""
        factors = self.factors(torch.float64)
        if factors is not None:
            return factors[0][index] @ factors[1]
        return self.matrix()[index].double()

    def window(self, axis: int, start: int, stop: int) -> Change | None:
        """Return the change of rows (axis 0) or columns (axis 1) ``start:stop``, or None where nothing changes."""
        return Dense(self.matrix().narrow(axis, start, stop - start))

    def matrix(self) -> Tensor:
        """Return the displacement as an (m, n) matrix."""
        return self.dense().reshape(matrix_shape(self.shape))

    def norm(self) -> float:
        """Return the Frobenius norm; factored changes by QR of the factors in float64, never densified."""
        factors = self.factors(torch.float64)
        if factors is not None:
            return float(lowrank_norm(*factors))
        return _norm(self.dense())

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the displacement: float64 if any tensor in it is, else float32."""
        wide = any(t.dtype == torch.float64 for t in self.tensors().values())
        return torch.float64 if wide else torch.float32

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next((t.device for t in self.tensors().values()), torch.device("cpu"))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that hold this change."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def rank(self) -> int | None:
        """Number of rank-one terms in factored form, or None."""
        factors = self.factors()
        return None if factors is None else factors[0].shape[1]

    def leaves(self) -> Iterator[Change]:
        """Yield the changes at the ends of the tree of sums, multiples and blocks."""
        children = self.children()
        if not children:
            yield self
        for child in children.values():
            yield from child.leaves()

    def is_finite(self) -> bool:
        """Tell whether no tensor in this change holds NaN or infinity."""
        return all(bool(torch.isfinite(t).all()) for t in self.stored().values())

    def times(self, factor: float) -> Change:
        """Return ``factor`` times this change; a kind that is closed under multiples returns itself."""
        return Scaled(factor, self)

    def plus(self, other: Change) -> Change | None:
        """Return the sum with another change where that is again one change as cheap as each, else None."""
        return None

    def __add__(self, other: Change) -> Change:
        return add([self, other]) if isinstance(other, Change) else NotImplemented

    def __sub__(self, other: Change) -> Change:
        return add([self, -1.0 * other]) if isinstance(other, Change) else NotImplemented

    def __neg__(self) -> Change:
        return -1.0 * self

    def __mul__(self, factor: float) -> Change:
        return NotImplemented if isinstance(factor, Change) else scale(self, float(factor))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        rank = f", rank {self.rank}" if self.rank is not None else ""
        return f"{type(self).__name__}{tuple(self.shape)}{rank}"


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


@dataclass(frozen=True, eq=False, repr=False)
class Dense(Change):
    """The displacement itself, element by element."""

    values: Tensor
    kind: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", as_vector(self.values))

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return tuple(self.values.shape)

    def dense(self) -> Tensor:
        """Return the displacement."""
        return self.values

    def tensors(self) -> dict[str, Tensor]:
        """Return ``values``."""
        return {"values": self.values}

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        return type(self)(move(self.values))


class New(Dense):
    """A vector that the base does not have: a prompt, a head. Relative to nothing, so it is its own displacement."""

    kind: ClassVar[str] = "new"

    def times(self, factor: float) -> Change:
        """Return the multiple, rounded to the vector's dtype."""
        return New((self.values.double() * factor).to(self.values.dtype))


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
        for name in ("left", "right", "core"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, as_vector(getattr(self, name)))
        if self.full_shape is not None:
            object.__setattr__(self, "full_shape", tuple(self.full_shape))
        if not self._fits():
            core = None if self.core is None else tuple(self.core.shape)
            whole = f", parameter {self.full_shape}" if self.full_shape is not None else ""
            raise ShapeMismatch(
                f"low-rank factors do not fit: left {tuple(self.left.shape)}, core {core}, right "
                f"{tuple(self.right.shape)}{whole}; expected (m, r), (r,), (r, n) with m rows and n elements a row "
                "in the parameter"
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
        return LowRank(move(self.left), move(self.right), core, self.full_shape)


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

    def norm(self) -> float:
        """Return the norm of the rows."""
        return _norm(self.values)

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
        _refuse_new([self.term])
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


@dataclass(frozen=True, eq=False, repr=False)
class Scaled(Change):
    """A multiple of another change; made by ``a * change``, which never nests multiples."""

    factor: float
    term: Change
    kind: ClassVar[str] = "scaled"

    def __post_init__(self) -> None:
        _refuse_new([self.term])
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

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add the multiple."""
        self.term.add_to(total, factor * self.factor)

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
        _refuse_new(self.terms)
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
        ranks = [term.rank for term in self.terms]
        return None if any(rank is None for rank in ranks) else sum(rank for rank in ranks if rank is not None)

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add every term."""
        for term in self.terms:
            term.add_to(total, factor)

    def norm(self) -> float:
        """Return the norm; dense only if a term is, since parts that cancel leave no digits in a sum of products.

        Rows and low-rank terms alone: the union of the rows is taken apart, the rest is a product of factors.
        """
        factors = self.factors(torch.float64)
        if factors is not None:
            return float(lowrank_norm(*factors))
        pairs = [term.factors(torch.float64) for term in self.terms]
        supports = [_row_support(term) for term, pair in zip(self.terms, pairs, strict=True) if pair is None]
        touched = torch.zeros(matrix_shape(self.shape)[0], dtype=torch.bool, device=self.device)
        for support in supports:
            if support is None:
                return _norm(self.dense())
            touched[support] = True
        inside = _norm(self.rows(touched.nonzero().flatten()))
        left, right = _stacked([pair for pair in pairs if pair is not None])
        return math.hypot(inside, float(lowrank_norm(left[~touched], right))) if left.numel() else inside

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


def _refuse_new(terms: Sequence[Change]) -> None:
    if any(isinstance(term, New) for term in terms):
        raise UnsupportedLayer("a new vector cannot be a term of a sum, multiple or block of an existing parameter")


def _stacked(pairs: Sequence[Factors]) -> Factors:
    """Return the factors of a sum of products."""
    if not pairs:
        return torch.empty(0, 0), torch.empty(0, 0)
    return torch.cat([pair[0] for pair in pairs], dim=1), torch.cat([pair[1] for pair in pairs], dim=0)


def _row_support(change: Change) -> Tensor | None:
    """Return the rows outside which a change is zero, if it is one ``Rows`` under multiples and blocks."""
    if isinstance(change, Rows):
        return change.index
    if not isinstance(change, (Scaled, Block)):
        return None
    inner = _row_support(change.term)
    return inner + change.start if inner is not None and isinstance(change, Block) and change.axis == 0 else inner


def scale(change: Change, factor: float) -> Change:
    """Return ``factor * change``; a factor of one is the change itself, and multiples do not nest.

    Raises:
        UnsupportedLayer: If the factor is NaN or infinite.
    """
    if not math.isfinite(factor):
        raise UnsupportedLayer(f"cannot scale a change by {factor}: expected a finite number")
    return change if factor == 1.0 else change.times(factor)


def add(changes: Sequence[Change]) -> Change:
    """Return the exact sum of changes of one parameter, kept in factored form.

    Raises:
        ShapeMismatch: If the changes are not all of one shape.
        UnsupportedLayer: If a new vector meets a displacement of an existing parameter.
    """
    flat: list[Change] = []
    for change in changes:
        for term in change.terms if isinstance(change, Sum) else [change]:
            _append(flat, term)
    shapes = {tuple(change.shape) for change in flat}
    if len(shapes) != 1:
        raise ShapeMismatch(f"cannot add changes of shapes {sorted(shapes)}: expected one shape")
    if len(flat) == 1:
        return flat[0]
    new = [change for change in flat if isinstance(change, New)]
    if not new:
        return Sum(tuple(flat))
    if len(new) != len(flat):
        raise UnsupportedLayer("cannot add a new vector to the displacement of an existing parameter of the same name")
    summed = torch.stack([change.values.double() for change in new]).sum(0)
    return New(summed.to(torch.float64 if any(c.dtype == torch.float64 for c in new) else torch.float32))


def _append(flat: list[Change], term: Change) -> None:
    """Append a term, or join it to one with which its sum is again one change as cheap as each."""
    for i, other in enumerate(flat):
        joined = other.plus(term)
        if joined is not None:
            flat[i] = joined
            return
    flat.append(term)
