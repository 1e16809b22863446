"""The format of coded ternary vectors once more, as plainly as can be: lists, strings of bits, fractions."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import NDArray

LOW = 1 << 16
HEAD, ROW = 20, 12


def planes_of(values: Sequence[int] | NDArray) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mask and negative of elements -1, 0, +1."""
    t = np.asarray(values, np.int8)
    return np.packbits(t != 0, bitorder="little"), np.packbits(t < 0, bitorder="little")


def drawn(n: int, density: float, seed: int = 0) -> NDArray[np.int8]:
    """Independent elements, each nonzero with the same probability, from integers alone (splitmix64)."""
    with np.errstate(over="ignore"):
        x = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    kept = (x >> np.uint64(8)).astype(np.int64) < round(density * (1 << 56))
    return np.where(kept, 1 - 2 * (x & np.uint64(1)).astype(np.int8), 0).astype(np.int8)


@cache
def model(q: int) -> tuple[dict[int, int], list[int], int]:
    """f of every byte with a symbol of its own, the rare bytes, and f of the escape."""
    P = [Fraction(q, 128) ** b.bit_count() * Fraction(128 - q, 128) ** (8 - b.bit_count()) for b in range(256)]
    rare = [b for b in range(256) if P[b] < Fraction(1, 8192)]
    weight = {b: P[b] for b in sorted(set(range(256)) - set(rare), key=lambda b: (b.bit_count(), b))}
    if rare:
        weight[256] = sum((P[b] for b in rare), Fraction(0))
    f = {b: max(1, int(4096 * w)) for b, w in weight.items()}
    while sum(f.values()) < 4096:
        f[max(f, key=lambda b: weight[b] / (2 * f[b] + 1))] += 1
    while sum(f.values()) > 4096:
        worst = min(weight[b] / (2 * f[b] - 1) for b in f if f[b] > 1)
        some = [b for b in f if f[b] > 1 and weight[b] / (2 * f[b] - 1) == worst]
        ones = some[0].bit_count() if some[0] < 256 else 9
        f[max(b for b in some if (b.bit_count() if b < 256 else 9) == ones)] -= 1
    return {b: f[b] for b in sorted(f) if b < 256}, rare, f.get(256, 0)


def symbol(q: int, byte: int) -> tuple[int, int]:
    """f and start of a byte."""
    f, rare, escape = model(q)
    if byte in rare:
        return escape, 4096 - escape
    return f[byte], sum(f[b] for b in f if b < byte)


def as_bytes(bits: str) -> bytes:
    """A string of 0 and 1, the first the lowest bit of the first byte."""
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def unary(v: list[int], k: int) -> bytes:
    return as_bytes("".join("0" * (x >> k) + "1" for x in v))


def fields(v: list[int], k: int) -> bytes:
    return as_bytes("".join(str(x >> i & 1) for x in v for i in range(k)))


def density_step(ones: int, nbytes: int) -> int:
    return min(max(int(Fraction(16 * ones, nbytes) + Fraction(1, 2)), 1), 127)


def rans(U: bytes, ones: int) -> bytes:
    """Length, states, words and rare bytes."""
    q = density_step(ones, len(U))
    state, words = [LOW] * 4, []
    for j in reversed(range(len(U))):
        f, start = symbol(q, U[j])
        x = state[j % 4]
        while x >= f << 20:
            words.insert(0, x % LOW)
            x //= LOW
        state[j % 4] = x // f * 4096 + x % f + start
    rare = bytes(b for b in reversed(U) if b in model(q)[1])
    return struct.pack(f"<5I{len(words)}H", len(U), *state, *words) + rare


def chunk(t: Sequence[int]) -> tuple[int, int, int, bytes]:
    """Codec, k, count and bytes of one chunk."""
    v, gap = [], 0
    for x in t:
        if x:
            v.append(2 * gap + (x < 0))
        gap = 0 if x else gap + 1
    if not v:
        return 0, 0, 0, b""
    best = min(range(1, 24), key=lambda k: sum((x >> k) + 1 + k for x in v))
    less = max(best - 1, 1) if 12 * len(v) < len(t) else 1
    plain = unary(v, best) + fields(v, best)
    coded = rans(unary(v, less), len(v)) + fields(v, less)
    return (2, less, len(v), coded) if len(coded) < len(plain) else (1, best, len(v), plain)


def assembled(n: int, shift: int, rows: list[tuple[int, int, int]], parts: list[bytes]) -> bytes:
    """A payload of chunks with these codecs, k and counts, every checksum right."""
    words = [
        (count | k << 24 | codec << 29, len(part), zlib.crc32(part))
        for (codec, k, count), part in zip(rows, parts, strict=True)
    ]
    table = b"".join(struct.pack("<3I", *row) for row in words)
    header = struct.pack("<4sBBHQ", b"DTTC", 1, shift, 0, n)
    return header + struct.pack("<I", zlib.crc32(header + table)) + table + b"".join(parts)


def taken_apart(payload: bytes) -> tuple[int, int, list[tuple[int, int, int]], list[bytes]]:
    """What ``assembled`` would make this payload of."""
    n, shift = struct.unpack_from("<Q", payload, 8)[0], payload[5]
    number = -(-n // (1 << 16 + shift))
    at, rows, parts = HEAD + ROW * number, [], []
    for i in range(number):
        first, length, _ = struct.unpack_from("<3I", payload, HEAD + ROW * i)
        rows.append((first >> 29, first >> 24 & 31, first & 0xFFFFFF))
        parts.append(payload[at : at + length])
        at += length
    return n, shift, rows, parts


def encode(t: Sequence[int]) -> bytes:
    """The payload of elements -1, 0, +1."""
    n, nonzeros = len(t), sum(x != 0 for x in t)
    shift = next(s for s in range(7) if s == 6 or nonzeros * 2 ** (16 + s) >= 5120 * n)
    size = 1 << 16 + shift
    chunks = [chunk(t[i : i + size]) for i in range(0, n, size)]
    return assembled(n, shift, [c[:3] for c in chunks], [c[3] for c in chunks])
