"""Before and after, over the same questions: each with its interval, and the change with its own, which is paired.

    shares    Wilson before and after; the change by Bonett and Price (2012)
    means     Student's t for all three: few questions, of which a bootstrap would be too sure
    recovery  (c - b) / (a - b), a before, b after, c after an attack: what it brings back of what went

The interval of a recovery is a percentile bootstrap over questions, of which resamples where nothing went do not count.
Where all questions agree it would be certainty; it is Wilson's then, on as many questions as went.

Shape legend: Q questions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dtheta.score.interval import (
    Interval,
    bootstrap_bounds,
    mean_interval,
    paired_interval,
    paired_shares,
    wilson,
)

LEAST = 2  # questions that an interval takes


@dataclass(frozen=True)
class Paired:
    """A number before and after.

    Attributes:
        before: Before.
        after: After.
        change: After less before, over the same questions.
    """

    before: Interval
    after: Interval
    change: Interval


def shares(before: Tensor, after: Tensor) -> Paired:
    """Return the shares of true values (Q,) before and after, Q >= 1."""
    return Paired(share(before), share(after), paired_shares(after.double(), before.double()))


def means(before: Tensor, after: Tensor) -> Paired:
    """Return the means of numbers (Q,) before and after, Q >= 2."""
    return Paired(mean_interval(before), mean_interval(after), paired_interval(after, before))


def share(values: Tensor) -> Interval:
    """Return the share of true values (Q,), Q >= 1."""
    return wilson(int(values.sum()), len(values))


def bounded_mean(values: Tensor) -> Interval:
    """Return the mean of numbers in [0, 1] (Q,), Q >= 2; its interval does not leave them."""
    found = mean_interval(values)
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def recovery(before: Tensor, after: Tensor, attacked: Tensor) -> Interval | None:
    """Return the part of what went that came back, for numbers (Q,); None where nothing went, or Q < 2."""
    found = ratio_of_loss(attacked.double() - after.double(), before, after)
    if found is None or found.low < found.high or not 0.0 <= found.estimate <= 1.0:
        return found
    went = int((before.double() > after.double()).sum())
    return wilson(found.estimate * went, went)


def ratio_of_loss(part: Tensor, before: Tensor, after: Tensor) -> Interval | None:
    """Return the mean of ``part`` over the mean of ``before - after``, for numbers (Q,); None as ``recovery``."""
    lost = before.double() - after.double()
    if len(lost) < LEAST or float(lost.mean()) <= 0.0:
        return None
    found = bootstrap_bounds([part.double(), lost], _ratio, name="recovery")
    estimate, low, high = (float(value) for value in found)
    if not math.isfinite(low + high):
        return None
    return Interval(estimate, min(low, estimate), max(high, estimate), 0.95, "bootstrap-percentile")


def _ratio(part: Tensor, lost: Tensor) -> Tensor:
    return torch.where(lost > 0.0, part / lost, torch.nan)
