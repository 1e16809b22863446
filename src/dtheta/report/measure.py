"""Measure: what a job is scored by, and how such numbers, and gains over the baseline, read.

A gain is positive where the adapted model is better, whichever direction the score itself improves in.
"""

from __future__ import annotations

from dataclasses import dataclass

from dtheta.report.quantity import THIN, fixed, signed


@dataclass(frozen=True)
class Measure:
    """A score in words.

    Attributes:
        name: Of the score, as in "accuracy".
        unit: "%" for shares in [0, 1], which are then shown in percent; else the unit after the number.
        gain_unit: Unit of a gain: "points" for shares.
        baseline: What the adapted model is compared with, short.
        baseline_note: The same in full.
        examples: What it is measured on.
        better: "higher" or "lower".
    """

    name: str
    unit: str
    gain_unit: str
    baseline: str
    baseline_note: str
    examples: str
    better: str = "higher"

    @property
    def percent(self) -> bool:
        """Whether values are shares, shown in percent."""
        return self.unit == "%"

    @property
    def axis(self) -> str:
        """Name and unit, as on an axis."""
        return f"{self.name}, {self.unit}"

    def number(self, value: float) -> str:
        """A score without its unit."""
        return fixed(100 * value, 1) if self.percent else fixed(value, 3)

    def text(self, value: float) -> str:
        """A score with its unit."""
        return f"{self.number(value)}{THIN if self.percent else ' '}{self.unit}"

    def gain(self, value: float) -> str:
        """A signed gain without its unit."""
        return signed(100 * value, 1) if self.percent else signed(value, 3)


ACCURACY = Measure(
    name="accuracy",
    unit="%",
    gain_unit="points",
    baseline="frozen encoder",
    baseline_note="the frozen encoder with logistic regression on its embeddings",
    examples="test examples",
)

IMAGE_ACCURACY = Measure(
    name="accuracy",
    unit="%",
    gain_unit="points",
    baseline="zero-shot model",
    baseline_note="the model as it is, which knows the classes by their names alone (zero-shot)",
    examples="test images",
)

TOKEN_LOSS = Measure(
    name="loss",
    unit="nats a token",
    gain_unit="nats a token",
    baseline="unadapted model",
    baseline_note="the unadapted model",
    examples="held-out texts",
    better="lower",
)
