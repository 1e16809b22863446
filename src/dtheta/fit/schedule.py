"""The learning rate as a pure function of the step: no state, so a resumed run cannot be out of step.

    warmup     (t + 1) / (w + 1)                         for t < w; the first step is never wasted on a rate of zero
    cosine     (1 + cos(pi u)) / 2,   u = (t - w) / (T - w)
    linear     1 - u
    constant   1

Shape legend: t step from 0, T steps of the run, w steps of warmup.
"""

from __future__ import annotations

import math

from dtheta.fit.settings import Schedule


def factor(t: int, steps: int, warmup: int, schedule: Schedule) -> float:
    """Return what the highest rate is multiplied with at update ``t``, counted from 0; in (0, 1]."""
    if t < warmup:
        return (t + 1) / (warmup + 1)
    u = (t - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * u))
    return 1.0 - u if schedule == "linear" else 1.0
