"""Trimming: what is kept of a step whose elements come range by range.

    magnitude   the k largest, k = max(1, int(density n))
    outliers    of the n entries by falling magnitude those after the first g, as many as int(density n);
                g = int(gamma n), or as many as there are to spare if those are fewer
    chance      each with probability ``density``, by draws keyed by (seed, input, tensor, range)
    all, none   density 1 and more, 0

Equal magnitudes go by position, the first first (core/topk.py). mergekit's order among equals is that of an unstable
sort, so the two can differ there, and nowhere else. Its draws come from a global generator and cannot be had again;
ours do not depend on what else is merged, nor on the order.

Shape legend: n elements of the tensor, m of a range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from dtheta.core.seeds import generator, uniform
from dtheta.core.topk import Threshold, threshold

Trimmed = Callable[[Tensor], Tensor]  # the ranges of a tensor, in order
Steps = Iterable[Tensor]  # the same, that can be iterated over anew


@dataclass(frozen=True)
class Whole:
    """Keeps everything."""

    def visit(self) -> Trimmed:
        """Return what trims the ranges of one visit, in order."""
        return lambda step_m: step_m


@dataclass(frozen=True)
class Nothing:
    """Keeps nothing."""

    def visit(self) -> Trimmed:
        """Return what trims the ranges of one visit, in order."""
        return torch.zeros_like


@dataclass(frozen=True)
class Largest:
    """Keeps the entries up to one threshold, without those up to another."""

    kept: Threshold
    dropped: Threshold | None = None

    def visit(self) -> Trimmed:
        """Return what trims the ranges of one visit, in order."""
        kept = _Above(self.kept)
        if self.dropped is None:
            return kept
        dropped = _Above(self.dropped)
        return lambda step_m: kept(step_m).sub_(dropped(step_m))


class _Above:
    """The entries above a threshold, and the first of those equal to it."""

    def __init__(self, found: Threshold) -> None:
        self.above = found.above
        self.ties = found.ties

    def __call__(self, step_m: Tensor) -> Tensor:
        kept_m = hardshrink(step_m, self.above)
        if self.ties:
            equal = (step_m.abs() == self.above).nonzero().flatten()[: self.ties]
            kept_m[equal] = step_m[equal]
            self.ties -= equal.numel()
        return kept_m


@dataclass(frozen=True)
class Chance:
    """Keeps each entry with a probability.

    Attributes:
        density: The probability.
        seed: Of the merge.
        name: Of what is drawn for: input and tensor.
    """

    density: float
    seed: int
    name: str

    def visit(self) -> Trimmed:
        """Return what trims the ranges of one visit, in order."""
        place = iter(range(1 << 62))

        def trim(step_m: Tensor) -> Tensor:
            draws = uniform(step_m.shape, 0.0, 1.0, generator(self.seed, self.name, next(place)))
            return step_m * (draws < self.density)

        return trim


Trim = Whole | Nothing | Largest | Chance


def by_magnitude(steps: Steps, total: int, density: float) -> Trim:
    """Return the trimming that keeps the largest entries; visits the steps up to twice, as float32."""
    if density >= 1 or not total:
        return Whole()
    return Nothing() if density <= 0 else Largest(threshold(steps, max(1, int(density * total))))


def without_outliers(steps: Steps, total: int, density: float, gamma: float) -> Trim:
    """Return the trimming of Breadcrumbs; visits the steps up to four times, as float32."""
    if density >= 1 or not total:
        return Whole()
    count = int(density * total)
    dropped = min(int(gamma * total), total - count)
    if not count:
        return Nothing()
    return Largest(threshold(steps, dropped + count), threshold(steps, dropped) if dropped else None)
