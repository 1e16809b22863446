"""Truncated SVD: against the fast SVD of PiSSA as peft runs it (torch.svd_lowrank, niter=16) and the full SVD of torch.

    real weights   every linear weight of MiniLM and SmolLM2-135M, r = 64: CPU time of factoring the whole model
    4096 x 4096    r = 128, fast mode and exact mode, on a slowly decaying spectrum that is known exactly
    second time    the same MiniLM and SmolLM2 factors from the disk cache

Errors are max_i |s_i - sigma_i| / sigma_i; the excess is |W - U S V^T|_F over its optimum, minus 1; the angle is the
sine of the largest angle between the leading r/2 left vectors found and the true ones' span.

    python bench/svd.py [--json] [--repeat 5] [--quick] [--only NAME]
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from _measure import Row, compare, cpu_seconds, interleaved, main, product_rate
from torch import Tensor

from dtheta.core.factors import cached_svds
from dtheta.core.svd import TruncatedSVD, truncated_svd


def linear_weights(name: str) -> dict[str, Tensor]:
    """Return the linear weights of the attention and MLP blocks of a packaged model."""
    from dtheta.models.load import load_model

    layers = ("layer.", "layers.")
    state = load_model(name).state_dict()
    return {n: w for n, w in state.items() if w.ndim == 2 and any(part in n for part in layers)}


def peer_svd(weight: Tensor, rank: int) -> TruncatedSVD:
    """What peft calls for ``pissa_niter_16``."""
    U, S, V = torch.svd_lowrank(weight, q=rank, niter=16)
    return TruncatedSVD(U, S, V.mT, math.nan, math.nan, "svd_lowrank")


def value_error(found: TruncatedSVD, sigma: Tensor) -> float:
    """Largest relative error of a singular value."""
    true = sigma[: found.rank].double()
    return float(((found.S.double() - true).abs() / true).max())


def whole_model(name: str, repeat: int) -> Iterator[Row]:
    """Factor every linear weight, and again from the cache."""
    weights, rank = linear_weights(name), 64
    ours, peer = {}, {}

    def run_ours() -> None:
        ours.update({n: truncated_svd(w, rank) for n, w in weights.items()})

    def run_peer() -> None:
        peer.update({n: peer_svd(w, rank) for n, w in weights.items()})

    seconds = interleaved({"ours": run_ours, "peer": run_peer}, repeat)
    sigma = {n: torch.linalg.svdvals(w.double()) for n, w in weights.items()}
    errors = [max(value_error(found[n], sigma[n]) for n in weights) for found in (ours, peer)]
    estimate = max(found.error for found in ours.values())
    flops = sum(2.0 * w.numel() * (min(w.shape) / 2 + rank) for w in weights.values())  # half a Gram, one projection
    limit = flops / product_rate(1024, 1024, 1024)
    title = f"{name}, {len(weights)} matrices, r=64"
    note = f"estimate {estimate:.0e}; limit: half the Gram and one projection"
    yield compare(title, seconds["ours"], seconds["peer"], "CPU s", goal=2.5, limit=limit, note=note)
    yield compare(f"{title}: error", errors[0], errors[1], "relative", goal=1.0, limit=1e-5)
    yield compare(f"{title}: error against 1e-5", errors[0], 1e-5, "relative", goal=1.0)
    yield second_time(title, weights, rank, repeat)


def second_time(title: str, weights: dict[str, Tensor], rank: int, repeat: int) -> Row:
    """Compare factoring with reading the factors from the cache, the digests of the weights included."""
    before = os.environ.get("DTHETA_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DTHETA_CACHE"] = folder
        try:
            first = cpu_seconds(lambda: cached_svds(weights, rank))
            again = interleaved({"again": lambda: cached_svds(weights, rank)}, max(3, repeat))["again"]
        finally:
            os.environ.pop("DTHETA_CACHE") if before is None else os.environ.update(DTHETA_CACHE=before)
    size = sum(w.numel() * w.element_size() for w in weights.values())
    note = f"first time against the second; hashes {size / 1e6:.0f} MB of weights"
    return compare(f"{title}: from the cache", again, first, "CPU s", goal=50.0, note=note)


@dataclass(frozen=True)
class Known:
    """A matrix whose singular values ``sigma`` and left vectors ``U`` are known."""

    W: Tensor
    sigma: Tensor
    U: Tensor


def known_matrix(m: int, n: int, seed: int = 0) -> Known:
    """Return W (m, n) with sigma_i = i^-0.4, tapered to a tenth, and four outliers."""
    draw = torch.Generator().manual_seed(seed)
    k = min(m, n)
    U = torch.linalg.qr(torch.randn(m, k, generator=draw)).Q
    V = torch.linalg.qr(torch.randn(n, k, generator=draw)).Q
    i = torch.arange(1, k + 1, dtype=torch.float64)
    sigma = i**-0.4 * (1 - 0.9 * (i - 1) / k)
    sigma[:4] *= torch.tensor([4.0, 3.0, 2.5, 2.0], dtype=torch.float64)
    return Known((U * sigma.float()) @ V.mT, sigma, U)


def quality(known: Known, found: TruncatedSVD) -> dict[str, float]:
    """Return error, excess and angle of a result."""
    rest = torch.linalg.vector_norm(known.W - found.dense(), dtype=torch.float64)
    best = float(known.sigma[found.rank :].square().sum()) ** 0.5
    half = known.U[:, : found.rank // 2].double()
    U = torch.linalg.qr(found.U.double()).Q
    angle = torch.linalg.matrix_norm(half - U @ (U.mT @ half), 2)
    return {"error": value_error(found, known.sigma), "excess": float(rest) / best - 1, "angle": float(angle)}


def large(size: int, rank: int, repeat: int) -> Iterator[Row]:
    """Compare fast mode with svd_lowrank, and exact mode with the full SVD."""
    known = known_matrix(size, size)
    ours, peer, exact = [], [], []
    seconds = interleaved(
        {
            "fast": lambda: ours.append(truncated_svd(known.W, rank, accuracy=None)),
            "peer": lambda: peer.append(peer_svd(known.W, rank)),
            "exact": lambda: exact.append(truncated_svd(known.W, rank)),
        },
        repeat,
    )
    full = cpu_seconds(lambda: torch.linalg.svd(known.W, full_matrices=False))
    one_pass = 2.0 * size * size * rank / product_rate(size, size, rank)
    title = f"{size} x {size}, r={rank}"
    note = f"limit: the 2 passes that no method does without; estimate {ours[-1].error:.0e}"
    yield compare(f"{title}: fast", seconds["fast"], seconds["peer"], "CPU s", goal=2.5, limit=2 * one_pass, note=note)
    a, b = quality(known, ours[-1]), quality(known, peer[-1])
    for name in a:  # the angle is the strong side of many power iterations: shown, no goal
        goal = None if name == "angle" else 1.0
        yield compare(f"{title}: fast, {name}", a[name], b[name], "relative", goal=goal)
    note = f"{exact[-1].route}, estimate {exact[-1].error:.0e}; the full SVD ran once"
    yield compare(f"{title}: exact", seconds["exact"], full, "CPU s", goal=5.0, limit=2 * one_pass, note=note)
    yield compare(f"{title}: exact, error", quality(known, exact[-1])["error"], 1e-5, "relative", goal=1.0)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    for name in ("minilm", "smollm2"):
        if arguments.only in (None, name) and not (arguments.quick and name == "smollm2"):
            yield from whole_model(name, arguments.repeat)
    if arguments.only in (None, "large"):
        yield from large(1024 if arguments.quick else 4096, 32 if arguments.quick else 128, min(3, arguments.repeat))


def options(parser: argparse.ArgumentParser) -> None:
    """Add our own options."""
    parser.add_argument("--quick", action="store_true", help="MiniLM and 1024 x 1024 only")
    parser.add_argument("--only", choices=("minilm", "smollm2", "large"), help="one part only")


if __name__ == "__main__":
    main("Truncated SVD", measure, packages=("torch", "peft"), options=options)
