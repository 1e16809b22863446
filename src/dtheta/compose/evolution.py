"""Evolution: minimize a function of a few numbers by its values alone, with a normal distribution that adapts.

    x_k ~ m + s N(0, C),  k = 1..lambda;   m, C and s move towards the better half of what was drawn

The covariance matrix adaptation evolution strategy (CMA-ES) with the default constants of Hansen's tutorial (2016,
arXiv 1604.00772, with rank-one and rank-mu updates of C and the cumulative path for s). What is drawn outside of the
bounds is moved to the nearest point inside and counts as drawn there. Every draw comes from the seed.

It takes values only, so it suits functions of tens of numbers, a few hundred times evaluated; where gradients can be
had they need fewer.

Shape legend: n numbers, L = lambda draws a generation, u = L/2 kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dtheta.core.seeds import generator

Vector = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Found:
    """The best point of a search.

    Attributes:
        point: (n,) float64.
        value: Of the function there.
        generations: Best value until after each generation; number 0 is the start.
        best: In which generation the best point was found.
        evaluations: How often the function was called.
    """

    point: Vector
    value: float
    generations: tuple[float, ...]
    best: int
    evaluations: int


def minimize(
    function: Callable[[Vector], float], start: Vector, spread: float, evaluations: int, seed: int, bound: float
) -> Found:
    """Search from ``start``, which counts as the first evaluation; the result is never worse than it.

    Args:
        function: (n,) float64 -> a finite number.
        start: (n,), inside of the bounds.
        spread: Standard deviation of the first draws.
        evaluations: Most calls of the function.
        seed: Key of the draws.
        bound: Largest magnitude of each number.
    """
    best = np.asarray(start, np.float64).copy()
    value, at, calls = function(best), 0, 1
    history = [value]
    strategy = _Strategy(best.copy(), spread)
    while calls < evaluations:
        drawn_Ln = strategy.draw(seed, len(history))[: evaluations - calls]
        drawn_Ln = np.clip(drawn_Ln, -bound, bound)
        values_L = np.array([function(x.copy()) for x in drawn_Ln])
        calls += len(drawn_Ln)
        if values_L.min() < value:
            first = int(values_L.argmin())
            best, value, at = drawn_Ln[first].copy(), float(values_L[first]), len(history)
        history.append(value)
        if len(drawn_Ln) == strategy.size:
            strategy.learn(drawn_Ln[values_L.argsort(kind="stable")])
    return Found(best, value, tuple(history), at, calls)


class _Strategy:
    """Mean, step and covariance of the draws; names and constants as in the tutorial."""

    def __init__(self, mean: Vector, spread: float) -> None:
        n = mean.size
        self.mean, self.step, self.C = mean, spread, np.eye(n)
        self.path, self.step_path, self.age = np.zeros(n), np.zeros(n), 0
        self.size = 4 + int(3 * math.log(n))
        weights = math.log((self.size + 1) / 2) - np.log(np.arange(1, self.size // 2 + 1))
        self.weights = weights / weights.sum()
        self.mass = mass = 1 / float((self.weights**2).sum())
        self.c_step = (mass + 2) / (n + mass + 5)
        self.damping = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + self.c_step
        self.c_path = (4 + mass / n) / (n + 4 + 2 * mass / n)
        self.c_one = 2 / ((n + 1.3) ** 2 + mass)
        self.c_many = min(1 - self.c_one, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
        self.length = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # of a standard normal vector, on average

    def draw(self, seed: int, generation: int) -> Vector:
        """Return (L, n) points."""
        draw = generator(seed, "evolution", generation)
        normal_Ln = torch.randn(self.size, self.mean.size, generator=draw, dtype=torch.float64, device="cpu")
        values, self.axes = np.linalg.eigh(self.C)
        self.lengths = np.sqrt(np.maximum(values, 1e-300))
        return self.mean + self.step * (normal_Ln.numpy() * self.lengths) @ self.axes.T

    def learn(self, sorted_Ln: Vector) -> None:
        """Move towards the first half of points, which are the better ones."""
        moves_un = (sorted_Ln[: self.weights.size] - self.mean) / self.step
        move = self.weights @ moves_un
        self.mean = self.mean + self.step * move
        self.age += 1
        white = self.axes @ ((self.axes.T @ move) / self.lengths)
        self.step_path *= 1 - self.c_step
        self.step_path += math.sqrt(self.c_step * (2 - self.c_step) * self.mass) * white
        norm = float(np.linalg.norm(self.step_path))
        expected = math.sqrt(1 - (1 - self.c_step) ** (2 * self.age)) * self.length
        slow = norm < (1.4 + 2 / (move.size + 1)) * expected
        self.path *= 1 - self.c_path
        self.path += slow * math.sqrt(self.c_path * (2 - self.c_path) * self.mass) * move
        lost = 0.0 if slow else self.c_one * self.c_path * (2 - self.c_path)
        self.C *= 1 - self.c_one - self.c_many + lost
        self.C += self.c_one * np.outer(self.path, self.path)
        self.C += self.c_many * (moves_un * self.weights[:, None]).T @ moves_un
        self.step *= math.exp(min(1.0, self.c_step / self.damping * (norm / self.length - 1)))
