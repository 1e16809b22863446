"""Stacked change: one low-rank product for every slice of a parameter of three dimensions, such as a layer's experts.

    D[e] = left[e] diag(core[e]) right[e]       left (E, m, r), core (E, r), right (E, r, n)

The experts of a mixture stand in one tensor (E, m, n), which is multiplied slice by slice. Seen as a matrix with a row
for each expert, as other kinds see it, a low-rank change would make all experts move along the same few directions of
all of their m n entries, with as many numbers as r whole experts have.

A sum of stacks is again a stack, with more columns, as a sum of products is a product: ``stack_of`` joins them.

Shape legend: E slices, m rows and n columns of a slice; r rank of each; k slices picked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dtheta.core.change import Change, Factors, Shape, matrix_shape, settle_factors, shapes_text, slabs
from dtheta.core.combination import Scaled, Sum
from dtheta.core.linalg import lowrank_inner, lowrank_norm
from dtheta.errors import ShapeMismatch

# a layer's weight, or what torch's weight norm, spectral norm and pruning, in their older and newer form, make of it
_WEIGHT = re.compile(r"(^|\.)(weight|weight_[gv]|weight_orig|parametrizations\.weight\.[^.]+)$")


@dataclass(frozen=True, eq=False, repr=False)
class Stacked(Change):
    """``left[e] @ diag(core[e]) @ right[e]`` in slice e; ``core`` None stands for ones.

    It has no factors of the matrix in which the parameter is seen, so ``rank`` and ``factors()`` are None;
    ``slice_rank`` is that of each slice. ``full_shape`` is (E, m, n) unless it is given: windows are (k, m n).
    """

    left: Tensor
    right: Tensor
    core: Tensor | None = None
    full_shape: Shape | None = None
    kind: ClassVar[str] = "stacked"

    def __post_init__(self) -> None:
        settle_factors(self)
        if not self._fits():
            raise ShapeMismatch(
                f"stacked factors do not fit: {shapes_text(self)}; expected (E, m, r), (E, r), (E, r, n) with m n "
                "elements in a slice of the parameter"
            )

    def _fits(self) -> bool:
        if self.left.ndim != 3 or self.right.ndim != 3:
            return False
        (e, m, r), n = self.left.shape, self.right.shape[2]
        core_fits = self.core is None or tuple(self.core.shape) == (e, r)
        return tuple(self.right.shape[:2]) == (e, r) and core_fits and matrix_shape(self.shape) == (e, m * n)

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """Shape of the parameter."""
        return (len(self.left), *self.slice_shape) if self.full_shape is None else self.full_shape

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.left.shape[1], self.right.shape[2]

    @property
    def slice_rank(self) -> int:
        """Number of columns of each slice's ``left``."""
        return self.left.shape[2]

    @property
    def shown_rank(self) -> int:
        """The rank of each slice."""
        return self.slice_rank

    def dense(self) -> Tensor:
        """Return the displacement; a few rows of one slice at a time are made in float64."""
        result = torch.empty(len(self.left), *self.slice_shape, dtype=self.dtype, device=self.device)
        for made, (left, right) in zip(result, self.slices(), strict=True):
            for start, stop in slabs(*self.slice_shape, self.device):
                made[start:stop] = left[start:stop] @ right
        return result.reshape(self.shape)

    def slices(self) -> Iterator[Factors]:
        """Yield the factors of every slice, ``left * core`` (m, r) and ``right`` (r, n), float64."""
        for e, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            yield left.double() if self.core is None else left.double() * self.core[e], right.double()

    def add_to(self, total: Tensor, factor: float = 1.0) -> None:
        """Add ``factor`` times the displacement to ``total`` (E, m n), slice by slice."""
        for row, (left, right) in zip(total, self.slices(), strict=True):
            row.view(self.slice_shape).addmm_(left, right, alpha=factor)

    def rows(self, index: Tensor) -> Tensor:
        """Return the picked slices, (k, m n) float64."""
        total = torch.zeros(len(index), math.prod(self.slice_shape), dtype=torch.float64, device=self.device)
        self._picked(index).add_to(total)
        return total

    def window(self, axis: int, start: int, stop: int) -> Change | None:
        """Return the change of some slices; of some entries of all slices, as numbers."""
        return self._picked(slice(start, stop)) if axis == 0 else super().window(axis, start, stop)

    def _picked(self, which: Tensor | slice) -> Stacked:
        """Return the change of some slices, seen as a matrix."""
        left, right = self.left[which], self.right[which]
        core = None if self.core is None else self.core[which]
        return Stacked(left, right, core, (len(left), math.prod(self.slice_shape)))

    def norm(self) -> float:
        """Return the Frobenius norm, from the factors of each slice."""
        if not self.slice_rank:  # a file may claim any number of slices of rank 0
            return 0.0
        return math.hypot(*(lowrank_norm(*pair) for pair in self.slices()))

    def inner(self, other: Stacked) -> float:
        """Return the inner product with a stack of slices of the same shape, from the factors of both."""
        if not (self.slice_rank and other.slice_rank):
            return 0.0
        return math.fsum(lowrank_inner(*a, *b) for a, b in zip(self.slices(), other.slices(), strict=True))

    def meta(self) -> dict[str, Any]:
        """Return kind and shape, the rows and rank of each slice, and whether there is a core."""
        rows = self.slice_shape[0]
        return {**super().meta(), "rows": rows, "rank": self.slice_rank, "core": self.core is not None}

    def tensors(self) -> dict[str, Tensor]:
        """Return the factors."""
        parts = {"left": self.left, "right": self.right}
        return parts if self.core is None else {**parts, "core": self.core}

    def map(self, move: Any) -> Change:
        """Return the moved change."""
        core = None if self.core is None else move(self.core)
        return Stacked(move(self.left), move(self.right), core, self.full_shape)


def is_stack(name: str, shape: Sequence[int]) -> bool:
    """Tell whether a parameter is a stack of matrices, as far as its name and shape say.

    Convolutions have three dimensions too, and call theirs ``weight``, as layers do, also where a parametrization such
    as weight norm splits it in parts; experts, tables of positions and other bare parameters have names of their own.
    """
    return len(shape) == 3 and _WEIGHT.search(name) is None


def stack_of(change: Change) -> Stacked | None:
    """Return a stack, or a multiple or sum of stacks, as one stack without a core; None for any other change.

    The multiples are taken into ``left``, in float64, and rounded once.
    """
    parts = _parts(change, 1.0)
    if parts is None or len({stack.slice_shape for stack, _ in parts}) != 1:
        return None
    lefts = [_weighed(stack, factor).to(change.dtype) for stack, factor in parts]
    rights = [stack.right.to(change.dtype) for stack, _ in parts]
    return Stacked(torch.cat(lefts, 2), torch.cat(rights, 1), None, change.shape)


def _parts(change: Change, factor: float) -> list[tuple[Stacked, float]] | None:
    """Return the stacks of a sum of multiples with their factors, or None where something else is among them."""
    if isinstance(change, Stacked):
        return [(change, factor)]
    if isinstance(change, Scaled):
        return _parts(change.term, factor * change.factor)
    terms = [_parts(term, factor) for term in change.terms] if isinstance(change, Sum) else [None]
    return None if any(term is None for term in terms) else [part for term in terms for part in term or []]


def _weighed(stack: Stacked, factor: float) -> Tensor:
    """Return ``factor * left * core`` (E, m, r) in float64."""
    left = stack.left.double() if stack.core is None else stack.left.double() * stack.core[:, None]
    return left if factor == 1.0 else left * factor
