"""What replacing MLPs gave: the delta, the error and the cost of every MLP before and after, where it does not pay.

error        sum |y - y'|^2 / sum |y - mean y|^2 on held-out inputs: 0 exact, 1 what the mean of the outputs does
parameters   numbers held; random features are drawn again from their seed and do not count
flops        2 for every multiplication and addition of a matrix product, for one input
latency      seconds of the MLP alone, by batch size (inputs, such as tokens), on this machine (see latency.py)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dtheta.core.delta import Delta

_FASTER = 0.95  # a share of the time before above which nothing is said to be gained: the clock is no better


@dataclass(frozen=True)
class Cost:
    """What an MLP costs: numbers held, flops of one input, and seconds by batch size."""

    parameters: int
    flops: int
    latency: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Replaced:
    """One MLP and what stands in for it.

    Attributes:
        name: Of the MLP.
        error: Relative squared error of the outputs on held-out inputs.
        calibration_error: The same on the inputs that it was fitted to; None for low rank.
        ridge: The penalty of the fit.
        examples: Inputs it was fitted to.
        before: Cost of the MLP.
        after: Cost of what stands in.
    """

    name: str
    error: float
    calibration_error: float | None
    ridge: float
    examples: int
    before: Cost
    after: Cost


@dataclass(frozen=True, eq=False)
class Replacement:
    """A model's MLPs replaced.

    Attributes:
        delta: Attach it to the model: ``dt.attach(model, replacement.delta)``; ``dt.fit`` trains it further.
        mlps: One by one, in the order of the model.
        output_error: Relative squared error of the whole model's output on the held-out batches, all MLPs replaced.
    """

    delta: Delta
    mlps: tuple[Replaced, ...]
    output_error: float

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers held by the MLPs before, and by what stands in for them."""
        return self._sums(lambda cost: cost.parameters)

    @property
    def flops(self) -> tuple[int, int]:
        """Flops of one input before and after."""
        return self._sums(lambda cost: cost.flops)

    @property
    def latency(self) -> dict[int, tuple[float, float]]:
        """Seconds before and after by batch size, of all these MLPs."""
        sizes = self.mlps[0].before.latency
        return {n: self._sums(lambda cost, n=n: cost.latency[n]) for n in sizes}

    def _sums(self, of: Callable[[Cost], Any]) -> tuple[Any, Any]:
        return sum(of(mlp.before) for mlp in self.mlps), sum(of(mlp.after) for mlp in self.mlps)

    def verdict(self) -> list[str]:
        """Return in words where replacing does not pay; empty where it pays everywhere that was measured."""
        lines = []
        for what, (before, after) in (("numbers", self.parameters), ("flops", self.flops)):
            if after >= before:
                lines.append(f"does not pay in {what}: {after:,} in place of {before:,}")
        slow = [n for n, (before, after) in self.latency.items() if after > _FASTER * before]
        if slow:
            shown = ", ".join(f"{n} ({self.latency[n][1] / self.latency[n][0]:.2f}x the time)" for n in slow)
            lines.append(f"does not pay in time at batch {shown}")
        if lost := [mlp.name for mlp in self.mlps if mlp.error > 0.5]:
            lines.append(
                f"loses more than half of what {len(lost)} of {len(self.mlps)} MLPs do, {lost[0]} among them: a wider "
                "one or further training is needed"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the delta, as plain values."""
        return {
            "mlps": [dataclasses.asdict(mlp) for mlp in self.mlps],
            "output_error": self.output_error,
            "parameters": list(self.parameters),
            "flops": list(self.flops),
            "latency": {n: list(pair) for n, pair in self.latency.items()},
            "verdict": self.verdict(),
        }
