"""Several ternary vectors side by side, a short range at a time, so that what they meet is read from memory once.

The planes of a range are copied below each other into a buffer that fits the second cache level; the copy is what
brings them there, so it costs little beside the reading that has to be done anyway.

Shape legend: M vectors, W bytes, r runs of ``span`` elements that share a coefficient (the last may be shorter).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dtheta.core.bitplane import Plane
from dtheta.core.plane_numpy import RANGE
from dtheta.core.planes import Planes
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

Factors: TypeAlias = Sequence[float | NDArray[Any]]
_BUFFER = 1 << 19  # bytes of all the planes of a block
_LONGEST = 1 << 15  # bytes of one plane of a block


class Block(NamedTuple):
    """The elements ``start ... stop - 1`` of M vectors; planes are zero beyond them, and a multiple of 8 bytes."""

    start: int
    stop: int
    P_MW: Plane
    N_MW: Plane


def blocks(planes: Sequence[Planes], length: int) -> Iterator[Block]:
    """Yield the blocks of M vectors of a common length; a block's planes hold until the next one is asked for."""
    W = min(_LONGEST, max(1, _BUFFER // (2 * len(planes)) // (RANGE // 8)) * (RANGE // 8))
    buffer = np.empty((2, len(planes), W), np.uint8)
    for start in range(0, length, 8 * W):
        stop = min(start + 8 * W, length)
        size = (stop - start + 7) // 8
        if size < W:
            buffer = np.zeros((2, len(planes), (size + 7) // 8 * 8), np.uint8)
        for i, one in enumerate(planes):
            buffer[0, i, :size] = one.positive[start // 8 : start // 8 + size]
            buffer[1, i, :size] = one.negative[start // 8 : start // 8 + size]
        yield Block(start, stop, buffer[0], buffer[1])


def coefficients(
    factors: Factors, count: int, length: int, span: int | None, dtype: Any, what: str
) -> tuple[NDArray[Any], int]:
    """Return one coefficient for each of ``count`` vectors and run, (M, r), and the elements of a run.

    Args:
        factors: For each vector a number, or an array (r,) of one number a run.
        count: Number of vectors M.
        length: Elements of a vector.
        span: Elements of a run, so that r = ceil(length/span); None where all factors are numbers.
        dtype: Type that the coefficients are rounded to.
        what: What they are, for messages.

    Raises:
        ShapeMismatch: If there are not M factors, or an array has not r.
        ConfigError: If an array comes without a span, or the span is below 1.
        NonFinite: If a coefficient is not finite, or too large for ``dtype``.
    """
    if len(factors) != count:
        raise ShapeMismatch(f"{len(factors)} {what} were given for {count} ternary vectors")
    one_each = all(np.ndim(factor) == 0 for factor in factors)
    run = _span(span, length, one_each, what)
    r = 1 if one_each else -(-length // run)
    table_Mr = np.empty((count, r), dtype)
    for i, factor in enumerate(factors):
        if np.ndim(factor) and np.shape(factor) != (r,):
            raise ShapeMismatch(f"{what} {i} have shape {np.shape(factor)}; {length} elements are {r} runs of {run}")
        with np.errstate(over="ignore"):  # found below, with its place
            table_Mr[i] = factor
        if not np.isfinite(table_Mr[i]).all():
            raise NonFinite(f"{what} {i}: {factor} is not finite as {np.dtype(dtype)}")
    return table_Mr, max(length, 1) if one_each else run


def _span(span: int | None, length: int, one_each: bool, what: str) -> int:
    if span is None and not one_each:
        raise ConfigError(f"{what} are arrays; say by span=... how many elements share one (a row's length)")
    if span is not None and span < 1:
        raise ConfigError(f"span is {span}; at least one element shares a coefficient")
    return max(length, 1) if span is None else span
