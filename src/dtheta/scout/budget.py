"""One budget of movement for all methods: what ranks them.

    f = m + k_xX (rho K_head + K_moves + p)^-1 (Y - m),   K_moves = sum over trained factors of J J^T / u
    u = E |dW|^2 / |d theta|^2                           how far a factor's move displaces its weight

Tuned each for itself, kernels of few directions look as good as those of many: any of them fits if it may move far
enough, but the network leaves its linear model on the way. So all methods are given the same penalty on the squared
displacement of the weights, and the same head: the p and rho at which the best of them is best, on the other half of
the examples. Vectors that a method brings (prompts) and biases count as they are, u = 1.

Shape legend: n examples of a half, N of both, M methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dtheta.kernels.dynamics import kernel_dynamics
from dtheta.kernels.leave_one_out import leave_one_out
from dtheta.scout.regression import Half, normed

#: Head over the geometric mean of the methods, by mean diagonal; and penalties over the same.
HEADS = (0.03, 0.3, 3.0, 30.0)
PENALTIES = tuple(float(p) for p in torch.logspace(-3, 1, 9, dtype=torch.float64))


def budgeted(methods: Sequence[Sequence[Half]]) -> list[Tensor]:
    """Return by method the squared errors (N,) of its examples, each left out, at the budget that is common to all."""
    errors = [torch.stack(_tables([halves[i] for halves in methods])) for i in (0, 1)]  # (M, heads x penalties, n)
    chosen = [one.mean(2).amin(0).argmin() for one in errors]
    return [torch.cat([errors[0][m, chosen[1]], errors[1][m, chosen[0]]]) for m in range(len(methods))]


def _tables(halves: Sequence[Half]) -> list[Tensor]:
    """Return by method the errors at every choice (heads x penalties, n)."""
    sizes = [size for half in halves if (size := float(half.moves.diagonal().mean())) > 0]
    unit = math.exp(sum(map(math.log, sizes)) / len(sizes)) if sizes else 1.0
    return [_table(half, unit) for half in halves]


def _table(half: Half, unit: float) -> Tensor:
    rows = []
    for head in HEADS:
        kernel = head * normed(half.head) + half.moves / unit
        dynamics = kernel_dynamics(kernel, half.target, half.prior, average="examples")
        rows += [leave_one_out(dynamics, penalty=p).residuals.square().sum(1) for p in PENALTIES]
    return torch.stack(rows)
