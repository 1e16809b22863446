"""History: what happened in every round of a federation, as plain numbers that go to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        round: Counted from 1.
        asked: Clients that got a task in it.
        answered: Clients whose answers were joined in it.
        excluded: Why others were not, by client: one word of ``message.REASONS``, then details.
        skipped: Why the global delta stayed as it was; None where it moved.
        replies: Payloads that clients sent.
        bits_up: Bits of the payloads from clients, also of those that were lost; headers of messages are not in it.
        bits_down: The same to clients.
        qubits: Qubits that travelled, either way, those for keys and tests among them.
        scores: What ``evaluate`` said of the global delta after the round; empty where it was not asked.
        metrics: Means, by examples, of what the answering clients measured.
        norm: Length of the update.
        staleness: Mean number of updates that the joined answers had missed.
        qber: Largest quantum bit error rate of the round; None without a test.
        epsilon: Privacy spent up to here; None without.
        seconds: Wall time.
        transfer: Seconds that the slowest client's payloads took, as simulated.
    """

    round: int
    asked: Sequence[str]
    answered: Sequence[str]
    excluded: Mapping[str, str]
    skipped: str | None = None
    replies: int = 0
    bits_up: int = 0
    bits_down: int = 0
    qubits: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    norm: float = 0.0
    staleness: float = 0.0
    qber: float | None = None
    epsilon: float | None = None
    seconds: float = 0.0
    transfer: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Round:
        """Return the round that ``to_dict`` described."""
        return cls(**record)
