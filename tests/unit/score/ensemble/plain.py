"""Scores as their definitions say, by loops over members, pairs, cells and thresholds: slow, and easy to read."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from dtheta.score.ensemble import Score, Verification


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def scored(metric, forecast: Tensor, truth: Tensor, **given) -> Score:
    """One start of fields without channels."""
    given.setdefault("cells", tuple(truth.shape))
    verification = Verification([metric], **given)
    verification.update(0, 6, forecast, truth)
    return verification.result().score(metric.name, 6)


def crps(x_M: Tensor, y: float, fair: bool) -> float:
    x = x_M.tolist()
    pairs = sum(abs(a - b) for a in x for b in x)
    count = len(x) * (len(x) - 1) if fair else len(x) ** 2
    return sum(abs(a - y) for a in x) / len(x) - pairs / (2 * count)


def crps_by_integral(x_M: Tensor, y: float) -> float:
    """Integral of (F(z) - 1[z >= y])^2 dz, F the step function of the members: exact between its steps."""
    edges = sorted([*x_M.tolist(), y])
    total = 0.0
    for low, high in pairwise(edges):
        share = sum(a <= low for a in x_M.tolist()) / len(x_M)
        total += (high - low) * (share - (low >= y)) ** 2
    return total


def energy(x_MN: Tensor, y_N: Tensor, w_N: Tensor, fair: bool) -> float:
    def norm(e_N: Tensor) -> float:
        return math.sqrt(float((w_N * e_N**2).sum() / w_N.sum()))

    members = len(x_MN)
    pairs = sum(norm(a - b) for a in x_MN for b in x_MN)
    count = members * (members - 1) if fair else members**2
    return sum(norm(a - y_N) for a in x_MN) / members - pairs / (2 * count)


def efi(x_M: Tensor, climate_Q: Tensor) -> float:
    """Piece by piece as F = a + b p between quantiles, by the antiderivative of (p - a - b p) / sqrt(p (1 - p))."""
    q, total = len(climate_Q), 0.0
    share = [float((x_M <= climate_Q[k]).double().mean()) for k in range(q)]

    def whole(p: float, a: float, b: float) -> float:
        arc = math.asin(math.sqrt(p))
        return (1 - b) * (arc - math.sqrt(p * (1 - p))) - 2 * a * arc

    for k in range(q - 1):
        p0, p1 = k / (q - 1), (k + 1) / (q - 1)
        b = (share[k + 1] - share[k]) / (p1 - p0)
        a = share[k] - b * p0
        total += whole(p1, a, b) - whole(p0, a, b)
    return 2 / math.pi * total


def hit_and_false_alarm(score_N: np.ndarray, happened_N: np.ndarray, threshold: float) -> tuple[float, float]:
    warned = score_N >= threshold
    return float(warned[happened_N].mean()), float(warned[~happened_N].mean())


def auc(score_N: np.ndarray, happened_N: np.ndarray) -> float:
    """Mann and Whitney: how often an event has the higher score, ties by half."""
    with_, without = score_N[happened_N], score_N[~happened_N]
    wins = sum((a > without).sum() + 0.5 * (a == without).sum() for a in with_)
    return float(wins / (len(with_) * len(without)))
