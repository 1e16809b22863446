"""What of a change is compressed, by its kind and as asked for.

    change            vectors that are compressed           result
    dense, ternary    its entries                           ternary
    rows              the entries of these rows             block of a ternary change, from the first row to the last
    spectral          the shifts                            spectral, its shifts in {-s, 0, s}
    new               its entries, if asked for             new, its entries in {-s, 0, s}
    new-low-rank      as low-rank, if asked for               new in factored form; new if of="product"
    block             those of its term                     block
    sum of blocks     those of each block                   sum of blocks
    other sum         its entries, or balanced factors      ternary, or ternary factors
    low-rank          of="factors"   L and R as they are    ternary factors; one common number c beside them stays exact
                      of="balanced"  U S^(1/2), S^(1/2) V^T of L diag(c) R = U S V^T, exact and of its true rank
                      of="product"   its entries, slab by slab                        ternary

ComPEFT (arXiv 2311.13171) compresses the factors as they are. That means something where the change is their product,
as LoRA's is. The change of PiSSA or SORSA is the difference of two nearly equal products, [L L0] diag(c, -c0) [R; R0]:
each would be off by more than their difference, so ``factors`` refuses a core of both signs, and sums, which can cancel
as well. ``balanced`` turns such a change into one product first, of rank 2r, or r after ``dt.recompress(delta, r)``;
both factors of it have the same singular values, so that one threshold and one scale suit both.

Shape legend: L (m, r), R (r, n); m rows, n columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from dtheta.compress.parts import Entries, NewFactors, NewVector, Pair, Part, PickedRows, Shifts
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, matrix_shape
from dtheta.core.combination import Scaled, Sum, add, scale
from dtheta.core.linalg import lowrank_svd
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from dtheta.core.svd import balanced_factors
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.errors import ConfigError, UnsupportedLayer

Of = Literal["factors", "balanced", "product"]


@dataclass(frozen=True)
class Plan:
    """The parts of a change, and how their compressed forms are put together."""

    parts: tuple[Part, ...]
    assemble: Callable[[Sequence[Change]], Change] = field(default=lambda built: built[0])


def plan(change: Change, of: Of, new: bool = False) -> Plan:
    """Return what of a change is compressed.

    Raises:
        UnsupportedLayer: If its form cannot be compressed in this way.
        ConfigError: If its singular vectors are needed and not at hand.
    """
    if change.is_new:
        return _new(change, of, new)
    if of != "product" and any(isinstance(leaf, Stacked) for leaf in change.leaves()):
        raise UnsupportedLayer(
            f"{change!r} has factors for every slice of the parameter, which have no compressed form; leave it as it "
            "is by keep='NAME', or compress the entries of the products, which may take more room, by of='product'"
        )
    if isinstance(change, Block):
        inner, block = plan(change.term, of), change
        return Plan(inner.parts, lambda built: Block(inner.assemble(built), block.axis, block.start, block.full_shape))
    if isinstance(change, Scaled):
        return _scaled(change, of)
    if isinstance(change, Sum):
        return _sum(change, of)
    if isinstance(change, Rows):
        return Plan((PickedRows(change),)) if change.index.numel() else Plan((), lambda built: change)
    if of == "product" or (change.rank is None and not isinstance(change, Spectral)):
        return Plan((Entries(change),))
    if isinstance(change, Spectral):
        return Plan((_shifts(change),))
    return Plan((_pair(change, of, 1.0),))


def _new(change: Change, of: Of, wanted: bool) -> Plan:
    if not wanted:
        raise UnsupportedLayer(
            "a new vector is no displacement, so nothing says that its small entries do not matter; leave it as it is "
            "by keep='NAME', or compress it too by new=True"
        )
    if isinstance(change, NewLowRank) and of != "product":
        pair = _pair(change, of, 1.0)
        return Plan((NewFactors(pair.left, pair.right, pair.shape, pair.multiple),))
    return Plan((NewVector(change),))


def _shifts(change: Spectral) -> Shifts:
    if not change.bound:
        raise ConfigError(
            "the singular vectors are not at hand, so a file could not tell whether others fit: call delta.bind(model)"
        )
    return Shifts(change)


def _scaled(change: Scaled, of: Of) -> Plan:
    """Take the multiple into the term; only a product keeps it beside its factors, as LoRA keeps its c."""
    term, factor = change.term, change.factor
    if isinstance(term, Block):
        return plan(Block(scale(term.term, factor), term.axis, term.start, term.full_shape), of)
    if isinstance(term, (Scaled, Sum, Spectral)):
        return plan(term.times(factor), of)
    if isinstance(term, Rows):
        return plan(Rows(term.index, (factor * term.values.double()).to(term.dtype), term.full_shape), of)
    if of == "product" or term.rank is None:
        return Plan((Entries(change),))
    return Plan((_pair(term, of, factor),))


def _sum(change: Sum, of: Of) -> Plan:
    blocks = [term for term in map(_as_block, change.terms) if term is not None]
    if len(blocks) == len(change.terms) and _disjoint(blocks):
        return _each([plan(block, of) for block in blocks])
    supports = [term.row_support() for term in change.terms]
    if all(support is not None for support in supports):
        index = torch.cat([support for support in supports if support is not None]).unique()
        return plan(Rows(index, change.rows(index).to(change.dtype), change.shape), of)
    if of == "product" or change.rank is None:
        return Plan((Entries(change),))
    return Plan((_pair(change, of, 1.0),))


def _each(plans: Sequence[Plan]) -> Plan:
    """Return the plan of a sum of changes that are compressed one by one."""

    def assemble(built: Sequence[Change]) -> Change:
        left = list(built)
        terms = []
        for one in plans:
            terms.append(one.assemble(left[: len(one.parts)]))
            del left[: len(one.parts)]
        return add(terms)

    return Plan(tuple(part for one in plans for part in one.parts), assemble)


def _as_block(change: Change) -> Block | None:
    """Return a block, or a multiple of one as a block."""
    if isinstance(change, Scaled) and isinstance(change.term, Block):
        block = change.term
        return Block(scale(block.term, change.factor), block.axis, block.start, block.full_shape)
    return change if isinstance(change, Block) else None


def _disjoint(blocks: Iterable[Block]) -> bool:
    return all(a.axis == b.axis and (a.stop <= b.start or b.stop <= a.start) for a, b in combinations(blocks, 2))


def _pair(change: Change, of: Of, multiple: float) -> Pair:
    """Return the factors of a change that are compressed."""
    if isinstance(change, TernaryFactors):
        return Pair(change.left, change.right, change.full_shape, multiple)
    if of == "balanced":
        left, right = balanced(scale(change, multiple))
        return Pair(Dense(left), Dense(right), tuple(change.shape))
    core = change.core if isinstance(change, LowRank) else None
    if not isinstance(change, LowRank) or (core is not None and bool((core != core[:1]).any())):
        raise UnsupportedLayer(
            f"{change!r} is no plain product of two factors but a sum or difference of several, or has a diagonal "
            "between them, so its factors mean nothing one by one; use of='balanced' (factors of its singular value "
            "decomposition, after dt.recompress(delta, rank) if the rank shall be smaller) or of='product'"
        )
    common = 1.0 if core is None or not core.numel() else float(core[0])
    return Pair(Dense(change.left), Dense(change.right), tuple(change.shape), multiple * common)


def balanced(change: Change) -> tuple[Tensor, Tensor]:
    """Return U S^(1/2) (m, r) and S^(1/2) V^T (r, n) of a factored change, at its rank up to rounding.

    Raises:
        NonFinite: If a factor holds NaN or infinity.
    """
    factors = change.factors(torch.float64)
    assert factors is not None
    if not all(factor.numel() for factor in factors):
        return factors[0].to(change.dtype), factors[1].to(change.dtype)
    U, S, Vh = lowrank_svd(*factors)
    # what float32 factors can carry: smaller singular values are the rounding of factors that cancel
    eps = torch.finfo(change.dtype).eps
    kept = max(1, int((S > eps * max(matrix_shape(change.shape)) ** 0.5 * _size(factors)).sum()))
    left, right = balanced_factors(U[:, :kept], S[:kept], Vh[:kept])
    return left.to(change.dtype), right.to(change.dtype)


def _size(factors: tuple[Tensor, Tensor]) -> float:
    """Return the largest norm of a rank-one term: what the rounding of the factors is relative to."""
    sizes: Any = factors[0].norm(dim=0) * factors[1].norm(dim=1)
    return float(sizes.max())
