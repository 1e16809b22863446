"""recompress: bring the rank of a delta back down, and say what that costs.

A sum of low-rank changes has the sum of their ranks. QR of the stacked factors and one small singular value
decomposition give the best approximation of the rank asked for (Eckart and Young 1936) without a dense matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtheta.core.arguments import require_rank_or_energy
from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, matrix_shape
from dtheta.core.combination import Scaled, Sum, add, scale
from dtheta.core.delta import Delta, derived
from dtheta.core.linalg import Recompressed
from dtheta.core.linalg import recompress as recompress_factors
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.rows import Rows
from dtheta.core.stack_factors import factored_stack, recompressed_stack
from dtheta.core.stacked import Stacked, is_stack, stack_of
from dtheta.core.svd import full_svd


def recompress(delta: Delta, rank: int | float) -> Delta:
    """Return the delta with every factored change brought to the rank asked for, as one low-rank change.

    Dense changes of matrices are factored too; vectors, rows and dense new vectors stay as they are, and new ones in
    factored form stay new. Of experts in one tensor, every one is brought to the rank, one for all. The blocks of a
    fused projection are recompressed one by one, where they do not overlap.

    Args:
        delta: Any delta; spectral changes must be bound.
        rank: The rank to keep in every change; or, as a float in (0, 1), the share of each change's energy (sum of
            squared singular values) to keep with the smallest rank that does.

    Returns:
        The delta; ``provenance.settings["discarded"]`` holds, by parameter, the share of the energy that was lost.

    Raises:
        ConfigError: If ``rank`` is neither a positive integer nor in (0, 1).
    """
    require_rank_or_energy(rank)
    changes: dict[str, Change] = {}
    discarded: dict[str, float] = {}
    for name, change in delta.changes.items():
        changes[name], lost = _recompressed_stack(name, change, rank) or _recompressed(change, rank)
        whole = change.norm() ** 2
        discarded[name] = lost / whole if whole > 0 else 0.0
    return Delta(changes, delta.base, derived("recompress", [delta], rank=rank, discarded=discarded))


def _recompressed_stack(name: str, change: Change, rank: int | float) -> tuple[Change, float] | None:
    """Recompress a change of a parameter of slices, also one without factors; None for any other."""
    if _is_zero(change):
        return None
    if (stack := stack_of(change)) is not None:
        return recompressed_stack(stack, rank)
    if not is_stack(name, change.shape) or not change.shape[0] or min(change.shape[1:]) < 2:
        return None
    dense = isinstance(change, Dense | Sum | Scaled) and not change.is_new and change.rank is None
    return factored_stack(change.dense(), rank) if dense else None


def _recompressed(change: Change, rank: int | float) -> tuple[Change, float]:
    """Return the recompressed change and the energy it lost."""
    if _is_zero(change):
        return change, 0.0
    blocks = list(_blocks(change))
    if len({block.axis for _, block in blocks}) == 1:
        return _recompressed_blocks(blocks, rank)
    return _recompressed_whole(change, rank)


def _recompressed_whole(change: Change, rank: int | float) -> tuple[Change, float]:
    factors = change.factors()
    if factors is None:
        return _factored(change, rank)
    found = recompress_factors(*factors, **_limit(rank))
    kind = NewLowRank if change.is_new else LowRank
    return kind(found.left, found.right, full_shape=tuple(change.shape)), found.discarded_energy


def _limit(rank: int | float) -> dict[str, Any]:
    return {"rank": rank} if isinstance(rank, int) else {"energy": rank}


def _is_zero(change: Change) -> bool:
    """Tell whether a change is zero by its form: made of products of rank 0 and of no rows."""
    return all(
        isinstance(leaf, LowRank | Rows | Stacked) and any(0 in tensor.shape for tensor in leaf.tensors().values())
        for leaf in change.leaves()
    )


def _blocks(change: Change, factor: float = 1.0) -> Iterator[tuple[float, Block]]:
    """Yield the blocks of a sum of blocks with their factors; nothing if anything else that is not zero is in it."""
    if isinstance(change, Scaled):
        yield from _blocks(change.term, factor * change.factor)
    elif isinstance(change, Sum):
        parts = [list(_blocks(term, factor)) for term in change.terms if not _is_zero(term)]
        if all(parts):
            for part in parts:
                yield from part
    elif isinstance(change, Block):
        yield factor, change


def _recompressed_blocks(blocks: list[tuple[float, Block]], rank: int | float) -> tuple[Change, float]:
    """Recompress blocks along one axis: those whose windows overlap together, and the others by themselves."""
    kept, lost = [], 0.0
    for held in _clusters(blocks):
        first, start, stop = held[0][1], held[0][1].start, max(block.stop for _, block in held)
        if all((block.start, block.stop) == (start, stop) for _, block in held):
            inner, energy = _recompressed(add([scale(block.term, factor) for factor, block in held]), rank)
        else:
            rows, columns = matrix_shape(first.full_shape)
            shape = (stop - start, columns) if first.axis == 0 else (rows, stop - start)
            moved = [scale(Block(b.term, b.axis, b.start - start, shape), factor) for factor, b in held]
            inner, energy = _recompressed_whole(add(moved), rank)
        kept.append(Block(inner, first.axis, start, first.full_shape))
        lost += energy
    return add(kept), lost


def _clusters(blocks: list[tuple[float, Block]]) -> list[list[tuple[float, Block]]]:
    """Return the blocks, those that overlap together, in the order of their windows."""
    found: list[list[tuple[float, Block]]] = []
    reached = -1
    for factor, block in sorted(blocks, key=lambda item: item[1].start):
        if block.start >= reached:
            found.append([])
        found[-1].append((factor, block))
        reached = max(reached, block.stop)
    return found


def _factored(change: Change, rank: int | float) -> tuple[Change, float]:
    """Factor a dense change of a matrix; leave rows, vectors and new vectors alone."""
    factorable = isinstance(change, Dense | Sum | Scaled) and not change.is_new
    if not factorable or len(change.shape) < 2 or min(matrix_shape(change.shape)) < 2:
        return change, 0.0
    svd = full_svd(change.matrix())
    found: Recompressed = recompress_factors(svd.U * svd.S, svd.Vh, **_limit(rank))
    return LowRank(found.left, found.right, full_shape=tuple(change.shape)), found.discarded_energy
