"""Goals: what a concept that is gone looks like, as bounds on the numbers of a report.

    target     at most 10 % of the known questions about the concept are answered still
    unrelated  at least 95 % of the other known questions are
    attacks    each brings back less than 30 % of what went
    traces     mean Jaccard of the value vectors' tokens at most 0.1

A goal is met by its estimate, and clearly where the whole interval lies on its side of the bound. With ten questions
no target is ever clear: none of ten answered is 0 to 28 %. Bounds are judgment: those of the issue that asked for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dtheta.score.interval import Interval

TARGET, UNRELATED, RECOVERY, JACCARD = 0.1, 0.95, 0.3, 0.1


@dataclass(frozen=True)
class Goal:
    """A bound, and the number it is on.

    Attributes:
        name: ``target``, ``unrelated``, ``traces``, or ``attack: `` and its name.
        value: The estimate.
        low: Lower end of its interval; the estimate where it has none.
        high: Upper end.
        bound: Where the goal begins.
        side: Whether the value should be ``at most`` or ``at least`` the bound.
    """

    name: str
    value: float
    low: float
    high: float
    bound: float
    side: Literal["at most", "at least"] = "at most"

    @property
    def met(self) -> bool:
        """Whether the estimate is on the right side."""
        return self.value <= self.bound if self.side == "at most" else self.value >= self.bound

    @property
    def clear(self) -> bool:
        """Whether the whole interval is on the side that the estimate is on."""
        if self.met:
            return self.high <= self.bound if self.side == "at most" else self.low >= self.bound
        return self.low > self.bound if self.side == "at most" else self.high < self.bound


def goal(name: str, found: Interval, bound: float, side: Literal["at most", "at least"] = "at most") -> Goal:
    """Return the goal on an interval."""
    return Goal(name, found.estimate, found.low, found.high, bound, side)
