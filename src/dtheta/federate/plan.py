"""Plan: what a federation does, round after round."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from dtheta.federate.asynchronous import Asynchronous
from dtheta.federate.channels.channel import Channel
from dtheta.federate.codecs import Codec
from dtheta.federate.privacy import Privacy
from dtheta.federate.secure.ternary import Secure


@dataclass(frozen=True)
class Plan:
    """What a federation does; the fields mean what they mean in ``federate``."""

    rounds: int
    codec: Codec
    channel: Channel
    downlink: Codec
    sample: float
    dropout: float
    evaluate_every: int
    asynchronous: Asynchronous | None
    privacy: Privacy | None
    secure: Secure | None
    timeout: float | None
    min_clients: int
    patience: int
    seed: int

    def at_work(self, clients: int) -> int:
        """Return how many of the clients train at a time."""
        return max(1, round(self.sample * clients))

    def most_skipped(self, clients: int) -> int:
        """Return how many updates in a row may fail: asynchronously, those that ``patience`` rounds would make up."""
        each = 1 if self.asynchronous is None else math.ceil(self.at_work(clients) / self.asynchronous.buffer)
        return self.patience * each

    def to_dict(self) -> dict[str, Any]:
        """Return what two runs must share to be one; not how long they are, nor how patient."""
        free = ("rounds", "timeout", "patience")
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in free}
        return {name: plain(value) for name, value in found.items()}


def plain(value: Any) -> Any:
    """Return a part of a plan as plain values."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
