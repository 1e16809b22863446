"""rANS: bytes coded by a binomial model, four states taking turns, many chunks at once. In NumPy.

    coding byte b, from the last byte to the first:     while x >= f 2^20:  put out x mod 2^16,  x = x div 2^16
                                                        x = (x div f) 2^12 + x mod f + start
    decoding, from the first to the last:               b = byte of slot x mod 2^12
                                                        x = f (x div 2^12) + x mod 2^12 - start
                                                        while x < 2^16:     x = 2^16 x + next word

f and start are those of ``tables.py`` for the density of ones that a chunk has. A rare byte is coded as the escape and
put, as it is, on a list of its own. Byte j belongs to state j mod 4. Words lie in the order of decoding, and rare bytes
behind them in the opposite order, so that neither needs a count: they meet.

A state lies in [2^16, 2^32) and starts at 2^16, so at most one word goes out or comes in at a time, decoding ends with
four states of 2^16 and no word left, and no other words and states give the same bytes.

Duda 2013, "Asymmetric numeral systems", arXiv 1311.2540, in the form of Giesen 2014, "Interleaved entropy coders",
arXiv 1402.3392: 32-bit states, 16-bit words.

A step of this file codes four bytes of every chunk, so it pays where there are many chunks; ``encode_kernels.py``
and ``decode_kernels.py`` do the same for one chunk, compiled.

Shape legend: N chunks, 4 states each, M bytes at most, W words at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dtheta.core.codec.chunks import Fault
from dtheta.core.codec.tables import BITS, density_step, escapes, frequencies, rare, slots, starts

Bytes = NDArray[np.uint8]
States = NDArray[np.int64]

LOW = 1 << 16


def coded(U: Sequence[Bytes], ones: Sequence[int]) -> list[tuple[States, bytes]]:
    """Return, for each of several byte strings with so many ones, the states, (4,), and words and rare bytes."""
    if not U:
        return []
    q_N = [density_step(c, len(u)) for c, u in zip(ones, U, strict=True)]
    byte_NM = _side_by_side(U)
    f_NM = np.take_along_axis(frequencies()[q_N], byte_NM, 1).astype(np.int64)
    start_NM = np.take_along_axis(starts()[q_N], byte_NM, 1).astype(np.int64)
    length_N1 = np.array([[len(u)] for u in U])
    x_N4 = np.full((len(U), 4), LOW, np.int64)
    word_NM = np.zeros(byte_NM.shape, "<u2")  # of each byte, at most one word
    out_NM = np.zeros(byte_NM.shape, bool)
    for j in range(byte_NM.shape[1] - 4, -1, -4):
        there_N4 = np.arange(j, j + 4) < length_N1
        f_N4 = f_NM[:, j : j + 4]
        out_N4 = (x_N4 >= f_N4 << 20) & there_N4
        word_NM[:, j : j + 4], out_NM[:, j : j + 4] = x_N4 & 0xFFFF, out_N4
        x_N4 = np.where(out_N4, x_N4 >> 16, x_N4)
        quotient_N4, rest_N4 = np.divmod(x_N4, f_N4)
        x_N4 = np.where(there_N4, (quotient_N4 << BITS) + rest_N4 + start_NM[:, j : j + 4], x_N4)
    raw = [u[rare()[q][u]][::-1].tobytes() for q, u in zip(q_N, U, strict=True)]
    return [(x, w[out].tobytes() + r) for x, w, out, r in zip(x_N4, word_NM, out_NM, raw, strict=True)]


def uncoded(
    x: Sequence[States], data: Sequence[Bytes], ones: Sequence[int], nbytes: Sequence[int]
) -> list[Bytes | Fault]:
    """Return the byte strings, or what is wrong with them.

    Args:
        x: Of each chunk, its states, (4,).
        data: Of each chunk, its words and rare bytes.
        ones: Of each chunk, the ones in its bytes.
        nbytes: Of each chunk, the number of its bytes, checked by the caller.
    """
    q_N1 = np.array([density_step(c, m) for c, m in zip(ones, nbytes, strict=True)])[:, None]
    length_N1, x_N4 = np.array(nbytes)[:, None], np.array(x)
    word_NW, at_N1 = _side_by_side([np.frombuffer(d[: len(d) & ~1].tobytes(), "<u2") for d in data]), 0
    small_N = (x_N4 < LOW).any(1)
    byte_NM = np.zeros((len(data), -(-max(nbytes) // 4) * 4), np.uint8)
    row_N1 = np.arange(len(data))[:, None]
    for j in range(0, max(nbytes), 4):
        there_N4 = np.arange(j, j + 4) < length_N1
        slot_N4 = slots()[q_N1, x_N4 & 4095].astype(np.int64)
        byte_NM[:, j : j + 4] = slot_N4 & 255
        y_N4 = np.where(there_N4, (slot_N4 >> 20) * (x_N4 >> BITS) + (slot_N4 >> 8 & 4095), x_N4)
        in_N4 = (y_N4 < LOW) & there_N4
        place_N4 = np.minimum(at_N1 + np.cumsum(in_N4, 1) - in_N4, word_NW.shape[1] - 1)
        x_N4 = np.where(in_N4, y_N4 << 16 | word_NW[row_N1, place_N4], y_N4)
        at_N1 = at_N1 + in_N4.sum(1, keepdims=True)
    ended_N = (x_N4 == LOW).all(1) & ~small_N
    parts = zip(byte_NM, nbytes, data, np.ravel(at_N1), q_N1[:, 0], ended_N, strict=True)
    return [_completed(byte[:m], d, 2 * int(at), q) if ended else Fault.STATE for byte, m, d, at, q, ended in parts]


def _completed(byte: Bytes, data: Bytes, at: int, q: int) -> Bytes | Fault:
    """Put rare bytes, which start behind the words and lie in the opposite order, where the escape stands."""
    if at > len(data):
        return Fault.LEFT_OVER
    raw, escape = data[at:], np.flatnonzero(byte == escapes()[q])
    if len(escape) != len(raw):
        return Fault.LEFT_OVER
    if not rare()[q][raw].all():
        return Fault.RARE
    byte[escape] = raw[::-1]
    return byte


def _side_by_side(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return arrays as the rows of one, filled up with zeros to a multiple of four and at least four columns."""
    columns = max(4, -(-max(len(p) for p in parts) // 4) * 4)
    rows = np.zeros((len(parts), columns), parts[0].dtype)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = part
    return rows
