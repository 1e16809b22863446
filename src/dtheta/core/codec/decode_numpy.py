"""Decoding of chunks to bit planes or int8 in NumPy: the same results as ``decode_kernels.py``, without a compiler.

Which fault a damaged chunk is told to have may differ between the two where it has several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dtheta.core.codec import rans, rice
from dtheta.core.codec.chunks import CODED, CODED_HEAD, Fault

Bytes = NDArray[np.uint8]

BATCH = 1 << 24  # elements that are decoded side by side


@dataclass(frozen=True)
class Part:
    """One chunk taken apart: U, what it is made of, or what is wrong with it; and F."""

    U: Bytes | Fault
    F: Bytes
    k: int
    count: int
    elements: int


def decode_planes(
    payload: Bytes, rows: NDArray[np.int64], size: int, n: int, mask: Bytes, negative: Bytes, faults: Bytes
) -> int:
    """Decode chunks to planes; arguments and result as in ``decode_kernels.py``."""
    mask[:], negative[:] = 0, 0
    step = max(1, BATCH // size)
    for start in range(0, len(rows), step):
        batch = range(start, min(start + step, len(rows)))
        for i, part in zip(batch, _parts(payload, rows, size, n, batch), strict=True):
            if isinstance(part.U, Fault):
                faults[i] = part.U
            elif part.count:
                planes = rice.planes(part.U, part.F, part.k, part.count, part.elements)
                if isinstance(planes, Fault):
                    faults[i] = planes
                else:
                    cut = slice(i * size // 8, (i + 1) * size // 8)
                    mask[cut], negative[cut] = planes
    return int(np.count_nonzero(faults))


def decode_int8(
    payload: Bytes, rows: NDArray[np.int64], size: int, n: int, target: NDArray[np.uint64], faults: Bytes
) -> int:
    """Decode chunks to int8; arguments and result as in ``decode_kernels.py``."""
    mask, negative = np.empty((2, (n + 7) // 8), np.uint8)
    wrong = decode_planes(payload, rows, size, n, mask, negative, faults)
    target.view(np.uint8)[:] = rice.bits(mask) - 2 * rice.bits(negative)
    return wrong


def _parts(payload: Bytes, rows: NDArray[np.int64], size: int, n: int, batch: range) -> Iterator[Part]:
    """Yield chunks, the entropy code of all of them undone together."""
    parts = []
    for i in batch:
        start, length, _, k, count = (int(x) for x in rows[i])
        split, stop = start + length - (count * k + 7) // 8, start + length
        parts.append(Part(payload[start:split], payload[split:stop], k, count, min(size, n - i * size)))
    coded = [j for j, i in enumerate(batch) if rows[i, 2] == CODED]
    for j, U in zip(coded, _uncoded([parts[j] for j in coded]), strict=True):
        parts[j] = replace(parts[j], U=U)
    yield from parts


def _uncoded(parts: list[Part]) -> list[Bytes | Fault]:
    """Return U of coded chunks, or what is wrong with them."""
    data = [np.asarray(part.U) for part in parts]
    heads = [np.frombuffer(d[:CODED_HEAD].tobytes(), "<u4").astype(np.int64) for d in data]
    result: list[Bytes | Fault] = [Fault.SIZE] * len(parts)
    good = [j for j, (part, head) in enumerate(zip(parts, heads, strict=True)) if _fits(part, int(head[0]))]
    if good:
        words, counts = [data[j][CODED_HEAD:] for j in good], [parts[j].count for j in good]
        U = rans.uncoded([heads[j][1:] for j in good], words, counts, [int(heads[j][0]) for j in good])
        for j, u in zip(good, U, strict=True):
            result[j] = u
    return result


def _fits(part: Part, nbytes: int) -> bool:
    """Whether U can have so many bytes: enough for its ones, and no more than the gaps between them can need."""
    most = part.count + ((part.elements - part.count) >> (part.k - 1))
    return (part.count + 7) // 8 <= nbytes <= (most + 7) // 8
