"""Record: what happened in a training run, as plain numbers that go to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Evaluation:
    """Scores on the evaluation data after ``step`` updates; step 0 is the untrained adapter."""

    step: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """The history of a run.

    Attributes:
        losses: (step, loss); the loss of step k, counted from 1, is the one before its update.
        lr: (step, highest learning rate of all groups at that step).
        evals: evaluations in order; the first is at step 0.
        best: the evaluation whose terms the adapter holds now; None without evaluations.
        metric: name of the score that decides what is best; None without evaluations.
        better: "higher" or "lower": which direction of that score is an improvement.
        steps: optimizer steps done.
        seconds: wall time, with that of the runs that this one resumed.
        stop: why it ended: "steps" (all done), "patience" or "callback".
        config: settings, method, loss, metric, number of processes and digest of the base.
    """

    losses: list[tuple[int, float]] = field(default_factory=list)
    lr: list[tuple[int, float]] = field(default_factory=list)
    evals: list[Evaluation] = field(default_factory=list)
    best: Evaluation | None = None
    metric: str | None = None
    better: str = "lower"
    steps: int = 0
    seconds: float = 0.0
    stop: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)

    def with_(self, **changes: Any) -> Record:
        """Return a record with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def stale(self) -> int:
        """Return how many evaluations there were since the best one."""
        return 0 if self.best is None else sum(e.step > self.best.step for e in self.evals)

    def improves(self, scores: Mapping[str, float]) -> bool:
        """Tell whether scores are better than the best so far; of equal ones the lower loss is."""
        return self.best is None or self._rank(scores) > self._rank(self.best.scores)

    def _rank(self, scores: Mapping[str, float]) -> tuple[float, float]:
        assert self.metric is not None, "set by the first evaluation"
        value = scores[self.metric]
        return (value if self.better == "higher" else -value, -scores.get("loss", 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Record:
        """Return the record that ``to_dict`` described."""
        fields = dict(found)
        fields["losses"] = [(int(step), float(value)) for step, value in found["losses"]]
        fields["lr"] = [(int(step), float(value)) for step, value in found["lr"]]
        fields["evals"] = [Evaluation(**item) for item in found["evals"]]
        fields["best"] = None if found["best"] is None else Evaluation(**found["best"])
        return cls(**fields)
