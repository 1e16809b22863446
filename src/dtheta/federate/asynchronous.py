"""Asynchronous federation: the server goes on as answers arrive, and old ones count less.

    weight of an answer = (1 + tau)^-exponent,   tau = updates since the version that it was trained from
    G <- G + mixing * joined answers,            mixing = buffer / clients at work

With a buffer of one this is FedAsync (Xie, Koyejo and Gupta 2019, arXiv 1903.03934), with more FedBuff (Nguyen et al.
2022, arXiv 2106.06639); with a buffer of all clients at work it is the synchronous round. The default mixing makes as
many answers as there are clients at work move the global delta about as far as one synchronous round.

How long a client takes is simulated and drawn by key, so a run repeats to the bit: exp(spread z_client + spread/4 z)
units, with one normal z_client for the client and one z for the task, and what its payloads take on top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from dtheta.core.seeds import generator
from dtheta.federate.server.settings import Settings


@dataclass(frozen=True)
class Asynchronous(Settings):
    """How a federation runs without rounds; a row of the history is then one update.

    Attributes:
        exponent: Of the staleness weight; 0 for none.
        buffer: Answers that are joined to one update.
        mixing: Share of the joined answers that is taken; None for buffer / clients at work.
        spread: Of the clients' simulated speeds, up to 10; 0 makes all alike.
    """

    exponent: float = 0.5
    buffer: int = 1
    mixing: float | None = None
    spread: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.exponent >= 0, "exponent", "zero or more")
        self.require(self.buffer >= 1, "buffer", "one or more")
        self.require(self.mixing is None or self.mixing > 0, "mixing", "above zero, or None")
        self.require(0 <= self.spread <= 10, "spread", "from 0 to 10")

    def weight(self, staleness: int) -> float:
        """Return (1 + tau)^-exponent."""
        return (1 + staleness) ** -self.exponent

    def duration(self, client: str, round: int, seed: int) -> float:
        """Return how long a client takes for a task."""
        own = _normal(seed, f"federate/{client}/speed")
        return math.exp(self.spread * (own + _normal(seed, f"federate/{round}/{client}/duration") / 4))


def _normal(seed: int, name: str) -> float:
    return float(torch.randn((), generator=generator(seed, name), dtype=torch.float64))
