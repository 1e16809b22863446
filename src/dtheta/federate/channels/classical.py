"""Classical channel: bits arrive as they were sent, later, or not at all.

    seconds = latency + bits / bandwidth

A payload is lost as a whole; a lost one has taken its latency. Whoever listens to a classical channel is not noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dtheta.core.arguments import number
from dtheta.core.seeds import generator, uniform
from dtheta.errors import ConfigError
from dtheta.federate.channels.channel import Channel, Delivery
from dtheta.federate.payload import Payload
from dtheta.federate.quantum.noise import probability


@dataclass(frozen=True)
class Classical(Channel):
    """A channel for bits.

    Attributes:
        loss: Probability that a payload is lost.
        latency: Seconds until the first bit arrives.
        bandwidth: Bits a second; None if bits take no time.
    """

    loss: float = 0.0
    latency: float = 0.0
    bandwidth: float | None = None
    name: ClassVar[str] = "classical"

    def __post_init__(self) -> None:
        super().__post_init__()
        probability(self.loss, "loss")
        if number(self.latency, "latency") < 0:
            raise ConfigError(f"latency is {self.latency}; expected seconds, 0 or more")
        if self.bandwidth is not None and number(self.bandwidth, "bandwidth") <= 0:
            raise ConfigError(f"bandwidth is {self.bandwidth}; expected bits a second above 0, or null")

    def send(self, payload: Payload, *, seed: int, key: str) -> Delivery:
        """Send a payload; a quantum state is refused."""
        if payload.copies is not None:
            raise ConfigError(
                "a quantum state does not pass a classical channel; take channel=Quantum(kilometers=0), or a codec of "
                "bits such as 'ternary'"
            )
        if float(uniform((), 0.0, 1.0, generator(seed, f"channel/{key}/loss"))) < self.loss:
            return Delivery(None, self.latency, None, "lost")
        return Delivery(payload, self.latency + (payload.bits / self.bandwidth if self.bandwidth else 0.0))
