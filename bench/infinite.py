"""Infinite kernels: the NTK of 1000 examples by three hidden ReLU layers and a readout, against neural-tangents.

784 inputs, W_std^2 = 2, no biases; CPU time of one thread, ours and the peer in turns
neural-tangents 0.6.5 runs in an environment of its own (see bench/peers/neural_tangents.py), compiled and warm
float32 against float64; any activation by Hermite series against Gauss-Hermite quadrature over two variables

python bench/infinite.py [--json] [--repeat 15] [--peer nt-venv/bin/python]
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from _measure import Row, compare, cpu_seconds, interleaved, main, product_rate
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.kernels.infinite import Elementwise, Relu, fully_connected, infinite_kernel

EXAMPLES, INPUTS = 1000, 784
SPEC = fully_connected(4, Relu(), math.sqrt(2))
SCRIPT = Path(__file__).parent / "peers" / "neural_tangents.py"


def inputs(dtype: torch.dtype) -> Tensor:
    return torch.randn(EXAMPLES, INPUTS, generator=generator(0, "infinite")).to(dtype)


@contextmanager
def neural_tangents(python: str | None, dtype: torch.dtype) -> Iterator[Callable[[], float] | None]:
    """Give a function that returns the CPU seconds of one call in the peer's own environment."""
    if python is None:
        yield None
        return
    command = [python, str(SCRIPT), "time", *(["--float64"] if dtype == torch.float64 else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        ready = process.stdout.readline()
        if ready != "\n":
            raise SystemExit(f"{' '.join(command)} did not start; see {SCRIPT}")

        def call() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(process.stdout.readline())

        yield call
        process.stdin.close()


def whole(python: str | None, dtype: torch.dtype, repeat: int) -> Iterator[Row]:
    """Time the whole kernel in turns with the peer."""
    x, kind = inputs(dtype), str(dtype).removeprefix("torch.")
    ours, theirs = [], []
    with neural_tangents(python, dtype) as peer:
        for round_ in range(repeat + 2):
            seconds = cpu_seconds(lambda: infinite_kernel(SPEC, x, dtype=dtype))
            other = peer() if peer is not None else math.nan
            if round_ >= 2:
                ours.append(seconds)
                theirs.append(other)
    mine, limit = statistics.median(ours), EXAMPLES**2 * INPUTS / product_rate(EXAMPLES, INPUTS, EXAMPLES)
    title = f"NTK {EXAMPLES} x {EXAMPLES}, {INPUTS}-d, 3 hidden ReLU layers, {kind}"
    single = dtype == torch.float32
    if single:
        note = "limit: the products of half of all pairs of inputs"
        yield compare(f"{title}: against 60 ms", mine, 0.06, "CPU s", goal=1.0, limit=limit, note=note)
    if python is not None:
        their = statistics.median(theirs)
        note = f"{mine / their:.2f} of its time; least of {repeat}: {min(ours):.4f} and {min(theirs):.4f} s"
        yield compare(f"{title}: neural-tangents", mine, their, "CPU s", goal=2.5 if single else None, note=note)


def accuracy() -> Row:
    """Compare float32 with float64, against the 4e-4 of the formula by acos."""
    x = inputs(torch.float64)
    double, single = (infinite_kernel(SPEC, x, dtype=dtype) for dtype in (torch.float64, torch.float32))
    error = float(((single.double() - double).abs() / double.abs()).max())
    return compare("the same, float32: largest relative error", error, 4e-4, "relative", goal=10.0)


def quadrature(c: Tensor, p: Tensor, q: Tensor, nodes: int) -> Tensor:
    """E[tanh(u) tanh(v)] by a call of tanh a node and pair."""
    x, weight = (torch.from_numpy(v) for v in np.polynomial.hermite.hermgauss(nodes))
    total, spread = torch.zeros_like(c), (2 * (q - c * c / p)).clamp(min=0).sqrt()
    for i in range(nodes):
        left = torch.tanh((2 * p).sqrt() * x[i])
        for j in range(nodes):
            total += weight[i] * weight[j] / math.pi * left * torch.tanh(c * (2 / p).sqrt() * x[i] + spread * x[j])
    return total


def any_function(repeat: int) -> Iterator[Row]:
    """Compare the dual of tanh by series with 25 x 25 nodes of quadrature."""
    x = inputs(torch.float64)[:256] * 1.2
    c = x @ x.mT / INPUTS
    p, q = c.diagonal()[:, None].clone(), c.diagonal()[None].clone()
    layer = Elementwise(torch.tanh)
    seconds = interleaved(
        {"ours": lambda: layer.dual(c, p, q, False), "peer": lambda: quadrature(c, p, q, 25)}, min(repeat, 5)
    )
    yield compare("dual of tanh, 256 x 256: 25 x 25 nodes", seconds["ours"], seconds["peer"], "CPU s", goal=5.0)
    exact = quadrature(c, p, q, 100)
    errors = [float((v - exact).abs().max()) for v in (layer.dual(c, p, q, False)[0], quadrature(c, p, q, 25))]
    yield compare("dual of tanh, 256 x 256: largest error", errors[0], errors[1], "absolute", goal=1.0)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    for dtype in (torch.float32, torch.float64):
        yield from whole(arguments.peer, dtype, arguments.repeat)
    yield accuracy()
    yield from any_function(arguments.repeat)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with neural-tangents; default none")


if __name__ == "__main__":
    main("Infinite kernels", measure, repeat=15, options=options)
