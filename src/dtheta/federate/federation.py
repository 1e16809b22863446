"""Federation: what came out of one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dtheta.core.delta import Delta
from dtheta.federate.history import Round


@dataclass(frozen=True, eq=False)
class Federation:
    """The result of a federation.

    Attributes:
        delta: The global delta, relative to the base: ``dt.applied``, ``dt.merge`` and ``save`` take it.
        history: Its rounds.
        config: What it was configured as.
        parameters: Entries of all parameters that travelled.
    """

    delta: Delta
    history: Sequence[Round]
    config: Mapping[str, Any]
    parameters: int

    @property
    def scores(self) -> Mapping[str, float]:
        """What ``evaluate`` said last; empty if it was never asked."""
        return next((row.scores for row in reversed(self.history) if row.scores), {})

    @property
    def figures(self) -> dict[str, Any]:
        """Sums over the rounds: bits, qubits, answers, reasons of exclusion, privacy, time.

        ``times_fewer_bits`` is 32 bits an entry and answer, against what the answers took; None where none came.
        """
        bits_up = sum(row.bits_up for row in self.history)
        reasons = Counter(why.partition(":")[0] for row in self.history for why in row.excluded.values())
        sent = sum(row.replies for row in self.history)
        return {
            "rounds": len(self.history),
            "skipped": sum(row.skipped is not None for row in self.history),
            "answers": sum(len(row.answered) for row in self.history),
            "excluded": dict(reasons),
            "parameters": self.parameters,
            "bits_up": bits_up,
            "bits_down": sum(row.bits_down for row in self.history),
            "qubits": sum(row.qubits for row in self.history),
            "times_fewer_bits": 32 * self.parameters * sent / bits_up if bits_up else None,
            "qber": max((row.qber for row in self.history if row.qber is not None), default=None),
            "epsilon": self.history[-1].epsilon if self.history else None,
            "seconds": sum(row.seconds for row in self.history),
            "scores": dict(self.scores),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all but the delta as plain values; of that, its digest."""
        return {
            "config": dict(self.config),
            "figures": self.figures,
            "history": [row.to_dict() for row in self.history],
            "delta": self.delta.digest,
        }

    def to_json(self) -> str:
        """Return ``to_dict`` as JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def __repr__(self) -> str:
        score = "".join(f", {name} {value:.4g}" for name, value in self.scores.items())
        return f"Federation({len(self.history)} rounds, {self.figures['bits_up']:,} bits up{score}, {self.delta!r})"
