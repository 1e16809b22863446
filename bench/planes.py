"""Ternary planes against dense vectors in torch, and exact selection by counting against partition and sort.

    votes      TIES of 8 vectors of 20M entries at density 0.2: equal scales to a ternary result, weights to a dense
               one; peers: the formula as mergekit and peft state it (temporaries of all vectors), and the same in
               blocks that stay in the cache
    products   inner product of two vectors; of every two of the 8; of one gradient with all 8
    sums       theta + sum_i c_i t_i
    selection  threshold and planes of the k largest of 20M float32, at seven densities; peers: np.partition (with the
               same planes made from it), and the full argsort of mergekit's trimming

Results are compared, too: rows in "entries" count those that differ. The limit is the time to move the bytes that have
to be read and written, at the rate of a plain copy measured here; what fits the cache may beat it.

    python bench/planes.py [--json] [--repeat 5] [--quick] [--only NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _measure import Row, compare, cpu_seconds, interleaved, main
from torch import Tensor

from dtheta.core.plane_products import agreements, dot, dots
from dtheta.core.plane_sums import add_scaled
from dtheta.core.plane_ties import ties_dense
from dtheta.core.plane_votes import ties
from dtheta.core.planes import Planes
from dtheta.core.topk import select, threshold

VECTORS = 8
DENSITIES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
PARTS = ("votes", "products", "sums", "selection")


def drawn(n: int, seed: int) -> Tensor:
    """Return a heavy-tailed vector (n,), like the entries of a task vector."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=draw) * torch.randn(n, generator=draw).abs().add_(0.1) * 1e-3


def copy_rate(n: int) -> float:
    """Return the bytes that a copy reads and writes in a CPU second."""
    source, target = torch.ones(n), torch.empty(n)
    return 8.0 * n / interleaved({"copy": lambda: target.copy_(source)}, 5)["copy"]


def dense(planes: list[Planes], scales: list[float], dtype: torch.dtype) -> Tensor:
    """Return the scaled vectors as one dense tensor (8, n)."""
    return torch.stack([torch.from_numpy(p.to_signs()).to(dtype) * s for p, s in zip(planes, scales, strict=True)])


def torch_ties(x: Tensor, weights: Tensor) -> Tensor:
    """TIES as mergekit and peft state it: elect by the weighted sum, average over the entries that agree, (n,)."""
    weighted = x * weights[:, None]
    elected = (weighted.sum(0) >= 0) * 2 - 1
    agrees = weighted.sign() == elected
    return (weighted * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def blocked_ties(x: Tensor, weights: Tensor, block: int = 1 << 14) -> Tensor:
    """The same, in blocks whose temporaries stay in the cache."""
    return torch.cat([torch_ties(part, weights) for part in x.split(block, dim=1)])


def exact_ties(planes: list[Planes], scales: list[float], weights: list[float]) -> Tensor:
    """Return the formula entry by entry in float64, sums in the order of the vectors, rounded to float32 at the end."""
    found = []
    for start in range(0, planes[0].length, 1 << 20):
        parts = [p.part(start, min(start + (1 << 20), p.length)) for p in planes]
        x = [w * s * torch.from_numpy(p.to_signs()).double() for w, s, p in zip(weights, scales, parts, strict=True)]
        elected = (sum(x) >= 0) * 2.0 - 1  # type: ignore[operator]
        total = sum(entry * (entry.sign() == elected) for entry in x)
        count = sum((entry.sign() == elected).double() for entry in x)
        found.append((total / count.clamp(min=1)).float())  # type: ignore[union-attr, operator]
    return torch.cat(found)


def agree(name: str, a: Tensor, b: Tensor) -> Row:
    """Return the row that counts the entries in which two vectors differ; none may."""
    differ = int((a != b).sum())
    return Row(name, differ, 0, "entries", None, 0, 0, differ == 0, f"of {a.numel()}")


def votes(n: int, repeat: int, rate: float) -> Iterator[Row]:
    """TIES."""
    planes = [select(drawn(n, seed), density=0.2) for seed in range(VECTORS)]
    scale, title = 2.0**-9, f"TIES, {VECTORS} x {n / 1e6:g}M"
    x, ones = dense(planes, [scale] * VECTORS, torch.float32), torch.ones(VECTORS)
    seconds = interleaved({"ours": lambda: ties(planes), "blocked": lambda: blocked_ties(x, ones)}, repeat)
    peer = cpu_seconds(lambda: torch_ties(x, ones))
    limit = (VECTORS + 1) * n / 4 / rate
    ternary = f"{title}, equal scales to ternary"
    note = "the peer ran once; a scale whose sums do not round"
    yield compare(ternary, seconds["ours"], peer, "CPU s", goal=100, limit=limit, note=note)
    yield compare(f"{ternary}, peer in blocks", seconds["ours"], seconds["blocked"], "CPU s", limit=limit)
    yield agree(f"{ternary}: result", torch.from_numpy(ties(planes).to_signs()) * scale, torch_ties(x, ones))
    store = f"{sum(p.nbytes for p in planes) / 1e6:g} MB of planes"
    yield compare(f"{title}: store", sum(p.nbytes for p in planes), x.nbytes, "bytes", goal=16, note=store)
    yield from weighted(planes, x, title, repeat, rate)


def weighted(planes: list[Planes], x: Tensor, title: str, repeat: int, rate: float) -> Iterator[Row]:
    """TIES of different scales and weights."""
    n = planes[0].length
    weights, scales = [0.1 * (i + 3) for i in range(VECTORS)], [1e-3 * (i + 7) for i in range(VECTORS)]
    for i, scale in enumerate(scales):
        x[i].sign_().mul_(scale)
    run: dict[str, Callable[[], Any]] = {
        "ours": lambda: ties_dense(planes, scales, weights),
        "blocked": lambda: blocked_ties(x, torch.tensor(weights)),
    }
    seconds = interleaved(run, repeat)
    peer = cpu_seconds(lambda: torch_ties(x, torch.tensor(weights)))
    limit, name = (VECTORS * n / 4 + 4 * n) / rate, f"{title}, weights to float32"
    note = "ours sums in float64, the peer in float32"
    yield compare(name, seconds["ours"], peer, "CPU s", goal=10, limit=limit, note=note)
    yield compare(f"{name}, peer in blocks", seconds["ours"], seconds["blocked"], "CPU s", limit=limit)
    found = torch.from_numpy(ties_dense(planes, scales, weights))
    yield agree(f"{name}: result", found, exact_ties(planes, scales, weights))


def products(n: int, repeat: int, rate: float) -> Iterator[Row]:
    """Inner products."""
    planes = [select(drawn(n, seed), density=0.2) for seed in range(VECTORS)]
    x, gradient = dense(planes, [1.0] * VECTORS, torch.float32), drawn(n, 99)
    half, gradient_half = x.half(), gradient.half()
    seconds = interleaved(
        {
            "dot": lambda: dot(planes[0], planes[1]),
            "torch.dot": lambda: torch.dot(x[0], x[1]),
            "pairs": lambda: agreements(planes),
            "torch pairs": lambda: [torch.dot(x[i], x[j]) for i in range(VECTORS) for j in range(i, VECTORS)],
            "dots": lambda: dots(gradient, planes),
            "fp32": lambda: [torch.dot(gradient, one) for one in x],
            "fp16": lambda: [torch.dot(gradient_half, one) for one in half],
        },
        repeat,
    )
    title = f"{n / 1e6:g}M"
    note = "from memory, so 1 to 16 bytes"
    name = f"dot of two vectors, {title}"
    yield compare(name, seconds["dot"], seconds["torch.dot"], "CPU s", limit=n / 2 / rate, note=note)
    limit, name = VECTORS * n / 4 / rate, f"dots of every two of {VECTORS} x {title}"
    yield compare(name, seconds["pairs"], seconds["torch pairs"], "CPU s", goal=15, limit=limit, note="exact")
    limit, name = (4 * n + VECTORS * n / 4) / rate, f"dots of a gradient with {VECTORS} x {title}"
    yield compare(name, seconds["dots"], seconds["fp32"], "CPU s", goal=1, limit=limit, note="ours sums in float64")
    yield compare(f"{name}, peer fp16", seconds["dots"], seconds["fp16"], "CPU s", limit=limit)


def sums(n: int, repeat: int, rate: float) -> Iterator[Row]:
    """Composition."""
    planes = [select(drawn(n, seed), density=0.2) for seed in range(VECTORS)]
    theta, factors = drawn(n, 99), [1e-4 * (i + 1) for i in range(VECTORS)]
    x = dense(planes, [1.0] * VECTORS, torch.float32)
    half, theta_half, out = x.half(), theta.half(), torch.empty_like(theta)

    def torch_sum(start: Tensor, vectors: Tensor) -> Tensor:
        total = start.clone()
        for one, c in zip(vectors, factors, strict=True):
            total.add_(one, alpha=c)
        return total

    seconds = interleaved(
        {
            "ours": lambda: add_scaled(theta, planes, factors, out=out),
            "fp32": lambda: torch_sum(theta, x),
            "fp16": lambda: torch_sum(theta_half, half),
        },
        repeat,
    )
    limit, name = (8 * n + VECTORS * n / 4) / rate, f"theta + sum of {VECTORS} x {n / 1e6:g}M"
    yield compare(name, seconds["ours"], seconds["fp32"], "CPU s", goal=1, limit=limit)
    yield compare(f"{name}, peer fp16", seconds["ours"], seconds["fp16"], "CPU s", limit=limit)
    yield agree(f"{name}: result", out, torch_sum(theta, x))


def partitioned(values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Threshold by np.partition, and planes from it; entries equal to the threshold are all kept."""
    magnitude = np.abs(values)
    mask = magnitude >= np.partition(magnitude, values.size - k)[values.size - k]
    return np.packbits(mask & (values > 0), bitorder="little"), np.packbits(mask & (values < 0), bitorder="little")


def sorted_out(values: Tensor, k: int) -> Tensor:
    """Trimming as mergekit does it: a mask at the first k places of a full argsort."""
    mask = torch.zeros_like(values)
    mask[torch.argsort(values.abs(), descending=True)[:k]] = 1
    return values * mask


def selection(n: int, repeat: int, rate: float) -> Iterator[Row]:
    """Threshold and planes of the k largest."""
    values = drawn(n, 0)
    array, limit = values.numpy(), rate / (4 + 0.25) / 1e6
    for density in DENSITIES:
        k = threshold(values, density=density).count
        run: dict[str, Callable[[], Any]] = {
            "ours": lambda density=density: select(values, density=density),
            "threshold": lambda density=density: threshold(values, density=density),
            "partition": lambda k=k: partitioned(array, k),
        }
        seconds = interleaved(run, repeat)
        ours, alone, peer = (n / seconds[name] / 1e6 for name in ("ours", "threshold", "partition"))
        name, note = f"top-k at {density:.1%} of {n / 1e6:g}M", f"threshold alone {alone:.0f}; peer np.partition"
        yield compare(name, ours, peer, "M/s", goal=1, limit=limit, larger_is_better=True, note=note)
        yield compare(f"{name} against 100 M/s", ours, 100, "M/s", goal=1, larger_is_better=True)
        if density == 0.2:
            sort = n / cpu_seconds(lambda k=k: sorted_out(values, k)) / 1e6
            note = "the peer ran once"
            yield compare(f"{name}, peer argsort", ours, sort, "M/s", goal=10, larger_is_better=True, note=note)
            kept = torch.from_numpy(select(values, k).to_signs())
            yield agree(f"{name}: result", kept.float(), sorted_out(values, k).sign())


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    n = 2_000_000 if arguments.quick else 20_000_000
    rate = copy_rate(n)
    for part in (votes, products, sums, selection):
        if arguments.only in (None, part.__name__):
            yield from part(n, arguments.repeat, rate)


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--quick", action="store_true", help="2M entries")
    parser.add_argument("--only", choices=PARTS, help="one part only")


if __name__ == "__main__":
    main("Ternary planes", measure, packages=("torch", "numpy", "numba"), options=options)
