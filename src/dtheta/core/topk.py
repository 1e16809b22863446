"""The k entries of largest magnitude, exactly, by counting: no sort, and no more memory than a histogram.

    T     = k-th largest magnitude
    kept  = all entries with |x| > T, and of those with |x| = T the first k - #{|x| > T}
    k     = floor(density n + 0.5), at least 1

The bits of a float without the sign, read as an integer, are ordered as magnitudes are. A first visit to the data
counts entries by the leading digits of these keys; the digit where the counts from above reach k begins the key of T,
and each further visit counts the next digits among the entries that share it: one visit for float32, up to two for
float64. A last visit writes the planes. float32 data are thus visited at most three times and float64 data four times,
whatever they hold; a visit is skipped where a digit's count ends exactly at k. This is the trimming of ComPEFT (Yadav
et al. 2023, arXiv 2311.13171), whose released code keeps one entry more, and every one equal to the threshold.

Zeros are never kept: where fewer than k entries are nonzero, exactly those are. "First" is by position: parts in their
order, entries in storage order. 16-bit floats are widened to float32, which is exact; if any part is float64, all are
compared as such.

Shape legend: n entries, R rows of C columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dtheta.core.compiled import loops
from dtheta.core.flat import Values, pieces, size_of
from dtheta.core.planes import Planes, concatenate, trusted
from dtheta.core.topk_numpy import infinity
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch

Source: TypeAlias = Values | Mapping[str, Values] | Iterable[Values]
_DIGITS = {np.dtype(np.float32): (15, 16), np.dtype(np.float64): (21, 21, 21)}  # binary, from the leading ones on
_COARSE = 1 << 9
_GROUP = 1 << 20  # entries of the rows that are worked on at once


@dataclass(frozen=True)
class Threshold:
    """What is kept of a source: entries with ``|x| > above``, and the first ``ties`` of those with ``|x| == above``.

    Attributes:
        above: Magnitude; infinity if nothing is kept.
        ties: Number of entries of exactly that magnitude that are kept too.
        count: Number of entries kept.
        total: Number of entries.
        dtype: float32 or float64: what magnitudes are compared as.
    """

    above: float
    ties: int
    count: int
    total: int
    dtype: np.dtype[Any]

    @property
    def key(self) -> int:
        """The bits of ``above``."""
        return int(np.array(self.above, self.dtype).view(f"u{self.dtype.itemsize}"))


def kept_count(total: int, density: float) -> int:
    """Return how many of ``total`` entries a density keeps: floor(density total + 0.5), but at least 1 of any.

    Raises:
        ConfigError: If the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ConfigError(f"a density of {density} cannot be meant; choose the share of entries to keep, in (0, 1]")
    return min(total, max(1, math.floor(density * total + 0.5)))


def threshold(source: Source, k: int | None = None, *, density: float | None = None) -> Threshold:
    """Return the threshold that keeps the k entries of largest magnitude of all parts together.

    Args:
        source: A tensor or array, a mapping of them by name (which may load each when it is asked for), or an iterable
            of them that can be iterated over anew, as a list can and a generator cannot. One part is held at a time.
        k: Number of entries to keep, 0 ... their number. Give either ``k`` or ``density``.
        density: Share of entries to keep, in (0, 1]; see ``kept_count``.

    Raises:
        ConfigError: If k or density cannot be meant, the source is an iterator, or it changed between two visits.
        NonFinite: If a part holds NaN or infinity; the message names it.
        UnsupportedLayer: If a part is not a floating-point tensor or array on the CPU.
    """
    _check_wish(k, density)
    if isinstance(source, Iterator):
        raise ConfigError("the source is an iterator and can be visited once; pass a list, a mapping, or one array")
    table = _leading(source, np.dtype(np.float32))
    return _descend(source, table, _wished(k, density, int(table.sum())))


def selected(source: Source, found: Threshold) -> Iterator[tuple[str, Planes]]:
    """Yield the name and the signs of the kept entries of each part, in order; parts of an iterable are "0", "1", ...

    The count of kept entries is checked at the end: a source that changed meanwhile raises.

    Raises:
        ConfigError: If what was kept differs from what the threshold says.
    """
    loop = loops("topk")
    ties, kept, total = found.ties, 0, 0
    for name, part in _parts(source):
        size = size_of(part)
        positive, negative = np.empty((size + 7) // 8, np.uint8), np.empty((size + 7) // 8, np.uint8)
        start = 0
        for piece in _bits(part, name, found.dtype):
            ties = int(loop.mark(piece, found.key, ties, positive[start // 8 :], negative[start // 8 :]))
            start += piece.size
        planes = trusted(positive, negative, size)
        kept, total = kept + planes.count, total + size
        yield name, planes
    if (kept, total) != (found.count, found.total):
        raise ConfigError(
            f"{kept} of {total} entries were kept where the threshold says {found.count} of {found.total}: the source "
            "is another one or changed since; find its threshold again"
        )


def select(values: Values, k: int | None = None, *, density: float | None = None) -> Planes:
    """Return the signs of the k entries of largest magnitude of one tensor or array, of any shape.

    Args and errors are those of ``threshold``.
    """
    part = {"values": values}
    return next(planes for _, planes in selected(part, threshold(part, k, density=density)))


def select_rows(matrix: Values, k: int | None = None, *, density: float | None = None) -> Planes:
    """Return the signs of the k entries of largest magnitude of every row, as one vector in storage order.

    Args:
        matrix: Tensor or array of at least one dimension; its last is a row.
        k: Entries to keep in a row, 0 ... its length. Give either ``k`` or ``density``.
        density: Share of a row to keep, in (0, 1]; see ``kept_count``.

    Raises:
        ConfigError: If k or density cannot be meant.
        ShapeMismatch: If there is no row.
        NonFinite: If a row holds NaN or infinity; the message says which.
        UnsupportedLayer: If it is not a floating-point tensor or array on the CPU.
    """
    _check_wish(k, density)
    if matrix.ndim == 0:
        raise ShapeMismatch("a number has no rows; pass a tensor or array of at least one dimension")
    C = matrix.shape[-1]
    k = _wished(k, density, C)
    rows: Any = matrix.reshape(-1, C) if C else matrix.reshape(0, 1)
    step = max(1, _GROUP // (8 * max(C, 1))) * 8  # a multiple of 8 rows is whole bytes, whatever their length
    return concatenate([_marked_rows(rows[i : i + step], k, i) for i in range(0, rows.shape[0], step)])


def _check_wish(k: int | None, density: float | None) -> None:
    if (k is None) == (density is None):
        raise ConfigError("say either how many entries to keep (k) or which share of them (density)")
    if density is not None:
        kept_count(1, density)


def _wished(k: int | None, density: float | None, total: int) -> int:
    if density is not None:
        return kept_count(total, density)
    if k is None or not 0 <= k <= total:
        raise ConfigError(f"k is {k} and there are {total} entries to choose from; take 0 ... {total}")
    return k


def _marked_rows(rows: Any, k: int, first: int) -> Planes:
    R, C = rows.shape
    found = [piece.view(f"u{piece.itemsize}") for piece in pieces(rows, "the matrix")]
    bits_RC = (found[0] if len(found) == 1 else np.concatenate(found)).reshape(R, C)
    positive, negative = np.empty((R * C + 7) // 8, np.uint8), np.empty((R * C + 7) // 8, np.uint8)
    bad = int(loops("topk").mark_rows(bits_RC, k, positive, negative))
    if bad >= 0:
        raise NonFinite(f"row {first + bad} holds NaN or infinity; the largest entries cannot be selected")
    return trusted(positive, negative, R * C)


def _parts(source: Source) -> Iterator[tuple[str, Values]]:
    if isinstance(source, (np.ndarray, Tensor)):
        yield "values", source
    elif isinstance(source, Mapping):
        for name, part in source.items():
            yield str(name), part
    else:
        for i, part in enumerate(source):
            yield str(i), part


def _bits(part: Values, name: str, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Yield the bits of the entries of a part, at least as wide as ``dtype``."""
    for piece in pieces(part, f"tensor {name!r}", dtype):
        yield piece.view(f"u{piece.itemsize}")


def _leading(source: Source, dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Return how many entries have each leading digit, as float32, or as float64 where one part is."""
    width, loop = _DIGITS[dtype][0], loops("topk")
    shift = 8 * dtype.itemsize - 1 - width
    table = np.zeros(1 << width, np.int64)
    for name, part in _parts(source):
        for bits in _bits(part, name, dtype):
            if bits.itemsize > dtype.itemsize:
                return _leading(source, np.dtype(np.float64))
            loop.histogram(bits, shift, table)
        if table[infinity(dtype) >> shift :].any():
            raise NonFinite(f"tensor {name!r} holds NaN or infinity; the largest entries cannot be selected")
    return table


def _next(source: Source, prefix: int, upper: int, lower: int, dtype: np.dtype[Any]) -> NDArray[np.int64]:
    """Return how many entries whose keys begin with ``prefix`` have each next digit."""
    loop, table = loops("topk"), np.zeros(1 << upper - lower, np.int64)
    for name, part in _parts(source):
        for bits in _bits(part, name, dtype):
            loop.refine(bits, upper, prefix, lower, table)
    return table


def _descend(source: Source, table: NDArray[np.int64], k: int) -> Threshold:
    """Find the k-th largest key digit by digit, from the counts of the leading digit on."""
    dtype = next(dtype for dtype, widths in _DIGITS.items() if table.size == 1 << widths[0])
    total, prefix, wanted, upper = int(table.sum()), 0, k, 8 * dtype.itemsize - 1
    if k == 0:
        return Threshold(math.inf, 0, 0, total, dtype)
    for place, width in enumerate(_DIGITS[dtype]):
        lower = upper - width
        if place:
            expected = int(table[prefix & table.size - 1])
            table = _next(source, prefix, upper, lower, dtype)
            if int(table.sum()) != expected:
                raise ConfigError("the source changed between two visits; it must give the same entries every time")
        digit, above = _reached(table, wanted)
        prefix, wanted, upper = prefix << width | digit, wanted - above, lower
        if prefix and wanted == table[digit]:  # all of them are kept: no need to look inside
            return Threshold(_magnitude((prefix << lower) - 1, dtype), 0, k, total, dtype)
    if prefix == 0:  # only zeros are left, and zeros are not kept
        return Threshold(0.0, 0, k - wanted, total, dtype)
    return Threshold(_magnitude(prefix, dtype), wanted, k, total, dtype)


def _reached(table: NDArray[np.int64], wanted: int) -> tuple[int, int]:
    """Return the digit where counts from above reach ``wanted``, and the count above that digit."""
    if table.size > _COARSE**2:  # sums of blocks first: one short pass over the large table
        block, above = _reached(table.reshape(-1, _COARSE).sum(1), wanted)
        digit, more = _reached(table[block * _COARSE : (block + 1) * _COARSE], wanted - above)
        return block * _COARSE + digit, above + more
    from_above = np.cumsum(table[::-1])
    back = int(np.searchsorted(from_above, wanted))
    digit = table.size - 1 - back
    return digit, int(from_above[back] - table[digit])


def _magnitude(key: int, dtype: np.dtype[Any]) -> float:
    return float(np.array(key, f"u{dtype.itemsize}").view(dtype))
