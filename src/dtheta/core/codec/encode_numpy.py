"""Encoding of bit planes to chunks in NumPy: the same bytes as ``encode_kernels.py``, without a compiler.

Rice's code needs no loop. rANS is a loop over bytes, but one step of it serves all chunks of a batch, so long vectors
go many times faster than short ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dtheta.core.codec import rans, rice
from dtheta.core.codec.chunks import CODED, EMPTY, PLAIN

Bytes = NDArray[np.uint8]

BATCH = 1 << 24  # elements that are coded side by side


def encode_chunks(
    mask: Bytes, negative: Bytes, n: int, size: int, most: int, target: Bytes, at: int, rows: NDArray[np.int64]
) -> int:
    """Write the chunks of two planes; arguments and result as in ``encode_kernels.py``."""
    step = max(1, BATCH // size)
    for i in range(0, len(rows), step):
        batch = range(i, min(i + step, len(rows)))
        for j, (codec, k, count, data) in zip(batch, _batch(mask, negative, n, size, batch), strict=True):
            rows[j] = codec, k, count, len(data)
            target[at : at + len(data)] = np.frombuffer(data, np.uint8)
            at += len(data)
    return at


def _batch(mask: Bytes, negative: Bytes, n: int, size: int, batch: range) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield codec, k, count and bytes of some chunks."""
    cuts = [slice(i * size // 8, (i + 1) * size // 8) for i in batch]
    numbers = [rice.numbers(mask[cut], negative[cut]) for cut in cuts]
    best = [rice.parameter(v) for v in numbers]
    elements = [min(size, n - i * size) for i in batch]
    less = [rice.coded_parameter(k, len(v), e) for k, v, e in zip(best, numbers, elements, strict=True)]
    full = [j for j, v in enumerate(numbers) if len(v)]
    U = {j: rice.unary(numbers[j], less[j]) for j in full}
    codes = iter(rans.coded(list(U.values()), [len(numbers[j]) for j in full]))
    for j, v in enumerate(numbers):
        if not len(v):
            yield EMPTY, 0, 0, b""
            continue
        state, words = next(codes)
        head = np.array([len(U[j]), *state], "<u4").tobytes()
        coded = head + words + rice.fields(v, less[j]).tobytes()
        plain = rice.unary(v, best[j]).tobytes() + rice.fields(v, best[j]).tobytes()
        yield (CODED, less[j], len(v), coded) if len(coded) < len(plain) else (PLAIN, best[j], len(v), plain)
