"""Compiled: the largest and smallest entries of each row in one pass; in plain NumPy it is in extremes_numpy.

An entry beyond the least extreme of those kept so far goes to a buffer; a full buffer is cut to the best K, which moves
the bar. After the first few hundred entries of a row hardly any passes. Whether one does is written to bytes, which the
compiler vectorizes, and bytes are looked at eight at a time.

Shape legend: R rows of C columns, K entries kept, B places in a buffer.
"""

from __future__ import annotations

import numpy as np

from dtheta.core.compiled import kernel
from dtheta.core.extremes_numpy import Places, Values

_CHUNK = 2048


@kernel
def _cut(value_B: Values, place_B: Places, used: int, keep: int) -> int:
    """Sort the first ``used`` entries, which stand in order of their columns, by falling value; keep the best."""
    order = np.argsort(-value_B[:used], kind="mergesort")[:keep]  # stable: ties stay in order of their columns
    value_B[: order.size], place_B[: order.size] = value_B[order], place_B[order]
    return order.size


@kernel
def _bar(value_B: Values, used: int, keep: int) -> np.float32:
    """Return what an entry must exceed to be kept, after a cut."""
    if keep == 0:
        return np.float32(np.inf)
    return np.float32(value_B[keep - 1]) if used == keep else np.float32(-np.inf)


@kernel
def _row(row_C: Values, high_B: Values, top_B: Places, low_B: Values, end_B: Places, keep: int, keep_low: int) -> None:
    """Leave the largest entries, and the negatives of the smallest, at the heads of their buffers."""
    above, below, upper, lower = 0, 0, _bar(high_B, 0, keep), _bar(low_B, 0, keep_low)
    passes = np.zeros(_CHUNK, np.uint8)
    for start in range(0, row_C.size, _CHUNK):
        part = row_C[start : start + _CHUNK]
        passes[part.size :] = 0
        floor = -lower
        for c in range(part.size):
            passes[c] = (part[c] > upper) | (part[c] < floor)
        eights = passes.view(np.uint64)
        for e in range((part.size + 7) // 8):
            if eights[e]:
                for c in range(8 * e, min(8 * e + 8, part.size)):
                    if part[c] > upper:
                        high_B[above], top_B[above] = part[c], start + c
                        above += 1
                        if above == high_B.size:
                            above = _cut(high_B, top_B, above, keep)
                            upper = _bar(high_B, above, keep)
                    if -part[c] > lower:
                        low_B[below], end_B[below] = -part[c], start + c
                        below += 1
                        if below == low_B.size:
                            below = _cut(low_B, end_B, below, keep_low)
                            lower = _bar(low_B, below, keep_low)
    _cut(high_B, top_B, above, keep)
    _cut(low_B, end_B, below, keep_low)


@kernel
def extremes(values_RC: Values, largest_RK: Places, smallest_RK: Places) -> None:
    """Write the columns of each row's K largest and K smallest entries, the most extreme first, ties by lowest column.

    Where ``smallest_RK`` has no columns, only the largest are looked for, and the other way round.
    """
    keep, keep_low = largest_RK.shape[1], smallest_RK.shape[1]
    high_B, low_B = np.empty(3 * keep + 32, np.float32), np.empty(3 * keep_low + 32, np.float32)
    top_B, end_B = np.empty(high_B.size, np.int32), np.empty(low_B.size, np.int32)
    for r in range(values_RC.shape[0]):
        _row(values_RC[r], high_B, top_B, low_B, end_B, keep, keep_low)
        largest_RK[r], smallest_RK[r] = top_B[:keep], end_B[:keep_low]
