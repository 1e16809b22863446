"""Scale: data -> pixels, with ticks on round numbers.

linear   p = start + (v - low) / (high - low) (end - start)
log      the same on log10 v
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dtheta.errors import NonFinite
from dtheta.report.quantity import fixed, significant, typographic


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to [start, end] pixels; ``ticks`` are the values to label."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of ``value``."""
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.logarithmic else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def inside(self, value: float) -> float:
        """Pixel of ``value``, or of the end of the scale that it lies beyond: a t interval of a share may leave it."""
        return self(min(max(value, self.low), self.high))

    def labels(self, percent: bool = False) -> list[str]:
        """The ticks as text, all with the same number of decimals."""
        factor = 100 if percent else 1
        ticks = [factor * tick for tick in self.ticks]
        if self.logarithmic or len(ticks) < 2:
            return [significant(tick, 3) for tick in ticks]
        step, largest = ticks[1] - ticks[0], max(map(abs, ticks))
        decimals = next((d for d in range(7) if abs(round(step, d) - step) < 1e-3 * step), None)
        if decimals is not None and largest < 1e6:
            return [fixed(tick, decimals) for tick in ticks]
        digits = 2 + math.floor(math.log10(largest)) - math.floor(math.log10(step))
        return [typographic(f"{tick:.{digits - 1}e}") for tick in ticks]


def linear_scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    ticks: int = 5,
    zero: bool = False,
    bounds: tuple[float, float] = (-math.inf, math.inf),
    tight: bool = False,
    whole: bool = False,
) -> Scale:
    """A linear scale over ``values`` and, with ``zero``, over 0; round ends (unless ``tight``) inside ``bounds``.

    With ``whole`` all ticks are whole numbers.
    """
    found = _finite(values)
    low, high = min(found + [0.0] * zero), max(found + [0.0] * zero)
    if low == high:
        pad = abs(low) / 2 or 1.0
        low, high = (low - (0 if zero and low == 0 else pad), high + pad)
        low, high = max(low, bounds[0]), min(high, bounds[1])
        low, high = (low, high) if low < high else (low - pad, high + pad)
    step = round_step((high - low) / max(1, ticks - 1))
    if whole and step % 1:
        step = max(1.0, 2 * step)  # of 2.5 five
    if not tight:
        low, high = (
            max(bounds[0], math.floor(low / step + 1e-9) * step),
            min(bounds[1], math.ceil(high / step - 1e-9) * step),
        )
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, start, end, tuple(k * step for k in range(first, last + 1)))


def log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A logarithmic scale over positive ``values``; ticks at 1 (and 2, 5 when there are few decades)."""
    found = _finite(values)
    if min(found) <= 0:
        raise NonFinite(f"logarithmic axis: expected positive values, found {min(found)}")
    low, high = math.log10(min(found)), math.log10(max(found))
    low, high = (low - 0.05, high + 0.05) if high - low > 0.3 else (low - 0.3, high + 0.3)
    decades = range(math.floor(low), math.ceil(high) + 1)
    steps = (1.0,) if high - low > 2.5 else (1.0, 3.0) if high - low > 1.2 else (1.0, 2.0, 5.0)
    every = max(1, math.ceil((high - low) / 5))
    ticks = [digit * 10.0**decade for decade in decades if decade % every == 0 for digit in steps]
    return Scale(10**low, 10**high, start, end, tuple(t for t in ticks if 10**low <= t <= 10**high), True)


def spread(values: Iterable[float]) -> bool:
    """Whether positive values span so much (a factor of 30) that a logarithmic axis reads better."""
    found = list(values)
    return bool(found) and min(found) > 0 and max(found) / min(found) > 30


def round_step(rough: float) -> float:
    """The nearest 1, 2, 2.5 or 5 times a power of ten that is not below ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(step for step in (1, 2, 2.5, 5, 10) if rough <= step * power * (1 + 1e-9))


def _finite(values: Iterable[float]) -> list[float]:
    found = [float(value) for value in values]
    bad = [value for value in found if not math.isfinite(value)]
    if bad or not found:
        what = f"{len(bad)} of {len(found)} values are NaN or infinite" if found else "there are no values"
        raise NonFinite(f"axis: {what}; a chart needs finite numbers")
    return found
