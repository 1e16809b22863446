"""One bit plane: a set of elements, one bit each.

    bit i of byte j is element 8 j + i; bits beyond the length are zero

A plane is a bare (ceil(n/8),) uint8 array; its length travels beside it.

Shape legend: n elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtheta.core.compiled import loops
from dtheta.errors import ConfigError, ShapeMismatch

Plane: TypeAlias = NDArray[np.uint8]


def check_plane(plane: Plane, length: int, what: str) -> None:
    """Check dtype, layout, size and padding of one bit plane.

    Raises:
        ConfigError: If it is no contiguous array of uint8, or a bit beyond the length is set.
        ShapeMismatch: If it has not ceil(length/8) bytes.
    """
    if not isinstance(plane, np.ndarray) or plane.dtype != np.uint8 or plane.ndim != 1 or not plane.flags.c_contiguous:
        found = f"{plane.dtype} {plane.shape}" if isinstance(plane, np.ndarray) else type(plane).__name__
        raise ConfigError(f"{what} is {found}; expected a contiguous one-dimensional NumPy array of uint8")
    if plane.size != (length + 7) // 8:
        raise ShapeMismatch(f"{what} has {plane.size} bytes; {length} elements take {(length + 7) // 8}")
    if length % 8 and plane[-1] >> (length % 8):
        raise ConfigError(f"{what} has bits set beyond its {length} elements; they must be zero")


def packed(flags: NDArray[np.bool_]) -> Plane:
    """Return the bit plane of (n,) flags."""
    return np.packbits(flags, bitorder="little")


def popcount(plane: Plane) -> int:
    """Return the number of set bits of a plane."""
    return sum(int(loops("plane").popcount(part)) for part in words(plane))


def words(plane: Plane) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return a plane as 64-bit words on the same memory, and one more word that holds the up to 7 bytes left over."""
    whole = plane.size // 8 * 8
    rest = np.zeros(8, np.uint8)
    rest[: plane.size - whole] = plane[whole:]
    return plane[:whole].view(np.uint64), rest.view(np.uint64)


def cut(plane: Plane, start: int, stop: int) -> Plane:
    """Return the plane of elements ``start ... stop - 1``, its bits moved down to the start of a byte."""
    first, shift = divmod(start, 8)
    taken = plane[first : (stop + 7) // 8]
    moved = taken >> np.uint8(shift)
    moved[:-1] |= taken[1:] << np.uint8((8 - shift) % 8) if shift else np.uint8(0)
    size = (stop - start + 7) // 8
    moved = moved[:size].copy() if moved.size != size else moved
    if (stop - start) % 8:
        moved[-1] &= (1 << (stop - start) % 8) - 1
    return moved


def joined(planes: Sequence[Plane], lengths: Sequence[int], length: int) -> Plane:
    """Return one plane of several, each moved up to where the one before it ended."""
    out = np.zeros((length + 7) // 8 + 1, np.uint8)  # the last byte takes what a shift moves beyond the end: zeros
    start = 0
    for plane, count in zip(planes, lengths, strict=True):
        first, shift = divmod(start, 8)
        out[first : first + plane.size] |= plane << np.uint8(shift)
        if shift:
            out[first + 1 : first + 1 + plane.size] |= plane >> np.uint8(8 - shift)
        start += count
    return out[:-1]
