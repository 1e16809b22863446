"""A claim of a paper, what was measured for it here, and whether it holds.

    holds              the interval lies wholly on the claimed side of the bound
    does not hold      it lies wholly on the other side
    not shown          it contains the bound
    not testable here  nothing was run, for a reason that is given

A claim of a difference is about 0, one of a ratio about 1, one of a level about that level. Interval and outcome come
from the numbers alone; nobody writes an outcome down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from dtheta.errors import ConfigError
from dtheta.score.interval import Interval, mean_interval, paired_interval

Outcome = Literal["holds", "does not hold", "not shown", "not testable here"]
Side = Literal["above", "below"]
_LARGEST = 700.0  # whose exponential a float holds
EXACT = "exact"  # how an interval of a quantity without sampling error is had
OUTCOMES: tuple[Outcome, ...] = ("holds", "does not hold", "not shown", "not testable here")


@dataclass(frozen=True)
class Claim:
    """What a paper says.

    Attributes:
        name: Short name, unique within its system.
        says: The claim, in a sentence of ours that can be true or false.
        paper: The paper's models, data and number.
    """

    name: str
    says: str
    paper: str


@dataclass(frozen=True)
class Row:
    """What was measured for a claim.

    Attributes:
        claim: The claim.
        here: Model, data and budget of what was run here; empty where nothing was.
        found: The measured quantity with its 95 % interval; None where nothing was run.
        unit: Its unit, e.g. "points", "nats", "times".
        bound: What the claim compares the quantity with, in that unit.
        side: On which side of the bound the claim puts it.
        note: What a reader has to know beside it; where nothing was run, why.
    """

    claim: Claim
    here: str = ""
    found: Interval | None = None
    unit: str = ""
    bound: float = 0.0
    side: Side = "above"
    note: str = ""

    def __post_init__(self) -> None:
        if self.found is None and not self.note:
            raise ConfigError(f"{self.claim.name}: nothing was run, so the note must say why")
        if self.found is not None and not self.here:
            raise ConfigError(f"{self.claim.name}: 'here' must say what was run")

    @property
    def outcome(self) -> Outcome:
        """Whether the claim holds here."""
        if self.found is None:
            return "not testable here"
        below, above = self.found.high < self.bound, self.found.low > self.bound
        if self.side == "below":
            below, above = above, below
        return "holds" if above else "does not hold" if below else "not shown"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON holds it; a bound of an interval that is not finite is None."""
        found = self.found
        ends = None if found is None else [_finite(found.low), _finite(found.high)]
        return {
            "claim": self.claim.name, "says": self.claim.says, "paper": self.claim.paper, "here": self.here,
            "estimate": None if found is None else _finite(found.estimate), "interval": ends,
            "method": None if found is None else found.method, "unit": self.unit, "side": self.side,
            "bound": self.bound, "outcome": self.outcome, "note": self.note,
        }  # fmt: skip


def in_words(found: Interval, number: Callable[[float, int], str]) -> str:
    """Return an estimate with what is known of its error: nothing of one run, and none of what is exact.

    Args:
        found: The quantity.
        number: Writes a number with so many significant digits.
    """
    if found.method == EXACT:
        return number(found.estimate, 4)
    if not math.isfinite(found.high):
        return f"{number(found.estimate, 3)} (one run)"
    return f"{number(found.estimate, 3)} [{number(found.low, 3)}, {number(found.high, 3)}]"


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean over seeds with its t interval; one seed has an estimate and bounds at infinity."""
    return mean_interval(values) if len(values) > 1 else alone(values[0])


def percent(values: Sequence[float]) -> Interval:
    """Return the mean over seeds of values from 0 to 100, with its t interval cut to what such a mean can be."""
    found = over_seeds(values)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 100.0)) if len(values) > 1 else found


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Return the mean of ours minus theirs over the same seeds, tasks or draws, with its t interval."""
    if len(ours) == len(theirs) == 1:
        return alone(ours[0] - theirs[0])
    return paired_interval(ours, theirs)


def geometric(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of ratios with the t interval of their logarithms; of one, bounds at 0 and infinity."""
    logs = over_seeds([math.log(ratio) for ratio in ratios])
    low, high = (math.exp(end) if end < _LARGEST else math.inf for end in (logs.low, logs.high))
    return Interval(math.exp(logs.estimate), low, high, logs.level, logs.method)


def alone(value: float) -> Interval:
    """Return a value of one run: an estimate of which nothing bounds the error, so that it shows no claim."""
    return Interval(value, -math.inf, math.inf, method="one run")


def exact(value: float) -> Interval:
    """Return a value without sampling error: a count, a size, the largest error of an identity."""
    return Interval(value, value, value, method=EXACT)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
