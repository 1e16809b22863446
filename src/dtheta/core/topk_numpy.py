"""The loops of topk_kernels in plain NumPy: the same arguments, the same result.

A *key* is the magnitude of a float: its bits without the sign, as an unsigned integer. Keys are ordered as magnitudes
are, infinity and NaN lie above all others.

Shape legend: n entries, R rows of C columns, W bytes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[Any]  # uint32 or uint64: the bits of float32 or float64
Plane: TypeAlias = NDArray[np.uint8]
_CHUNK = 1 << 16


def infinity(dtype: np.dtype[Any]) -> int:
    """Return the key of infinity."""
    return int(np.array(np.inf, dtype).view(f"u{dtype.itemsize}"))


def _keys(bits: Bits) -> Bits:
    return bits & np.iinfo(bits.dtype).max >> 1


def _count(digits: Bits, table: NDArray[np.int64]) -> None:
    if digits.size < table.size:
        np.add.at(table, digits.astype(np.int64), 1)
    else:
        table += np.bincount(digits.astype(np.int64), minlength=table.size)


def histogram(bits: Bits, shift: int, table: NDArray[np.int64]) -> None:
    """Count the entries by their keys' leading digits, ``key >> shift``."""
    for start in range(0, bits.size, _CHUNK):
        _count(_keys(bits[start : start + _CHUNK]) >> shift, table)


def refine(bits: Bits, upper: int, prefix: int, lower: int, table: NDArray[np.int64]) -> None:
    """Count the entries with ``key >> upper == prefix`` by their next digits, down to bit ``lower``."""
    for start in range(0, bits.size, _CHUNK):
        keys = _keys(bits[start : start + _CHUNK])
        inside = keys[keys >> upper == prefix] >> lower
        _count(inside & (1 << upper - lower) - 1, table)


def mark(bits: Bits, above: int, ties: int, positive: Plane, negative: Plane) -> int:
    """Write the planes of the entries with ``key > above`` and of the first ``ties`` with ``key == above``.

    Returns how many of the ``ties`` are left.
    """
    for start in range(0, bits.size, _CHUNK):
        part = bits[start : start + _CHUNK]
        keys = _keys(part)
        kept = keys > above
        equal = np.flatnonzero(keys == above)[:ties] if ties else kept[:0]
        kept[equal] = True
        ties -= equal.size
        _pack(part, kept, positive[start // 8 :], negative[start // 8 :])
    return ties


def _pack(bits: Bits, kept: NDArray[np.bool_], positive: Plane, negative: Plane) -> None:
    minus = np.packbits(bits >> 8 * bits.itemsize - 1, bitorder="little")
    mask = np.packbits(kept, bitorder="little")
    positive[: mask.size], negative[: mask.size] = mask & ~minus, mask & minus


def mark_rows(bits_RC: Bits, k: int, positive: Plane, negative: Plane) -> int:
    """Write the planes of the k largest entries of every row; zeros are not kept, the first of equals are.

    Returns -1, or the first row that is not finite.
    """
    keys_RC = _keys(bits_RC)
    finite_R = keys_RC.max(1) < infinity(np.dtype(f"f{bits_RC.itemsize}"))
    if not finite_R.all():
        return int(np.argmin(finite_R))
    if k == 0:
        positive[:], negative[:] = 0, 0
        return -1
    C = keys_RC.shape[1]
    threshold_R1 = np.partition(keys_RC, C - k, axis=1)[:, C - k, None]
    kept_RC = keys_RC > threshold_R1
    ties_R1 = np.where(threshold_R1 > 0, k - kept_RC.sum(1, keepdims=True), 0)
    equal_RC = keys_RC == threshold_R1
    kept_RC |= equal_RC & (np.cumsum(equal_RC, axis=1) <= ties_R1)
    _pack(bits_RC.reshape(-1), kept_RC.reshape(-1), positive, negative)
    return -1
