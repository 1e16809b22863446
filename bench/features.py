"""Random features: mean squared error of f(w.x) over the variance of f, by draws, projection and norm; 1 is ignorance.

    peer   independent rows, balance 1, A = 0, tilt 0; for gelu antithetic, as its variance is infinite otherwise
    ours   `features_of`: balance, tilt and A for the batch; with orthogonal and with Sobol rows, and with -g beside g
           at half the draws, so that all have one width

64 inputs, 64 x 64 pairs of random directions, medians over seeds; the note has the peer's variance by its formula.

    python bench/features.py [--json] [--repeat 9]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace

import torch
from _measure import Row, compare, main
from torch import Tensor

from dtheta.core.features import RandomFeatures, features_of
from dtheta.core.seeds import generator

INPUTS, PAIRS = 64, 64
NORMS, COUNTS = (0.25, 0.5, 1.0), (64, 256, 1024)


def directions(name: str) -> Tensor:
    found = torch.randn(PAIRS, INPUTS, generator=generator(0, name), dtype=torch.float64)
    return found / found.norm(dim=1, keepdim=True)


def error(features: RandomFeatures, x: Tensor, W: Tensor, seeds: int) -> float:
    exact = features.kernel(x, W)
    errors = []
    for seed in range(seeds):
        drawn = replace(features, seed=seed)
        errors.append((drawn.phi(x) @ drawn.psi(W).mT - exact).square().mean())
    return float(torch.stack(errors).median() / exact.var())


def contestants(function: str, x: Tensor, W: Tensor, count: int) -> Iterator[tuple[str, RandomFeatures]]:
    tuned = features_of(function, x, W, count)
    for projection in ("gaussian", "orthogonal", "sobol"):
        yield f"tuned, {projection}", replace(tuned, projection=projection)
    if not tuned.antithetic:
        for projection in ("orthogonal", "sobol"):
            yield f"antithetic, {projection}", replace(tuned, projection=projection, antithetic=True, count=count // 2)


def measure(arguments: argparse.Namespace) -> Iterator[Row]:
    """Yield all rows."""
    for function in ("sin", "exp", "gelu", "tanh"):
        for norm in NORMS:
            x, W = norm * directions("x"), norm * directions("w")
            for count in COUNTS:
                plain = RandomFeatures(function, INPUTS, count)
                peer = error(plain, x, W, arguments.repeat)
                formula = float(plain.variance(x, W).mean() / plain.kernel(x, W).var())
                for name, features in contestants(function, x, W, count):
                    ours = error(features, x, W, arguments.repeat)
                    title, note = f"{function}, norm {norm}, {count} draws: {name}", f"peer by formula {formula:.3g}"
                    yield compare(title, ours, peer, "relative MSE", note=note)


if __name__ == "__main__":
    main("Random features: errors of estimates", measure, repeat=9)
