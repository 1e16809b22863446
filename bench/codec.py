"""The codec of ternary vectors: size against the entropy, and rates on one core, beside zlib (level 6) on the planes.

    data    independent elements, nonzero with probability p, signs at random; p = .5, 1, 2, 5, 10, 20, 50 %
    H       - p log2 p - (1 - p) log2 (1 - p) + p of the density drawn, in bits an element
    rates   elements a CPU second, from planes to bytes and from bytes to planes, or to int8; checksums included

The limit of a size is H; of a rate, a copy of the planes (or filling as many int8) into new memory. zlib gives planes
only, so its rate stands beside int8 too, without the step that it lacks.

    python bench/codec.py [--json] [--repeat 5] [--quick] [--elements 20000000]
"""

from __future__ import annotations

import argparse
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from _measure import Row, compare, interleaved, main
from numpy.typing import NDArray

from dtheta.core.codec.payload import decode, decode_int8, decode_range, encode

DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Sample:
    """A vector of n elements as planes, and the entropy of its density in bits an element."""

    mask: NDArray[np.uint8]
    negative: NDArray[np.uint8]
    n: int
    entropy: float


def sample(p: float, n: int) -> Sample:
    """Draw a vector."""
    draw = np.random.default_rng(0)
    kept = draw.random(n, np.float32) < p
    mask = np.packbits(kept, bitorder="little")
    negative = mask & draw.integers(0, 256, len(mask), np.uint8)
    d = float(np.count_nonzero(kept)) / n
    return Sample(mask, negative, n, -d * math.log2(d) - (1 - d) * math.log2(1 - d) + d)


def sizes(title: str, s: Sample, ours: int, peer: int) -> Iterator[Row]:
    """Compare bytes with the entropy, and with zlib."""
    bits = 8 * ours / s.n
    note = f"{bits / s.entropy:.4f} of H; {16 / bits:.1f}x smaller than 16 bits an element"
    yield compare(f"{title}: size", bits, 8 * peer / s.n, "bits/element", limit=s.entropy, note=note)
    yield compare(f"{title}: size against 1.01 H", bits, 1.01 * s.entropy, "bits/element", goal=1.0, limit=s.entropy)


def rates(title: str, s: Sample, repeat: int, goals: bool) -> Iterator[Row]:
    """Compare rates with those of zlib, and with the goals, which are for long vectors."""
    payload, planes = encode(s.mask, s.negative, s.n), np.concatenate([s.mask, s.negative])
    packed = zlib.compress(planes.data, 6)
    yield from sizes(title, s, len(payload), len(packed))
    seconds = interleaved(
        {
            "encode": lambda: encode(s.mask, s.negative, s.n),
            "zlib encode": lambda: zlib.compress(planes.data, 6),
            "decode to planes": lambda: decode(payload, s.n),
            "decode to int8": lambda: decode_int8(payload, s.n),
            "zlib decode": lambda: zlib.decompress(packed),
            "copy": planes.copy,
            "fill": lambda: np.full(s.n, 1, np.int8),
        },
        repeat,
    )
    rate = {name: s.n / taken / 1e9 for name, taken in seconds.items()}
    for name, goal in (("encode", 0.1), ("decode to planes", 1.0), ("decode to int8", 1.0)):
        limit = rate["fill" if name == "decode to int8" else "copy"]
        peer = rate["zlib encode" if name == "encode" else "zlib decode"]
        unit, what = "G elements/s", f"{title}: {name}"
        yield compare(what, rate[name], peer, unit, limit=limit, larger_is_better=True)
        against, wanted = f"{what} against {goal:g}", 1.0 if goals else None
        yield compare(against, rate[name], goal, unit, goal=wanted, limit=limit, larger_is_better=True)


def without_kernels(p: float, n: int) -> Iterator[Row]:
    """Compare the path without a compiler with the compiled one, and its bytes."""
    s = sample(p, n)
    payload = encode(s.mask, s.negative, s.n)
    before, seconds = os.environ.get("DTHETA_NUMBA"), {}
    for path, value in (("compiled", "1"), ("NumPy", "0")):
        os.environ["DTHETA_NUMBA"] = value
        run = {"encode": lambda: encode(s.mask, s.negative, s.n), "decode": lambda: decode(payload, s.n)}
        seconds[path] = interleaved(run, 1 if path == "NumPy" else 3)
    same = bool(np.array_equal(encode(s.mask, s.negative, s.n), payload))
    os.environ.pop("DTHETA_NUMBA") if before is None else os.environ.update(DTHETA_NUMBA=before)
    for name in ("encode", "decode"):
        ours, peer = (n / seconds[path][name] / 1e9 for path in ("NumPy", "compiled"))
        note = "the same bytes" if same else "OTHER BYTES"
        yield compare(f"{p:.1%}: NumPy alone, {name}", ours, peer, "G elements/s", larger_is_better=True, note=note)


def one_range(p: float, n: int, repeat: int) -> Row:
    """Time a thousand elements out of the middle, against decoding everything."""
    s = sample(p, n)
    payload = encode(s.mask, s.negative, s.n)
    middle = n // 2
    seconds = interleaved(
        {"range": lambda: decode_range(payload, n, middle, middle + 1000), "all": lambda: decode(payload, n)}, repeat
    )
    return compare(f"{p:.1%}: 1000 elements of {n}", seconds["range"], seconds["all"], "CPU s", note="against all")


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    n = 2_000_000 if arguments.quick else arguments.elements
    for p in DENSITIES:
        yield from rates(f"{p:.1%}", sample(p, n), arguments.repeat, not arguments.quick)
    for p in (0.005, 0.1):
        yield one_range(p, n, arguments.repeat)
    yield from without_kernels(0.1, n)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--quick", action="store_true", help="2 million elements, no goals for rates")
    parser.add_argument("--elements", type=int, default=20_000_000, help="length of the vectors, default 20 million")


if __name__ == "__main__":
    main("Codec of ternary vectors", measure, packages=("numpy", "numba"), options=options)
