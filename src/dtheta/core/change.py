"""Change: the displacement of one parameter, in its cheapest exact form.

    kind      dense form of the displacement                         stored
    dense     D                                                      D
    low-rank  L diag(c) R            (m, r) (r,) (r, n)              L, R and, if not all ones, c
    stacked   a product for each slice of (E, m, n)        the factors of all slices
    spectral  U diag(s) V^T          U, V from the base's own SVD    s and a probe (see spectral.py)
    rows      D[i] = values          rows of an embedding            i, values
    new       a vector that the base does not have (prompts, heads)  the vector
    new-low-rank  the same as a product (position offsets)     as low-rank
    block     a change of a window of rows or columns                the change, axis, start
    scaled    a * D                                                  a, D
    sum       D1 + D2 + ...                                          the terms

Dense and new vectors stand here; the other kinds have a file each (lowrank.py, new_lowrank.py, stacked.py, spectral.py,
rows.py, block.py), and multiples and sums, which are made of them, one together (combination.py).

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
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.fingerprint import tensor_digest
from dtheta.core.linalg import lowrank_norm
from dtheta.errors import UnsupportedLayer

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


def settle_factors(change: Any) -> None:
    """Widen ``left``, ``right`` and ``core`` of a frozen change by ``as_vector``, and make ``full_shape`` a tuple."""
    for name in ("left", "right", "core"):
        if (factor := getattr(change, name)) is not None:
            object.__setattr__(change, name, as_vector(factor))
    if change.full_shape is not None:
        object.__setattr__(change, "full_shape", tuple(change.full_shape))


def shapes_text(change: Any) -> str:
    """Return the shapes of a change's factors and parameter in words, for an error."""
    core = None if change.core is None else tuple(change.core.shape)
    whole = f", parameter {change.full_shape}" if change.full_shape is not None else ""
    return f"left {tuple(change.left.shape)}, core {core}, right {tuple(change.right.shape)}{whole}"


class Change(ABC):
    """Displacement of one parameter: a vector with ``+ - *``, ``inner`` (see products.py) and ``norm``.

    A change is immutable; its tensors must not be written to. A subclass gives ``kind``, ``shape``, ``map`` and
    either ``dense`` or ``add_to``, and what it stores: ``meta`` and ``tensors``, or ``children`` if it is made of
    other changes.
    """

    kind: ClassVar[str]
    #: Whether the base does not have this vector, so that it is relative to nothing.
    is_new: ClassVar[bool] = False
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
            cut = self.slab(start, stop)
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

    def slab(self, start: int, stop: int) -> Change | None:
        """Return the change of rows ``start:stop``, itself where those are all, or None where nothing changes."""
        whole = (start, stop) == (0, matrix_shape(self.shape)[0])
        return self if whole else self.window(0, start, stop)

    def row_support(self) -> Tensor | None:
        """Return the rows outside which the change is zero where its form tells, else None."""
        return None

    def matrix(self) -> Tensor:
        """Return the displacement as an (m, n) matrix."""
        return self.dense().reshape(matrix_shape(self.shape))

    def norm(self) -> float:
        """Return the Frobenius norm; factored changes by QR of the factors in float64, never densified."""
        factors = self.factors(torch.float64)
        if factors is not None:
            return float(lowrank_norm(*factors))
        return frobenius(self.dense())

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

    @property
    def shown_rank(self) -> int | None:
        """The rank that tables show: of a stack that of each slice, of all others ``rank``."""
        return self.rank

    def leaves(self) -> Iterator[Change]:
        """Yield the changes at the ends of the tree of sums, multiples and blocks."""
        children = self.children()
        if not children:
            yield self
        for child in children.values():
            yield from child.leaves()

    def is_finite(self) -> bool:
        """Tell whether no tensor in this change holds NaN or infinity."""
        children = self.children()
        if children:
            return all(child.is_finite() for child in children.values())
        return all(bool(torch.isfinite(t).all()) for t in self.stored().values())

    def times(self, factor: float) -> Change:
        """Return ``factor`` times this change; a kind that is closed under multiples returns itself."""
        from dtheta.core.combination import Scaled  # which is built on this module

        return Scaled(factor, self)

    def plus(self, other: Change) -> Change | None:
        """Return the sum with another change where that is again one change as cheap as each, else None."""
        return None

    def __add__(self, other: Change) -> Change:
        from dtheta.core.combination import add

        return add([self, other]) if isinstance(other, Change) else NotImplemented

    def __sub__(self, other: Change) -> Change:
        return self + (-1.0 * other) if isinstance(other, Change) else NotImplemented

    def __neg__(self) -> Change:
        return -1.0 * self

    def __mul__(self, factor: float) -> Change:
        from dtheta.core.combination import scale

        return NotImplemented if isinstance(factor, Change) else scale(self, float(factor))

    __rmul__ = __mul__

    def __repr__(self) -> str:
        rank = f", rank {self.shown_rank}" if self.shown_rank is not None else ""
        return f"{type(self).__name__}{tuple(self.shape)}{rank}"


def frobenius(tensor: Tensor) -> float:
    """Return the Frobenius norm, accumulated in float64."""
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
    is_new: ClassVar[bool] = True

    def times(self, factor: float) -> Change:
        """Return the multiple, rounded to the vector's dtype."""
        return New((self.values.double() * factor).to(self.values.dtype))


def refuse_new(terms: Sequence[Change]) -> None:
    """Raise UnsupportedLayer if one of the changes is a new vector."""
    if any(term.is_new for term in terms):
        raise UnsupportedLayer("a new vector cannot be a term of a sum, multiple or block of an existing parameter")
