"""recompress: bring the rank of a delta back down, and say what that costs.

A sum of low-rank changes has the sum of their ranks. QR of the stacked factors and one small singular value
decomposition give the best approximation of the rank asked for (Eckart and Young 1936) without a dense matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dtheta.core.block import Block
from dtheta.core.change import Change, Dense, New, matrix_shape
from dtheta.core.combination import Scaled, Sum, add, scale
from dtheta.core.delta import Delta, derived
from dtheta.core.linalg import Recompressed
from dtheta.core.linalg import recompress as recompress_factors
from dtheta.core.lowrank import LowRank
from dtheta.core.svd import full_svd
from dtheta.errors import ConfigError


def recompress(delta: Delta, rank: int | float) -> Delta:
    """Return the delta with every factored change brought to the rank asked for, as one low-rank change.

    Dense changes of matrices are factored too; vectors, rows and new vectors stay as they are. The blocks of a fused
    projection are recompressed one by one.

    Args:
        delta: Any delta; spectral changes must be bound.
        rank: The rank to keep in every change; or, as a float in (0, 1), the share of each change's energy (sum of
            squared singular values) to keep with the smallest rank that does.

    Returns:
        The delta; ``provenance.settings["discarded"]`` holds, by parameter, the share of the energy that was lost.

    Raises:
        ConfigError: If ``rank`` is neither a positive integer nor in (0, 1).
    """
    if isinstance(rank, bool) or not (
        (isinstance(rank, int) and rank >= 1) or (isinstance(rank, float) and 0 < rank < 1)
    ):
        raise ConfigError(f"rank must be a positive integer, or a share of the energy in (0, 1); found {rank!r}")
    changes: dict[str, Change] = {}
    discarded: dict[str, float] = {}
    for name, change in delta.changes.items():
        changes[name], lost = _recompressed(change, rank)
        whole = change.norm() ** 2
        discarded[name] = lost / whole if whole > 0 else 0.0
    return Delta(changes, delta.base, derived("recompress", [delta], rank=rank, discarded=discarded))


def _recompressed(change: Change, rank: int | float) -> tuple[Change, float]:
    """Return the recompressed change and the energy it lost."""
    blocks = list(_blocks(change))
    if blocks and len({(b.axis, b.start, b.stop) for _, b in blocks}) > 1:
        return _recompressed_blocks(blocks, rank)
    factors = change.factors()
    if factors is None:
        return _factored(change, rank)
    found = recompress_factors(*factors, **_limit(rank))
    return LowRank(found.left, found.right, full_shape=tuple(change.shape)), found.discarded_energy


def _limit(rank: int | float) -> dict[str, Any]:
    return {"rank": rank} if isinstance(rank, int) else {"energy": rank}


def _blocks(change: Change, factor: float = 1.0) -> Iterator[tuple[float, Block]]:
    """Yield the blocks of a sum of blocks with their factors; nothing if anything else is in it."""
    if isinstance(change, Scaled):
        yield from _blocks(change.term, factor * change.factor)
    elif isinstance(change, Sum):
        parts = [list(_blocks(term, factor)) for term in change.terms]
        if all(parts):
            for part in parts:
                yield from part
    elif isinstance(change, Block):
        yield factor, change


def _recompressed_blocks(blocks: list[tuple[float, Block]], rank: int | float) -> tuple[Change, float]:
    """Recompress the blocks that share a window together, and each window by itself."""
    windows: dict[tuple[int, int, int], list[tuple[float, Block]]] = {}
    for factor, block in blocks:
        windows.setdefault((block.axis, block.start, block.stop), []).append((factor, block))
    kept, lost = [], 0.0
    for held in windows.values():
        first = held[0][1]
        inner, energy = _recompressed(add([scale(block.term, factor) for factor, block in held]), rank)
        kept.append(Block(inner, first.axis, first.start, first.full_shape))
        lost += energy
    return add(kept), lost


def _factored(change: Change, rank: int | float) -> tuple[Change, float]:
    """Factor a dense change of a matrix; leave rows, vectors and new vectors alone."""
    dense = change.dense() if isinstance(change, Dense | Sum | Scaled) and not isinstance(change, New) else None
    if dense is None or dense.ndim < 2 or min(matrix_shape(dense.shape)) < 2:
        return change, 0.0
    svd = full_svd(dense.reshape(matrix_shape(dense.shape)))
    found: Recompressed = recompress_factors(svd.U * svd.S, svd.Vh, **_limit(rank))
    return LowRank(found.left, found.right, full_shape=tuple(change.shape)), found.discarded_energy
