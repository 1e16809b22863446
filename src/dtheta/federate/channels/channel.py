"""Channel: what carries a payload from one party to another, and what it says of the transmission."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from dtheta.adapt.fields import settle_fields
from dtheta.federate.payload import Payload
from dtheta.score import Interval


@dataclass(frozen=True)
class Verdict:
    """What a test of a quantum transmission found.

    Attributes:
        checked: Qubits whose bits both sides compared.
        errors: How many of these differ.
        qber: Quantum bit error rate, errors / checked, with its Wilson interval at 1 - significance; None if nothing
            arrived that could be compared.
        expected: Error rate that the channel is known to have.
        p_value: Probability of as many errors or more at the expected rate.
        reason: Why the transmission is given up; None if it is not.
        key_rate: Secret bits a pulse (weak pulses) or a sifted bit (single photons); None where no key is made.
        single_yield: Lower bound of the yield of single-photon pulses, where decoy states were sent.
        single_error: Upper bound of their error rate, likewise.
    """

    checked: int
    errors: int
    qber: Interval | None
    expected: float
    p_value: float
    reason: str | None = None
    key_rate: float | None = None
    single_yield: float | None = None
    single_error: float | None = None

    @property
    def aborted(self) -> bool:
        """Whether the transmission is given up."""
        return self.reason is not None

    def refused(self, reason: str) -> Verdict:
        """Return the verdict with a reason to give up, unless it has one."""
        return self if self.aborted else dataclasses.replace(self, reason=reason)


@dataclass(frozen=True)
class Delivery:
    """What came of a transmission.

    Attributes:
        payload: What arrived; None if nothing did.
        seconds: How long it took.
        verdict: Of the test for eavesdropping, where the channel makes one.
        reason: Why nothing arrived, such as "lost" or "aborted: ..."; None if something did.
        qubits: Qubits that were sent: those of the payload, decoys and key, also what was lost or given up.
    """

    payload: Payload | None
    seconds: float = 0.0
    verdict: Verdict | None = None
    reason: str | None = None
    qubits: int = 0


@dataclass(frozen=True)
class Channel(ABC):
    """A channel; its fields are its configuration. `channel_of` makes one from a name or a mapping."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        settle_fields(self)

    @abstractmethod
    def send(self, payload: Payload, *, seed: int, key: str) -> Delivery:
        """Send a payload.

        Args:
            payload: What is sent.
            seed: The user's seed.
            key: Which transmission this is, such as "3/alice/up"; with the seed, it fixes every draw.

        Raises:
            ConfigError: If the channel cannot carry such a payload.
        """

    def to_dict(self) -> dict[str, Any]:
        """Return name and fields as plain values; `channel_of` reads them."""
        return {"name": self.name, **dataclasses.asdict(self)}
