"""Compressing a delta of 20 million entries: against the released code's steps in plain torch, one thread, CPU time.

rate          threshold, signs and scale (alpha-sigma and mean-abs) to a finished ternary delta
with coding   the same, and the bytes that a file stores
size          bits an entry against the entropy of independent signs of that density, and against float16

The reference does what the released code does: one flat vector in the order of the keys, ``kthvalue`` of all
magnitudes, a mask of all that is not smaller, sign times alpha times the standard deviation, cut into tensors again. It
leaves dense float32 tensors and codes nothing. A second reference takes ``topk`` in place of ``kthvalue``.

python bench/compress.py [--json] [--repeat 5] [--entries 20]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from _measure import Row, compare, interleaved, main
from torch import Tensor

from dtheta.compress.compeft import compress
from dtheta.compress.report import compression_report, stored_bytes
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator

GOAL = 100.0  # million entries a second and core, threshold included


def task_vector(millions: int) -> dict[str, Tensor]:
    """Return normal entries in tensors of 1000 x 1000."""
    return {
        f"layer.{i:03}.weight": 1e-3 * torch.randn(1000, 1000, generator=generator(0, "bench/compress", i))
        for i in range(millions)
    }


def released(tensors: dict[str, Tensor], density: float, alpha: float, by_topk: bool = False) -> dict[str, Tensor]:
    """Return the dense ternary tensors of the released procedure."""
    flat = torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])
    sigma, size = flat.std(), flat.abs()
    count = int(flat.numel() * density)
    if by_topk:
        bound = size.topk(count, sorted=False).values.min()
    else:
        bound = size.kthvalue(flat.numel() - count).values
    ternary = torch.where(size >= bound, flat.sign(), 0.0) * (alpha * sigma)
    parts = ternary.split([tensors[name].numel() for name in sorted(tensors)])
    return {name: part.reshape(tensors[name].shape) for name, part in zip(sorted(tensors), parts, strict=True)}


def at(density: float, tensors: dict[str, Tensor], delta: Delta, repeat: int) -> Iterator[Row]:
    """Yield the rows of one density."""
    millions = delta.numel / 1e6
    seconds = interleaved(
        {
            "mean-abs": lambda: compress(delta, density),
            "sigma": lambda: compress(delta, density, "alpha-sigma"),
            "coded": lambda: stored_bytes(compress(delta, density)),
            "kthvalue": lambda: released(tensors, density, 1.0),
            "topk": lambda: released(tensors, density, 1.0, by_topk=True),
        },
        repeat,
    )
    rate = {name: millions / taken for name, taken in seconds.items()}
    what, unit = f"density {density:g}", "M entries/s"
    for name, label in (("sigma", "alpha-sigma"), ("mean-abs", "mean-abs")):
        title = f"{what}: {label}, against kthvalue"
        yield compare(title, rate[name], rate["kthvalue"], unit, goal=1.0, larger_is_better=True)
    title = f"{what}: alpha-sigma, against topk"
    yield compare(title, rate["sigma"], rate["topk"], unit, goal=1.0, larger_is_better=True)
    title = f"{what}: mean-abs, against {GOAL:g} M/s"
    yield compare(title, rate["mean-abs"], GOAL, unit, goal=1.0, larger_is_better=True)
    title = f"{what}: mean-abs and coding, against {GOAL:g} M/s"
    yield compare(title, rate["coded"], GOAL, unit, goal=1.0, larger_is_better=True)
    yield from sizes(density, delta)


def sizes(density: float, delta: Delta) -> Iterator[Row]:
    """Yield the rows on size; ``limit`` is the entropy."""
    report = compression_report(delta, compress(delta, density))
    above = report.bits / report.entropy - 1
    title, note = f"density {density:g}: bits an entry", f"{100 * above:.2f} % above the entropy"
    yield compare(title, report.bits, 1.01 * report.entropy, "bits", goal=1.0, limit=report.entropy, note=note)
    title = f"density {density:g}: bytes, against float16"
    note = f"relative error {report.relative_error:.3f}, cosine {report.cosine:.3f}"
    yield compare(title, report.nbytes, 2.0 * delta.numel, "bytes", note=note)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    tensors = task_vector(arguments.entries)
    delta = Delta({name: Dense(tensor) for name, tensor in tensors.items()})
    for density in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
        yield from at(density, tensors, delta, arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--entries", type=int, default=20, help="millions of entries, default 20")


if __name__ == "__main__":
    main("Compressing a delta", measure, packages=("torch", "numba"), options=options)
