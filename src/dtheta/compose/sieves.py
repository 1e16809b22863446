"""Sieves: which entries of a vector a merge keeps.

    everything   all
    Window       of the entries in order of magnitude, those from one rank to another (TIES, breadcrumbs)
    Draw         each with a probability, by its own number (DARE)

A sieve is called with the entries of a vector in storage order, a range at a time, and writes multiples of them in
float64, zeros where it drops. What it keeps does not depend on how the vector is cut into ranges.

    u(e) = floor(hash(key, e) / 2^11),   kept where u(e) < floor(keep 2^53 + 0.5)

with the mixing steps of splitmix64 as hash, as in partition.py: nothing is stored, and no generator has a state.

Shape legend: B entries of a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtheta.core.compiled import numba_enabled
from dtheta.core.topk import Threshold
from dtheta.errors import NonFinite

#: (entries (B,), number of the first of them, coefficient, (B,) float64 to write to)
Sieve: TypeAlias = Callable[[NDArray[Any], int, float, NDArray[np.float64]], None]
_BITS = 53  # of a drawn number


def loops() -> Any:
    """Return the module of the loops, compiled or plain."""
    return import_module(f"dtheta.compose.sieve_{'kernels' if numba_enabled() else 'numpy'}")


def everything(values: NDArray[Any], first: int, coefficient: float, out: NDArray[np.float64]) -> None:
    """Keep all entries."""
    np.multiply(values, coefficient, out=out)


class Window:
    """Keeps the entries that one threshold selects and another, higher one does not.

    It counts how many of the entries equal to a threshold it has met, so it must meet all entries once and in the order
    in which the thresholds were found.
    """

    def __init__(self, low: Threshold, high: Threshold | None = None) -> None:
        self.low, self.high = low, high
        self.left = (low.ties, 0 if high is None else high.ties)

    def __call__(self, values: NDArray[Any], first: int, coefficient: float, out: NDArray[np.float64]) -> None:
        """Write the multiple of the kept entries."""
        wide = np.ascontiguousarray(values, self.low.dtype)
        bits = wide.view(f"u{wide.itemsize}")
        high = int(np.iinfo(bits.dtype).max >> 1) if self.high is None else self.high.key
        low_ties, high_ties = self.left
        left = loops().window(wide, bits, self.low.key, low_ties, high, high_ties, coefficient, out)
        self.left = (int(left[0]), int(left[1]))


class Draw:
    """Keeps entry e where a number drawn by ``(key, e)`` says so.

    Attributes:
        key: What the draw is for, in [0, 2**63).
        limit: Of the 2**53 equally likely numbers, those below it keep an entry.
    """

    def __init__(self, key: int, keep: float) -> None:
        self.key, self.limit = key, math.floor(keep * (1 << _BITS) + 0.5)

    def __call__(self, values: NDArray[Any], first: int, coefficient: float, out: NDArray[np.float64]) -> None:
        """Write the multiple of the kept entries.

        Raises:
            NonFinite: If an entry, kept or not, is NaN or infinite.
        """
        bits = values.view(f"u{values.itemsize}")
        if not loops().draw(values, bits, self.key, first, self.limit, coefficient, out):
            raise NonFinite(f"NaN or infinity among the entries {first} ... {first + values.size - 1}")
