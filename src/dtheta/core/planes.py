"""A ternary vector as two bit planes: two bits an element, whatever its density.

    t_e = P_e - N_e in {-1, 0, +1},   P_e N_e = 0
    bit i of byte j of a plane is element 8 j + i; bits beyond the length are zero

This is the form in which task vectors are held and worked on after ComPEFT (Yadav, Choshen, Raffel and Bansal 2023,
arXiv 2311.13171) has left of them the signs of the largest entries and one scale. The paper stores such vectors by a
code close to their entropy and computes on dense tensors again; here sums, inner products and votes run on the planes
themselves (plane_sums, plane_products, plane_votes, plane_ties), sixteen times smaller than float32.

Scales stay outside: planes are the signs alone.

Shape legend: n elements, so ceil(n/8) bytes a plane.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.bitplane import Plane, check_plane, cut, joined, packed, popcount
from dtheta.core.compiled import loops
from dtheta.core.flat import Values
from dtheta.errors import ConfigError, ShapeMismatch

_BYTES = 1 << 18  # of a plane, worked on at once where temporaries arise


@dataclass(frozen=True, eq=False)
class Planes:
    """A vector over {-1, 0, +1} in two disjoint bit planes.

    Attributes:
        positive: Where it is +1, (ceil(n/8),) uint8, little bit order, bits beyond the length zero. Not to be written.
        negative: Where it is -1, likewise.
        length: Number of elements n.

    Two vectors are equal if all their elements are. ``torch.from_numpy(planes.positive)`` shares the memory.

    Raises:
        ConfigError: If a plane is no contiguous array of uint8, has a bit beyond the length, or one of the other's.
        ShapeMismatch: If a plane has not ceil(n/8) bytes.
    """

    positive: Plane
    negative: Plane
    length: int

    def __post_init__(self) -> None:
        if self.length < 0:
            raise ConfigError(f"a ternary vector of {self.length} elements cannot be")
        check_plane(self.positive, self.length, "the positive plane")
        check_plane(self.negative, self.length, "the negative plane")
        for start in range(0, self.positive.size, _BYTES):
            both = self.positive[start : start + _BYTES] & self.negative[start : start + _BYTES]
            if both.any():
                first = 8 * (start + int(np.flatnonzero(both)[0]))
                raise ConfigError(f"elements near {first} are both positive and negative; planes must be disjoint")

    @classmethod
    def from_signs(cls, signs: Values) -> Planes:
        """Return the planes of an int8 array or tensor of any shape over {-1, 0, +1}, in storage order.

        Raises:
            ConfigError: For another dtype or an element outside {-1, 0, +1}.
        """
        found: Any = signs.detach().cpu().numpy() if isinstance(signs, Tensor) else signs
        if found.dtype != np.int8:
            raise ConfigError(f"signs are {found.dtype}; expected int8 elements that are -1, 0 or +1")
        line = found.reshape(-1)
        if line.size and not (-1 <= line.min() and line.max() <= 1):
            raise ConfigError(f"signs reach from {line.min()} to {line.max()}; expected -1, 0 or +1")
        return trusted(packed(line > 0), packed(line < 0), line.size)

    def to_signs(self) -> NDArray[np.int8]:
        """Return the elements, (n,) int8."""
        signs = np.empty(8 * self.positive.size, np.int8)
        loops("plane").expand(self.positive, self.negative, signs)
        return signs[: self.length]

    @property
    def mask(self) -> Plane:
        """Bit plane of the elements that are not zero; a new array at every call."""
        return self.positive | self.negative

    @property
    def count(self) -> int:
        """Number of elements that are not zero; counted at every call."""
        return popcount(self.positive) + popcount(self.negative)

    @property
    def nbytes(self) -> int:
        """Bytes of both planes."""
        return self.positive.nbytes + self.negative.nbytes

    def part(self, start: int, stop: int) -> Planes:
        """Return the elements ``start ... stop - 1``.

        Where ``start`` is a multiple of 8 and ``stop`` is one or the end, the result shares the memory; otherwise its
        bits are copied into place.

        Raises:
            ConfigError: If the range does not lie in the vector.
        """
        if not 0 <= start <= stop <= self.length:
            raise ConfigError(f"elements {start} ... {stop} are no range inside a ternary vector of {self.length}")
        if start % 8 == 0 and (stop % 8 == 0 or stop == self.length):
            inside = slice(start // 8, (stop + 7) // 8)
            return trusted(self.positive[inside], self.negative[inside], stop - start)
        return trusted(cut(self.positive, start, stop), cut(self.negative, start, stop), stop - start)

    def __neg__(self) -> Planes:
        return trusted(self.negative, self.positive, self.length)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Planes):
            return NotImplemented
        return (
            self.length == other.length
            and np.array_equal(self.positive, other.positive)
            and np.array_equal(self.negative, other.negative)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays may be large, and are not frozen by the dataclass


def trusted(positive: Plane, negative: Plane, length: int) -> Planes:
    """Return planes that are known to be valid, unchecked: for what this package has computed itself."""
    planes = object.__new__(Planes)
    for name, value in (("positive", positive), ("negative", negative), ("length", length)):
        object.__setattr__(planes, name, value)
    return planes


def concatenate(parts: Sequence[Planes]) -> Planes:
    """Return one vector of the elements of several, in order."""
    length = sum(part.length for part in parts)
    return trusted(
        joined([part.positive for part in parts], [part.length for part in parts], length),
        joined([part.negative for part in parts], [part.length for part in parts], length),
        length,
    )


def same_length(planes: Sequence[Planes]) -> int:
    """Return the common length of one or more ternary vectors.

    Raises:
        ConfigError: If there are none.
        ShapeMismatch: If their lengths differ.
    """
    if not planes:
        raise ConfigError("no ternary vectors were given; at least one is needed")
    for i, other in enumerate(planes):
        if other.length != planes[0].length:
            raise ShapeMismatch(f"ternary vector {i} has {other.length} elements and the first has {planes[0].length}")
    return planes[0].length
