"""All parties of a secure sum in one process, message by message: for a federation that runs in one, and for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dtheta.errors import ConfigError, FormatError
from dtheta.federate.secure.client import SecureClient
from dtheta.federate.secure.server import SecureServer, conducted
from dtheta.federate.secure.session import Phase, Session, default_threshold

Drop = Literal["keys", "shares", "masked", "unmask"]


@dataclass(frozen=True)
class SecureSum:
    """What a secure sum gave.

    Attributes:
        total: Exact sum (length,), int32.
        included: Names of the clients whose vectors are in it.
        bits: Bits that each client has sent, over all phases.
        received: Bits that each client was sent.
        reasons: Why a client left, by name.
    """

    total: Tensor
    included: list[str]
    bits: Mapping[str, int]
    received: Mapping[str, int]
    reasons: Mapping[str, str]


def secure_sum(
    vectors: Mapping[str, Tensor],
    threshold: int | None = None,
    *,
    round: int = 0,
    drops: Mapping[str, Drop] | None = None,
    tamper: Callable[[str, Phase, bytes], bytes] | None = None,
) -> SecureSum:
    """Return the exact sum of the vectors of the clients that last until they have sent theirs masked.

    Args:
        vectors: Of each client, (length,) integers -1, 0 and 1; all of one length.
        threshold: Clients that must last to the end; more than two thirds if None.
        round: Number of the round, part of the session's name.
        drops: The phase from which on a client is silent, by name.
        tamper: What becomes of a client's message on its way, from name, phase and message.

    Raises:
        ConfigError: With fewer than two clients, or a threshold that does not fit.
        ShapeMismatch: If vectors differ in length, or are no integers.
        BelowThreshold: If too few clients last.
        FormatError: If the sum cannot be unmasked because of a wrong share.
        MissingExtra: Without cryptography.
    """
    names = tuple(vectors)
    if unknown := sorted(set(drops or {}) - set(names)):
        raise ConfigError(f"{unknown[0]!r} is to leave, but is no client")
    length = len(vectors[names[0]]) if names else 0
    session = Session(names, default_threshold(len(names)) if threshold is None else threshold, length, round)
    return _Run(session, drops or {}, tamper).sum(vectors)


class _Run:
    def __init__(
        self, session: Session, drops: Mapping[str, Drop], tamper: Callable[[str, Phase, bytes], bytes] | None
    ) -> None:
        self.session, self.drops, self.tamper = session, drops, tamper
        self.clients = {name: SecureClient(session, name) for name in session.clients}
        self.sent, self.received = dict.fromkeys(session.clients, 0), dict.fromkeys(session.clients, 0)
        self.reasons: dict[str, str] = {}

    def sum(self, vectors: Mapping[str, Tensor]) -> SecureSum:
        """Run the four phases."""
        total, included = conducted(self.session, lambda server, texts: self._exchange(server, texts, vectors))
        return SecureSum(total, included, self._in_bits(self.sent), self._in_bits(self.received), self.reasons)

    def _exchange(
        self, server: SecureServer, messages: Mapping[str, bytes], vectors: Mapping[str, Tensor]
    ) -> Collection[str]:
        """Give every client its message, and the server the answer; return who has left."""
        phase = server.phase
        for name, text in messages.items():
            if self.drops.get(name) == phase.name.lower():
                self.reasons[name] = f"silent from phase {phase.name.lower()} on"
                continue
            self.received[name] += len(text)
            try:
                sent = self.clients[name].respond(phase, text, vectors[name])
                self.sent[name] += len(sent)
                server.receive(self.tamper(name, phase, sent) if self.tamper else sent)
            except FormatError as error:
                self.reasons[name] = f"phase {phase.name.lower()}: {error}"
        return self.reasons

    @staticmethod
    def _in_bits(nbytes: Mapping[str, int]) -> dict[str, int]:
        return {name: 8 * count for name, count in nbytes.items()}
