"""Report: what happened while coefficients were learned, epoch by epoch, and why those that came out were kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """One epoch; number 0 is the start, before any step.

    Attributes:
        number: From 0.
        loss: Mean training loss; None for epoch 0.
        scores: What was measured after it, by name; empty without a metric.
    """

    number: int
    loss: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """How coefficients were learned.

    Attributes:
        epochs: All of them, the start included.
        best: Number of the epoch whose coefficients were kept.
        feasible: False if no epoch kept what it had to keep (negation), so that the coefficients are zeros.
        reason: Why it ended where it did.
    """

    epochs: tuple[Epoch, ...]
    best: int
    feasible: bool = True
    reason: str = "all epochs were run"
